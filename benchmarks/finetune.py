"""What `cnncodes finetune` takes beside the same training in plain Keras, from pixels.

Usage: python benchmarks/finetune.py SOURCE NETWORK --weights FILE [--input-size 224] [--write]

Both train the same layers on as many images, in batches of the same size, with batch
normalization as it is, and measure as many images held out after each epoch; each is a process of
its own. Compared are the second epoch, since the first one builds graphs, and the peak memory of
the process with those it starts, added up at each moment (what they share is counted twice); for
`finetune` that includes computing the activations and making the app.
``--write`` puts the result into docs/finetune.md.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from page import machine, run_apart, table, write_section

from cnncodes.export.architectures import layers_of
from cnncodes.export.backbones import BACKBONES
from cnncodes.export.keras_onnx import keras_network
from cnncodes.export.keras_settings import own_keras
from cnncodes.export.weights import load_weights
from cnncodes.finetune.cuts import check_cut, layers_above
from cnncodes.finetune.finetune import finetune
from cnncodes.finetune.recipe import Recipe
from cnncodes.images.decoding import load_image
from cnncodes.images.sources import find_images
from cnncodes.machine import give_memory_back

DOCUMENT = Path(__file__).parent.parent / "docs" / "finetune.md"
N_EPOCHS = 2


class Memory(threading.Thread):
    """Measures 20 times a second what this process and its children have in memory (Linux)."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.megabytes = 0.0
        self.start()

    def run(self) -> None:
        """Measure until the process ends."""
        while True:
            tasks = Path("/proc/self/task").glob("*/children")
            children = [pid for each in tasks for pid in _text(each).split()]
            total = sum(_megabytes(pid) for pid in ["self", *children])
            self.megabytes = max(self.megabytes, total)
            time.sleep(0.05)


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError:  # a thread or process that has ended
        return ""


def _megabytes(pid: str) -> float:
    """Return the resident memory of a process in MB, with its share of what others map too."""
    match = re.search(r"^Pss:\s*(\d+) kB", _text(Path("/proc", pid, "smaps_rollup")), re.MULTILINE)
    return int(match[1]) / 1024 if match else 0.0


def run_ours(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Fine-tune with cnncodes, in the memory that the command takes."""
    give_memory_back()
    memory = Memory()
    result = finetune(
        options.source,
        options.network,
        work / "app.onnx",
        weights=options.weights,
        input_size=options.input_size,
        epochs=N_EPOCHS,
    )
    return {
        "epoch": result.epochs[N_EPOCHS].seconds,
        "megabytes": memory.megabytes,
        "activations": result.seconds["activations"],
        "n_train": result.n_train,
        "n_validation": result.n_validation,
        "from_layer": result.from_layer,
    }


def run_plain(options: argparse.Namespace, counts: list[int]) -> dict[str, Any]:
    """Train with Keras alone, from image files."""
    memory = Memory()
    spec, size = BACKBONES[options.network], options.input_size
    layers = layers_of(options.network, size)
    cut = check_cut(options.network, layers, None)
    trained = {layer.name for layer in layers_above(layers, cut)}
    weights = load_weights(spec, layers, options.weights, input_size=size, seed=0)
    images = find_images(options.source)
    n_classes, seconds = len(images.class_names), []
    order = np.random.default_rng(0).permutation(len(images.paths))
    files, labels = images.files(), np.array(images.labels)
    with own_keras() as keras:
        network = keras_network(keras, spec, layers, weights, [layers[-1].name], "avg")
        for layer in network.layers:
            layer.trainable = layer.name in trained and not isinstance(
                layer, keras.layers.BatchNormalization
            )
        dense = keras.layers.Dense(n_classes, activation="softmax")
        model = keras.Model(network.input, dense(network.output))
        model.compile(keras.optimizers.AdamW(Recipe.learning_rate), "categorical_crossentropy")
        prepare = getattr(keras.applications, spec.keras_module).preprocess_input

        class Batches(keras.utils.PyDataset):  # type: ignore[misc]
            def __init__(self, rows: np.ndarray) -> None:
                super().__init__()
                self.rows = np.array_split(rows, -(-len(rows) // Recipe.batch_size))

            def __len__(self) -> int:
                return len(self.rows)

            def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
                rows = self.rows[index]
                pixels = [load_image(0, files[row], size, 10**8).pixels for row in rows]
                return prepare(np.stack(pixels).astype("f4")), np.eye(n_classes)[labels[rows]]

        class Clock(keras.callbacks.Callback):  # type: ignore[misc]
            def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
                self.started = time.monotonic()

            def on_epoch_end(self, epoch: int, logs: object = None) -> None:
                seconds.append(time.monotonic() - self.started)

        n_train, n_validation = counts
        model.fit(
            Batches(order[:n_train]),
            validation_data=Batches(order[n_train : n_train + n_validation]),
            epochs=N_EPOCHS,
            callbacks=[Clock()],
            verbose=0,
        )
    return {"epoch": seconds[-1], "megabytes": memory.megabytes}


def main() -> None:
    """Measure both, and print or write the section."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("network", choices=list(BACKBONES))
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--input-size", type=int, default=224)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--ours", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--plain", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours:
        sys.stdout.write(json.dumps(run_ours(options, options.ours)) + "\n")
        return
    if options.plain:
        sys.stdout.write(json.dumps(run_plain(options, options.plain)) + "\n")
        return
    words = [options.source, options.network, "--weights", options.weights]
    words += ["--input-size", options.input_size]
    with tempfile.TemporaryDirectory() as name:
        ours = run_apart(__file__, *words, "--ours", name)
    plain = run_apart(__file__, *words, "--plain", ours["n_train"], ours["n_validation"])
    rows = [
        [name, f"{plain[key]:.0f}", f"{ours[key]:.0f}", f"{ours[key] / plain[key]:.2f}"]
        for key, name in (("epoch", "second epoch, s"), ("megabytes", "peak memory, MB"))
    ]
    text = table(["", "plain Keras, from pixels", "`cnncodes finetune`", "ratio"], rows)
    text += (
        f"\n{options.network} above {ours['from_layer']} at {options.input_size} pixels, "
        f"{ours['n_train']} images to train and {ours['n_validation']} to validate, batches of "
        f"{Recipe.batch_size}; the activations took {ours['activations']:.0f} s once.\n\n"
        f"{machine(['keras', 'tensorflow', 'onnxruntime'])}\n"
    )
    sys.stdout.write(text)
    if options.write:
        write_section("finetune", text, DOCUMENT)


if __name__ == "__main__":
    main()
