"""What extract.py measured, laid out as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from page import medians, table, weights_text
from peers import CONTENDERS, KERAS_ON_BATCH, KERAS_PREDICT

PACKAGES = ("numpy", "onnxruntime", "keras", "tensorflow", "torch", "openvino", "nncf")

# Images per second, those of cnncodes divided by a peer's, that are aimed at.
BESIDE_KERAS = {
    ("inception_v3", "float32"): 1.35,
    ("inception_v3", "int8"): 4.6,
    ("vgg19", "float32"): 1.6,
    ("vgg19", "int8"): 6.5,
}
BESIDE_OPENVINO = {
    ("inception_v3", "float32"): 0.95,
    ("vgg16", "float32"): 0.95,
    ("vgg19", "float32"): 0.95,
    ("inception_v3", "int8"): 0.92,
    ("vgg16", "int8"): 0.95,
    ("vgg19", "int8"): 0.95,
}
BESIDE_SESSION = {"float32": 0.93, "int8": 0.85}
MOST_MEGABYTES = {
    ("vgg19", "float32"): 700,
    ("vgg19", "int8"): 300,
    ("inception_v3", "float32"): 450,
    ("inception_v3", "int8"): 300,
}

Runs = Mapping[str, Sequence[dict[str, Any]]]


def page_text(machine: str, runs: Runs) -> str:
    """Lay out all that was measured; what was not is left out."""
    parts = [f"Machine: {machine}.\n"]
    names = list(dict.fromkeys(key.split("/")[1] for key in runs if "/many/" in key))
    parts += [speed(name, runs) for name in names]
    if names:
        parts.append(targets(names, runs))
    for lay_out, part in ((files, "files"), (scale, "scale"), (memory, "memory")):
        if measured := below(part, runs):
            parts.append(lay_out(measured))
    return "\n".join(parts)


def below(part: str, runs: Runs) -> dict[str, dict[str, Any]]:
    """Return the medians of a part's results, by what follows the part in their keys."""
    return {
        key.removeprefix(f"{part}/"): medians(each)
        for key, each in runs.items()
        if key.startswith(f"{part}/")
    }


def speed(name: str, runs: Runs) -> str:
    """Lay out the contenders on images in memory."""
    (network,) = runs[f"speed/{name}/network"]
    many, one = below(f"speed/{name}/many", runs), below(f"speed/{name}/one", runs)
    keras = many[f"{KERAS_ON_BATCH} (float32)"]["rate"]
    n_runs = max(len(each) for key, each in runs.items() if key.startswith(f"speed/{name}/"))
    rows = []
    for key, measured in many.items():
        contender = CONTENDERS[key]
        row = [
            *(contender.label, contender.precision, f"{measured['rate']:.1f}"),
            *(f"{measured['rate'] / keras:.2f} ×", f"{measured['megabytes']:,.0f} MB"),
            f"{measured['cosine']:.4f}",
        ]
        if key in one:
            row += [f"{one[key][which] * 1000:.0f} ms" for which in ("p50", "p95")]
            row.append(f"{one[key]['cold']:.1f} s")
        rows.append(row + ["–"] * (9 - len(row)))
    header = ["contender", "precision", "images per second", "beside Keras on batches"]
    header += ["peak memory", "cosine to float32", "one image, p50", "p95", "first code after"]
    denormal = f"{network['denormal']:.2%}" if network["denormal"] else "none"
    return f"""\
**{name}**, {weights_text(network["weights"])} weights, medians of {n_runs} runs. Of the \
activations, {denormal} are denormal.

{table(header, rows)}"""


def targets(names: Sequence[str], runs: Runs) -> str:
    """Lay out the ratios of cnncodes to its peers, beside the goals."""
    rows = []
    for name in names:
        many = below(f"speed/{name}/many", runs)
        for precision in ("float32", "int8"):
            own = best(many, "cnncodes", precision)
            for peer, label, goals in (
                (f"{KERAS_PREDICT} (float32)", "", BESIDE_KERAS),
                (f"{KERAS_ON_BATCH} (float32)", "", {}),
                (best(many, "openvino", precision), "the best of OpenVINO: ", BESIDE_OPENVINO),
            ):
                goal = goals.get((name, precision))
                beside = f"{label}{CONTENDERS[peer].label.removeprefix('OpenVINO, ')}"
                pair = [runs[f"speed/{name}/many/{key}"] for key in (own, peer)]
                ratio = ratio_text([a["rate"] / b["rate"] for a, b in zip(*pair, strict=True)])
                rows.append([name, precision, beside, ratio, f"≥ {goal:.2f} ×" if goal else "–"])
    header = ["network", "cnncodes in", "beside", "images per second (range)", "aimed at"]
    return f"""\
Images per second, those of cnncodes divided by a peer's in the same round; the median of the \
rounds:

{table(header, rows)}"""


def ratio_text(ratios: Sequence[float]) -> str:
    """Return the median and the range of the ratios of several rounds."""
    return f"{median(ratios):.2f} × ({min(ratios):.2f} to {max(ratios):.2f})"


def best(many: Mapping[str, dict[str, Any]], engine: str, precision: str) -> str:
    """Return the key of an engine's quickest contender in a precision."""
    keys = [
        key
        for key in many
        if (CONTENDERS[key].engine, CONTENDERS[key].precision) == (engine, precision)
    ]
    return max(keys, key=lambda key: float(many[key]["rate"]))


def files(measured: Mapping[str, dict[str, Any]]) -> str:
    """Lay out ``extract`` on files beside the bare session and Keras."""
    rows = []
    keras = measured["keras"]["rate"]
    for precision, goal in BESIDE_SESSION.items():
        bare, done = measured[f"{precision}/bare"], measured[f"{precision}/extract"]
        rows.append(
            [
                *(precision, f"{bare['rate']:.1f}", f"{done['rate']:.1f}"),
                *(f"{done['rate'] / bare['rate']:.0%}", f"≥ {goal:.0%}"),
                f"{done['whole_rate'] / bare['rate']:.0%}",
                f"{done['rate'] / keras:.2f} ×",
            ]
        )
    header = ["inception_v3", "session, images per second", "extract", "share", "aimed at"]
    header += ["with the start of the process", "beside Keras"]
    return f"""\
`cnncodes extract` from JPEG files to a codes file, beside others on images in memory: \
onnxruntime as it comes, and Keras's `predict`, in one call for all of them, of \
{keras:.1f} images per second:

{table(header, rows)}"""


def scale(measured: Mapping[str, dict[str, Any]]) -> str:
    """Lay out ``extract`` on more and more images."""
    rows = [
        [f"{int(n_images):,}", f"{each['rate']:.1f}", f"{each['megabytes']:,.0f} MB"]
        for n_images, each in measured.items()
    ]
    return f"""\
`cnncodes extract` with inception_v3 in int8 on more and more images:

{table(["images", "images per second", "peak memory"], rows)}"""


def memory(measured: Mapping[str, dict[str, Any]]) -> str:
    """Lay out the memory of ``extract``."""
    rows = []
    for (name, precision), goal in MOST_MEGABYTES.items():
        peaks = [measured[f"{name}/{precision}/{which}"] for which in ("plain", "huge")]
        peak_texts = [f"{each['megabytes']:,.0f} MB" for each in peaks]
        rows.append([name, precision, *peak_texts, f"≤ {goal} MB"])
    header = ["network", "precision", "small images", "twenty of 100 megapixels too", "aimed at"]
    return f"""\
Peak memory of `cnncodes extract`, of the whole process:

{table(header, rows)}"""
