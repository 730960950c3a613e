"""From images to codes: cnncodes beside Keras, PyTorch and OpenVINO, and `cnncodes extract` itself.

Usage: python benchmarks/extract.py [--parts speed,files,scale,memory] [--networks …] [--write]

Needs the peers: pip install -e '.[export]' openvino nncf torch==2.13.0

Images are crops of the two photographs that come with scikit-learn. Weights are random, but for
networks whose Keras weights ``--weights`` names. Each measurement runs in a process of its own;
the contenders take turns. Results gather in ``--folder``, together with the networks made there,
so that the parts can run one by one; a part that runs again replaces its results. ``--write`` puts
all there are into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from extract_page import PACKAGES, page_text
from page import cnncodes, machine, peak_megabytes, run_apart, write_section
from peers import (
    CONTENDERS,
    KERAS_BATCH_SIZE,
    SESSION,
    SIZE,
    Contender,
    Images,
    Network,
    keras_function,
    session_as_it_comes,
)

N_READY = {"inception_v3": 128}  # images in memory; a slower network has fewer
N_READY_ELSE = 32
N_CALIBRATION = 128
N_MEMORY, N_HUGE, HUGE = 200, 20, (10_000, 10_000)
SECONDS = 3.0  # each contender computes so long, and a pass at least


@dataclass(frozen=True)
class Setup:
    """What all parts share.

    Attributes
    ----------
    folder : Path
        Where images, networks and results are.
    networks : list of str
        The networks of the part ``speed``.
    weights : dict of str to str
        Keras weights of networks; of others they are random.
    rounds : int
        How often each measurement is repeated.
    n_files : int
        Images of the part ``files``.
    scale : list of int
        Numbers of images of the part ``scale``.
    """

    folder: Path
    networks: list[str]
    weights: dict[str, str]
    rounds: int
    n_files: int
    scale: list[int]

    def network(self, name: str) -> Network:
        """Return a network."""
        return Network(self.folder, name, self.weights.get(name, "random"))


def crops(n_images: int, seed: int) -> Iterator[Any]:
    """Cut pieces of about 300 × 200 pixels from photographs, at random positions and scales."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(each) for each in load_sample_images().images]
    generator = np.random.default_rng(seed)
    for number in range(n_images):
        photograph = photographs[number % len(photographs)]
        width = int(generator.integers(200, 500))
        height = min(width * 2 // 3, photograph.height)
        left = int(generator.integers(photograph.width - width))
        top = int(generator.integers(photograph.height - height + 1))
        piece = photograph.crop((left, top, left + width, top + height))
        new_width = int(generator.integers(270, 330))
        yield piece.resize((new_width, new_width * 2 // 3))


def write_images(folder: Path, n_images: int, seed: int) -> Path:
    """Write crops as JPEG files, if the folder is not there yet."""
    if not folder.exists():
        folder.mkdir(parents=True)
        for number, image in enumerate(crops(n_images, seed)):
            image.save(folder / f"{number:06}.jpg", quality=90)
    return folder


def write_huge_images(folder: Path) -> Path:
    """Write a folder of small images among which twenty have 100 megapixels."""
    from PIL import Image

    if not folder.exists():
        write_images(folder, N_MEMORY, seed=2)
        large = next(crops(1, seed=3)).resize(HUGE, Image.Resampling.BILINEAR)
        large.save(folder / "000000-0.jpg", quality=90)
        for number in range(1, N_HUGE):
            os.link(folder / "000000-0.jpg", folder / f"{number:06}-huge.jpg")
    return folder


def resized(images: Iterable[Any]) -> Images:
    """Return images as a network takes them."""
    return np.stack([np.asarray(image.resize((SIZE, SIZE))) for image in images])


def prepare(network: Network) -> dict[str, Any]:
    """Make the files of a network that are not there yet, and codes to compare with."""
    for path, how in ((network.float32, "--winograd"), (network.plain, "--no-winograd")):
        if not path.exists():
            cnncodes("export", network.name, "--weights", network.weights, how, "-o", path)
    if not network.int8.exists():
        calibration = write_images(network.folder / "calibration", N_CALIBRATION, seed=1)
        cnncodes("quantize", network.float32, "--images", calibration, "-o", network.int8)
    if not network.nncf.exists():
        import nncf
        import openvino as ov

        data = nncf.Dataset([resized([image]) for image in crops(N_CALIBRATION, seed=1)])
        model = ov.Core().read_model(network.plain)
        quantized = nncf.quantize(model, data, subset_size=N_CALIBRATION)
        ov.save_model(quantized, network.nncf, compress_to_fp16=False)
    images = resized(crops(N_READY.get(network.name, N_READY_ELSE), seed=0))
    np.save(network.images, images)
    np.save(network.codes, session_as_it_comes(network, images, "plain")())
    return {"weights": weights_of(network.float32), "denormal": denormal_share(network.float32)}


def weights_of(path: Path) -> str:
    """Return the origin of a backbone's weights, from its metadata."""
    from cnncodes.extract.backbone import Backbone

    return Backbone(path).info.weights


def denormal_share(path: Path) -> float:
    """Return which share of all activations is denormal, on one image; these are slow."""
    import onnx
    import onnxruntime

    model = onnx.load(str(path))
    names = [node.output[0] for node in model.graph.node if node.op_type == "Relu"]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    images = resized(crops(1, seed=0))
    activations = [np.abs(each) for each in session.run(names, {"images": images})]
    smallest = np.finfo(np.float32).smallest_normal
    n_denormal = sum(int(((each > 0) & (each < smallest)).sum()) for each in activations)
    n_activations = sum(int(each.size) for each in activations)
    return n_denormal / n_activations


def measure_many(contender: Contender, network: Network) -> dict[str, float]:
    """Compute the codes of many images, again and again."""
    images = np.load(network.images)
    compute = contender.many(network, images)
    codes = compute()
    passes, started = 0, time.perf_counter()
    while passes == 0 or time.perf_counter() - started < SECONDS:
        compute()
        passes += 1
    rate = passes * len(images) / (time.perf_counter() - started)
    peak = peak_megabytes()
    from cnncodes.quantize.quantize import compare_codes

    cosine = compare_codes(np.load(network.codes), codes).cosine
    return {"rate": rate, "megabytes": peak, "cosine": cosine}


def measure_one(contender: Contender, network: Network, started: float) -> dict[str, float]:
    """Compute the codes of one image, again and again, and time the first one."""
    if contender.one is None:
        raise ValueError(f"{contender.label} has no way for one image")
    images = np.load(network.images, mmap_mode="r")
    compute = contender.one(network, np.array(images[:1]))
    compute()
    cold = time.time() - started
    durations: list[float] = []
    while sum(durations) < SECONDS:
        before = time.perf_counter()
        compute()
        durations.append(time.perf_counter() - before)
    p50, p95 = np.percentile(durations[1:] or durations, [50, 95])
    return {"cold": cold, "p50": float(p50), "p95": float(p95)}


def measure_extract(backbone: Path, source: Path, output: Path, started: float) -> dict[str, float]:
    """Run ``cnncodes extract``, as the command line does."""
    from cnncodes.cli import main as program

    arguments = ["extract", backbone, source, "-o", output, "--overwrite", "--json"]
    with redirect_stdout(io.StringIO()) as printed:
        program.main([str(each) for each in arguments], standalone_mode=False)
    whole = time.time() - started
    done = json.loads(printed.getvalue())
    n_images = done["n_images"] + len(done["skipped"])
    return {
        "rate": n_images / done["seconds"],
        "whole_rate": n_images / whole,
        "skipped": len(done["skipped"]),
        "megabytes": peak_megabytes(),
    }


def measure_collection(network: Network, source: Path) -> dict[str, float]:
    """Let Keras's ``predict`` compute the codes of a collection in one call, from memory."""
    from PIL import Image

    images = resized(map(Image.open, sorted(source.iterdir())))
    compute = keras_function(network, at_once=True)
    compute(images[:KERAS_BATCH_SIZE])
    started = time.perf_counter()
    compute(images)
    return {"rate": len(images) / (time.perf_counter() - started), "megabytes": peak_megabytes()}


class Results:
    """What was measured, in a JSON file: for each key a list with a result a round.

    Parameters
    ----------
    path : Path
        The file; made if absent.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.machine = machine(PACKAGES)
        self.runs: dict[str, list[dict[str, Any]]] = {}
        if path.exists():
            kept = json.loads(path.read_text("utf-8"))
            if kept["machine"] != self.machine:
                raise SystemExit(f"{path}: was measured on another machine; choose another folder")
            self.runs = kept["runs"]

    def forget(self, part: str) -> None:
        """Drop the results of a part, which is to be measured again."""
        self.runs = {key: runs for key, runs in self.runs.items() if not key.startswith(part + "/")}

    def add(self, key: str, result: dict[str, Any]) -> None:
        """Add a result and keep it on the disk."""
        self.runs.setdefault(key, []).append(result)
        kept = {"machine": self.machine, "runs": self.runs}
        self._path.write_text(json.dumps(kept, indent=1), "utf-8")
        sys.stderr.write(f"{key} {json.dumps(result)}\n")


def ask(network: Network, *arguments: object) -> dict[str, Any]:
    """Run one measurement in a process of its own."""
    asked = ("--measure", *arguments, "--network", json.dumps(asdict(network), default=str))
    return run_apart(__file__, *asked, "--started", time.time())


def run_speed(setup: Setup, results: Results) -> None:
    """Let the contenders take turns on images in memory."""
    for network in map(setup.network, setup.networks):
        part = f"speed/{network.name}"
        results.forget(part)
        results.add(f"{part}/network", ask(network, "prepare"))
        for _ in range(setup.rounds):
            for key, contender in CONTENDERS.items():
                results.add(f"{part}/many/{key}", ask(network, "many", key))
                if contender.one is not None:
                    results.add(f"{part}/one/{key}", ask(network, "one", key))


def run_files(setup: Setup, results: Results) -> None:
    """Let ``cnncodes extract`` on files take turns with others on images in memory."""
    network = setup.network("inception_v3")
    results.forget("files")
    ask(network, "prepare")
    source = write_images(setup.folder / f"images-{setup.n_files}", setup.n_files, seed=4)
    output = setup.folder / "codes.h5"
    for _ in range(setup.rounds):
        for precision in ("float32", "int8"):
            bare = ask(network, "many", f"{SESSION} ({precision})")
            results.add(f"files/{precision}/bare", bare)
            done = ask(network, "extract", getattr(network, precision), source, output)
            results.add(f"files/{precision}/extract", done)
        results.add("files/keras", ask(network, "collection", source))
    output.unlink()


def run_scale(setup: Setup, results: Results) -> None:
    """Extract ever more images, which a CSV file repeats."""
    network = setup.network("inception_v3")
    results.forget("scale")
    ask(network, "prepare")
    folder = write_images(setup.folder / "images-200", 200, seed=5)
    names = sorted(each.name for each in folder.iterdir())
    output = setup.folder / "codes.h5"
    for n_images in setup.scale:
        source = setup.folder / f"scale-{n_images}.csv"
        rows = (
            f"{folder.name}/{names[number % len(names)]},{number % 2}\n"
            for number in range(n_images)
        )
        source.write_text("path,label\n" + "".join(rows), "utf-8")
        result = ask(network, "extract", network.int8, source, output)
        results.add(f"scale/{n_images}", result)
    output.unlink()


def run_memory(setup: Setup, results: Results) -> None:
    """Extract with several networks, with and without huge images in the folder."""
    results.forget("memory")
    plain = write_images(setup.folder / "plain", N_MEMORY, seed=2)
    huge = write_huge_images(setup.folder / "huge")
    output = setup.folder / "codes.h5"
    for name in ("inception_v3", "vgg19"):
        network = setup.network(name)
        ask(network, "prepare")
        for precision in ("float32", "int8"):
            for source in (plain, huge):
                result = ask(network, "extract", getattr(network, precision), source, output)
                results.add(f"memory/{name}/{precision}/{source.name}", result)
    output.unlink()


PARTS = {"speed": run_speed, "files": run_files, "scale": run_scale, "memory": run_memory}


def measure(asked: Sequence[str], network: Network, started: float) -> dict[str, Any]:
    """Do one measurement; runs in a process of its own."""
    kind, *arguments = asked
    if kind == "prepare":
        return prepare(network)
    if kind == "collection":
        return measure_collection(network, Path(arguments[0]))
    if kind == "extract":
        backbone, source, output = map(Path, arguments)
        return measure_extract(backbone, source, output, started)
    contender = CONTENDERS[arguments[0]]
    if kind == "many":
        return measure_many(contender, network)
    return measure_one(contender, network, started)


def network_from_json(text: str) -> Network:
    """Return what `ask` passed on."""
    described = json.loads(text)
    return Network(**{**described, "folder": Path(described["folder"])})


def main() -> None:
    """Run the parts and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", default=",".join(PARTS), help="some of: %(default)s")
    parser.add_argument("--networks", default="inception_v3,vgg16,vgg19", help="for the part speed")
    parser.add_argument("--weights", default="", help="NAME=FILE,…: Keras weights of networks")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each measurement")
    parser.add_argument("--files", type=int, default=2000, help="images of the part files")
    parser.add_argument("--scale", default="200,2000,20000", help="images of the part scale")
    parser.add_argument("--folder", type=Path, help="where results are kept and networks made")
    parser.add_argument("--write", action="store_true", help="put it into docs/benchmarks.md")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--network", type=network_from_json, help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        result = measure(options.measure, options.network, options.started)
        sys.stdout.write("\n" + json.dumps(result))
        return
    folder = options.folder or Path(tempfile.mkdtemp())
    folder.mkdir(exist_ok=True)
    setup = Setup(
        folder=folder,
        networks=options.networks.split(","),
        weights=dict(each.split("=", 1) for each in options.weights.split(",") if each),
        rounds=options.rounds,
        n_files=options.files,
        scale=[int(each) for each in options.scale.split(",")],
    )
    results = Results(folder / "results.json")
    for part in filter(None, options.parts.split(",")):
        PARTS[part](setup, results)
    text = page_text(results.machine, results.runs)
    sys.stdout.write(text)
    if options.write:
        write_section("extract", text)


if __name__ == "__main__":
    main()
