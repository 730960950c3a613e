"""Which runtimes compute an app, and how near they are to onnxruntime.

Usage: python benchmarks/runtimes.py APP.onnx... --images FOLDER [--python PYTHON]...
                                     [--node FOLDER] [--write]

Each PYTHON is that of an environment with numpy and any of onnxruntime, openvino, opencv, tract and
onnx; FOLDER has onnxruntime-node or onnxruntime-web in its node_modules. The images are classified
one by one; a cell has how many of them get the label that onnxruntime gives here with the same
file, and the largest difference of a probability. Each cell is a process of its own, so that one
that crashes costs no other; why it failed goes to standard error. ``--write`` puts the table into
docs/runtimes.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from page import PAGE, table, write_section

Images = Any  # uint8 (n_images, S, S, 3)
SECONDS = 300  # for one cell; the evaluator in Python takes many for an image
RUNNER = Path(__file__).with_suffix(".mjs")


def onnxruntime(app: str, images: Images) -> Iterator[Any]:
    """Onnxruntime, whatever its version."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    session = onnxruntime.InferenceSession(app, providers=["CPUExecutionProvider"])
    for image in images:
        yield session.run(["probabilities"], {"images": image[np.newaxis]})[0]


def openvino(app: str, images: Images, **settings: str) -> Iterator[Any]:
    """OpenVINO as it is."""
    import openvino

    model = openvino.Core().compile_model(app, "CPU", settings)
    for image in images:
        yield model(image[np.newaxis])["probabilities"]


def openvino_f32(app: str, images: Images) -> Iterator[Any]:
    """OpenVINO, told not to compute in bfloat16."""
    return openvino(app, images, INFERENCE_PRECISION_HINT="f32")


def opencv(app: str, images: Images) -> Iterator[Any]:
    """OpenCV's dnn module, with the engine that it chooses."""
    import cv2

    network = cv2.dnn.readNetFromONNX(app)
    for image in images:
        network.setInput(image[np.newaxis], "images")
        yield network.forward("probabilities")


def tract(app: str, images: Images) -> Iterator[Any]:
    """Sonos's tract, which wants the shape of the input."""
    import tract

    model = tract.onnx().load(app)
    size = images.shape[1]
    model.set_input_fact(0, f"1,{size},{size},3,u8")
    runnable = model.into_model().into_runnable()
    for image in images:
        yield runnable.run([image[np.newaxis]])[0].to_numpy()


def reference(app: str, images: Images) -> Iterator[Any]:
    """Onnx's ReferenceEvaluator, in Python; one image is enough of it."""
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(app)
    for image in images[:1]:
        yield evaluator.run(["probabilities"], {"images": image[np.newaxis]})[0]


# For each runtime the module whose version it has.
RUNTIMES: dict[str, tuple[Callable[[str, Images], Iterator[Any]], str]] = {
    "onnxruntime": (onnxruntime, "onnxruntime"),
    "openvino": (openvino, "openvino"),
    "openvino f32": (openvino_f32, "openvino"),
    "opencv": (opencv, "cv2"),
    "tract": (tract, "tract"),
    "ReferenceEvaluator": (reference, "onnx"),
}
NODE = ("onnxruntime-node", "onnxruntime-web")


def run_cell(runtime: str, app: str, pixels: str, result: str) -> None:
    """Run one cell in this process."""
    rows = [np.ravel(row) for row in RUNTIMES[runtime][0](app, np.load(pixels))]
    np.save(result, np.asarray(rows, np.float32))


def python_cell(python: str, runtime: str, app: Path, images: Images) -> Any:
    """Return the probabilities that a runtime of another environment computes."""
    with tempfile.TemporaryDirectory() as folder:
        pixels, result = Path(folder, "pixels.npy"), Path(folder, "result.npy")
        np.save(pixels, images)
        _run([python, __file__, "--cell", runtime, str(app), str(pixels), str(result)])
        return np.load(result)


def node_cell(packages: Path, name: str, app: Path, images: Images) -> Any:
    """Return the probabilities that a package of Node computes."""
    with tempfile.TemporaryDirectory() as folder:
        pixels, result = Path(folder, "pixels"), Path(folder, "result")
        pixels.write_bytes(np.ascontiguousarray(images).tobytes())
        words = [name, app.resolve(), pixels, result, images.shape[1]]
        _run(["node", str(RUNNER.resolve()), *map(str, words)], cwd=packages)
        return np.frombuffer(result.read_bytes(), np.float32).reshape(len(images), -1)


def _run(command: list[str], **options: Any) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=SECONDS, **options
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        errors = [line for line in lines if "Error" in line or "error" in line]
        raise RuntimeError((errors or lines)[-1])


def python_version(python: str, module: str) -> str:
    """Return the version of a module; empty where it is absent."""
    code = (
        "import importlib.metadata as m, importlib, sys\nname = sys.argv[1]\n"
        "package = next(iter(m.packages_distributions().get(name, [])), '')\n"
        "print(m.version(package) if package else '')"
    )
    done = subprocess.run([python, "-c", code, module], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def node_version(packages: Path, name: str) -> str:
    """Return the version of a package of Node."""
    content = (packages / "node_modules" / name / "package.json").read_text("utf-8")
    return str(json.loads(content)["version"])


def compare(expected: Any, compute: Callable[[], Any]) -> str:
    """Return the text of a cell."""
    try:
        actual = compute()
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        sys.stderr.write(f"{error}\n")
        return "fails"
    expected = expected[: len(actual)]
    n_same = int((actual.argmax(axis=1) == expected.argmax(axis=1)).sum())
    difference = float(np.abs(actual - expected).max())
    return f"{n_same} of {len(actual)}, {f'{difference:.0e}' if difference else 'equal'}"


def compare_all(
    apps: list[Path], folder: Path, pythons: list[str], node: Path | None
) -> Iterator[list[str]]:
    """Yield the rows of the table, the heading first."""
    from cnncodes import Classifier
    from cnncodes.images.decoding import load_image
    from cnncodes.images.limits import DEFAULT_MAX_PIXELS
    from cnncodes.images.sources import find_images

    cases = []
    for app in apps:
        classifier = Classifier(app)
        size = classifier.input_size
        loaded = [
            load_image(0, path, size, DEFAULT_MAX_PIXELS) for path in find_images(folder).files()
        ]
        images = np.stack([each.pixels for each in loaded if each.pixels is not None])
        cases.append((app, images, classifier.predict_proba(images)))
    yield ["runtime", *(app.stem for app in apps)]
    contenders: list[tuple[str, Callable[[Path, Images], Any]]] = [
        (f"{name} {version}", partial(python_cell, python, name))
        for python in pythons
        for name, (_, module) in RUNTIMES.items()
        if (version := python_version(python, module))
    ]
    if node:
        contenders += [
            (f"{name} {node_version(node, name)}", partial(node_cell, node, name))
            for name in NODE
            if (node / "node_modules" / name).is_dir()
        ]
    for name, compute in contenders:
        yield [name, *(compare(wanted, partial(compute, *case)) for *case, wanted in cases)]


def main() -> None:
    """Print the table, or run one cell of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("apps", type=Path, nargs="*")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--python", action="append", default=[])
    parser.add_argument("--node", type=Path)
    parser.add_argument("--cell", nargs=4)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.cell:
        run_cell(*options.cell)
        return
    pythons = options.python or [sys.executable]
    header, *rows = compare_all(options.apps, options.images, pythons, options.node)
    text = table(header, rows)
    sys.stdout.write(text)
    if options.write:
        write_section("runtimes", text, PAGE.with_name("runtimes.md"))


if __name__ == "__main__":
    main()
