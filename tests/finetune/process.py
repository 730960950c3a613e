"""What the tests of fine-tuning compute in a process with TensorFlow, all in one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

NETWORK = "vgg16"
OPTIONS: dict[str, Any] = {
    "weights": "random",
    "input_size": 32,
    "from_layer": "block5_conv2",
    "epochs": 3,
    "learning_rate": 1e-4,
    "batch_size": 4,  # so that an epoch takes a while
}


def tune(source: str, folder: str) -> None:
    """Fine-tune without an interrupt and with one; write what is known of each as JSON."""
    from cnncodes.finetune.checkpoint import Epoch
    from cnncodes.finetune.finetune import finetune

    def stop(epoch: Epoch) -> None:
        if epoch.number == 1:
            raise KeyboardInterrupt

    results = {}
    notes: list[str] = []
    whole = finetune(
        source, NETWORK, Path(folder, "whole.onnx"), int8=True, on_note=notes.append, **OPTIONS
    )
    results["whole"] = {**whole.as_dict(), "plan": list(notes)}
    path = Path(folder, "resumed.onnx")
    # With frozen layers and activations of its own, but not computed again.
    shutil.copytree(
        Path(folder, "whole.finetune"),
        Path(folder, "resumed.finetune"),
        ignore=lambda parent, names: [each for each in names if Path(parent, each).is_dir()],
    )
    try:
        finetune(source, NETWORK, path, on_epoch=stop, **OPTIONS)
    except KeyboardInterrupt as interrupt:
        results["interrupt"] = {"message": str(interrupt), "is_written": path.exists()}
    notes.clear()
    resumed = finetune(source, NETWORK, path, on_note=notes.append, **OPTIONS)
    results["resumed"] = {**resumed.as_dict(), "plan": list(notes)}
    Path(folder, "results.json").write_text(json.dumps(results), "utf-8")


def check_top(folder: str) -> None:
    """Train a small top on soft targets and on weighted images; write the losses.

    Its codes are of two layers, pooled in two ways. Keras reads the weights it ends with, too.
    """
    from cnncodes.export.architectures import layers_of
    from cnncodes.export.backbones import BACKBONES
    from cnncodes.export.keras_settings import own_keras
    from cnncodes.export.keras_weights import write_weights
    from cnncodes.export.weights import random_weights
    from cnncodes.finetune.codes import Codes
    from cnncodes.finetune.recipe import Recipe
    from cnncodes.finetune.top import Top
    from cnncodes.head.linear import LinearHead

    layers = layers_of("mobilenet_v2", 32)
    weights = random_weights(layers, 0)
    results = {}
    random = np.random.default_rng(0)
    cut = "block_16_project_BN"
    codes = Codes.of(layers, ["out_relu", cut], "avg+max")
    with own_keras() as keras:
        top = Top(keras, BACKBONES["mobilenet_v2"], layers, weights, cut, codes)
        X = random.random((8, *top.input_shape), np.float32)
        scaling = codes.scaling(top.features(X))
        head = np.zeros((top.n_features, 2), np.float32), np.zeros(2, np.float32)
        top.attach(scaling, *head, Recipe(), 1)
        start = top.variables
        for name, targets, image_weights in (
            ("hard", np.eye(2)[np.arange(8) % 2], np.ones(8)),
            ("soft", np.full((8, 2), (0.2, 0.8)), np.ones(8)),
            ("first", np.full((8, 2), (1.0, 0.0)), np.arange(8) == 0),
        ):
            top.variables = start
            top.attach(scaling, *head, Recipe(), 1)
            arguments = (X, targets.astype(np.float32), image_weights.astype(np.float32), 2e-2)
            losses = [top.step(*arguments) for _ in range(100)]
            end = top.probabilities(X)
            by_head = LinearHead(*top.head)
            difference = np.abs(np.exp(by_head.log_probabilities(top.features(X))) - end).max()
            results[name] = {"losses": losses, "end": end.tolist(), "difference": float(difference)}
        moved = [
            variable.path
            for variable, before in zip(top._model.variables, start, strict=True)
            if not np.array_equal(np.array(variable), before)
        ]
        weights |= top.weights
        write_weights(layers, weights, Path(folder, "network.weights.h5"))
        network = keras.applications.MobileNetV2(
            include_top=False, weights=None, input_shape=(32, 32, 3)
        )
        network.load_weights(Path(folder, "network.weights.h5"))
        is_read = all(
            np.array_equal(read, written)
            for layer in network.layers
            for read, written in zip(layer.get_weights(), weights.get(layer.name, []), strict=True)
        )
    results["is_read"] = is_read
    Path(folder, "top.json").write_text(json.dumps({**results, "moved": moved}), "utf-8")
