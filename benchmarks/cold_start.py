"""Compare the time and memory to a program's first prediction with those of Keras.

Each program is started anew by ``python -c``, and timed from there until it has printed a label.
The model of Keras is the same network with the same head: its answer must be the same.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from page import machine, table, write_section

CNNCODES = """
from cnncodes import Classifier
best = Classifier({model!r}).predict({photo!r})[0]
print(best.label, best.probability, flush=True)
"""
KERAS = """
import keras
model = keras.models.load_model({model!r})
image = keras.utils.load_img({photo!r}, target_size=({size}, {size}), interpolation="bilinear")
pixels = keras.applications.inception_v3.preprocess_input(keras.utils.img_to_array(image))
probabilities = model.predict(pixels[None], verbose=0)[0]
print({labels!r}[probabilities.argmax()], probabilities.max(), flush=True)
"""
# As a person saves it who has trained a layer on top of the network.
SAVE = """
import keras
import onnx
from onnx import numpy_helper
tensors = onnx.load({app!r}).graph.initializer
weights = {{each.name: numpy_helper.to_array(each) for each in tensors}}
kernel, bias = weights["head/weights"].astype("float32"), weights["head/bias"]
network = keras.applications.InceptionV3(include_top=False, weights={weights!r},
                                         input_shape=({size}, {size}, 3))
head = keras.layers.Dense(len(bias), activation="softmax")
model = keras.Sequential([network, keras.layers.Flatten(), head])
head.set_weights([kernel, bias])
model.save({model!r})
"""


def first_prediction(program: str) -> tuple[float, float, str]:
    """Return the seconds and the MB to the first line of a program, and this line."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", f"{program}\ninput()"]  # lives until its memory is read
    start = time.perf_counter()
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - start
        if not line:
            raise SystemExit(f"{program}\nfailed")
        peak = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
        assert peak is not None
        process.stdin.write("\n")
    return seconds, int(peak[1]) / 1024, line


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all in turn, several times, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("apps", nargs="+", help="apps of InceptionV3 with spatial codes")
    parser.add_argument("--photo", required=True)
    parser.add_argument("--weights", default="imagenet", help="of Keras's network, without the top")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    given = parser.parse_args(arguments)

    from cnncodes import Classifier

    classifiers = [Classifier(app) for app in given.apps]
    names = [f"cnncodes, {each.info.backbone.precision}" for each in classifiers]
    sizes = [Path(app).stat().st_size for app in given.apps]
    programs = [CNNCODES.format(model=app, photo=given.photo) for app in given.apps]
    with tempfile.TemporaryDirectory() as folder:
        model = f"{folder}/model.keras"
        size = classifiers[0].input_size
        save = SAVE.format(app=given.apps[0], weights=given.weights, size=size, model=model)
        subprocess.run([sys.executable, "-c", save], check=True, stdout=subprocess.DEVNULL)
        labels = classifiers[0].labels
        keras = KERAS.format(model=model, photo=given.photo, size=size, labels=labels)
        names, programs = ["Keras", *names], [keras, *programs]
        sizes.insert(0, Path(model).stat().st_size)
        # The first round is not counted: it reads files that are not in the system's cache.
        rounds = [list(map(first_prediction, programs)) for _ in range(given.rounds + 1)][1:]
    answers = [{line for _, _, line in runs} for runs in zip(*rounds, strict=True)]
    if len({line.split()[0] for lines in answers for line in lines}) != 1:
        raise SystemExit(f"the labels differ: {answers}")
    rows = []
    for index, (name, n_bytes) in enumerate(zip(names, sizes, strict=True)):
        ratios = [runs[index][0] / runs[0][0] for runs in rounds]
        memory = [runs[index][1] / runs[0][1] for runs in rounds]
        rows.append(
            (
                *(name, f"{n_bytes / 1e6:.0f} MB"),
                f"{statistics.median(ratios):.3f} × ({min(ratios):.3f} to {max(ratios):.3f})",
                f"{statistics.median(memory):.3f} × ({min(memory):.3f} to {max(memory):.3f})",
                f"{float(next(iter(answers[index])).split()[1]):.4f}",
            )
        )
    seconds = statistics.median(runs[0][0] for runs in rounds)
    peak = statistics.median(runs[0][1] for runs in rounds)
    packages = ("onnxruntime", "keras", "tensorflow")
    text = (
        f"Machine: {machine(packages)}. Medians and ranges of {given.rounds} rounds, in which the "
        f"programs took turns. Ratios to Keras, which took {seconds:.1f} s and {peak:,.0f} MB "
        "here.\n\n"
        + table(["program", "file", "time", "peak memory", "probability of the label"], rows)
    )
    sys.stdout.write(text)
    if given.write:
        write_section("cold start", text)


if __name__ == "__main__":
    main()
