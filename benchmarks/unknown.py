"""How well images of none of the classes are recognised, and what that costs.

Usage: python benchmarks/unknown.py CODES.h5 FOREIGN.h5 [--seeds 3] [--app BACKBONE]

CODES is a codes file of labelled images, FOREIGN one of images of none of their classes by the
same backbone: each of its classes is a row of the table. For each seed a head is trained on 75 %
of CODES and evaluated on the rest; the score does not depend on the head, so that an epoch of SGD
will do. With ``--app``, apps with and without the score are compared in size and time.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from page import machine, table

from cnncodes.app.bundle import bundle
from cnncodes.app.classifier import Classifier
from cnncodes.evaluate.evaluate import evaluate
from cnncodes.head.train import train_head
from cnncodes.models.session import noise_images

N_ROUNDS = 15
QUICK = {"epochs": 1}
SHARE = 0.05


def measure(codes: Path, foreign: Path, seeds: int, folder: Path) -> list[list[str]]:
    """Return a row for each class of FOREIGN: its name, AUROC and refused shares, least to most."""
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for seed in range(seeds):
        head = folder / f"{seed}.onnx"
        train_head(
            codes,
            head,
            estimator="sgd",
            sgd=QUICK,
            train_fraction=0.75,
            seed=seed,
            unknown=SHARE,
        )
        metrics = evaluate(head, codes, unknown=foreign).unknown
        assert metrics is not None
        for each in metrics.classes:
            numbers = (each.auroc, each.refused, metrics.refused_known)
            rows.setdefault(each.label, []).append(numbers)
    described = []
    for label, runs in rows.items():
        auroc, refused, known = np.sort(np.array(runs), axis=0).T
        described.append(
            [
                codes.name,
                label,
                f"{auroc.mean():.4f} ({auroc[0]:.4f})",
                f"{refused.mean():.1%}",
                f"{known.mean():.1%} ({known[0]:.1%} to {known[-1]:.1%})",
            ]
        )
    return described


def compare_apps(backbone: Path, codes: Path, folder: Path) -> str:
    """Return in a sentence what the score adds to an app."""
    apps = {}
    for name, share in (("without", None), ("with", SHARE)):
        head, app = folder / f"{name}-head.onnx", folder / f"{name}.onnx"
        train_head(codes, head, estimator="sgd", sgd=QUICK, unknown=share)
        bundle(backbone, head, app)
        apps[name] = Classifier(app)
    sizes = [app.path.stat().st_size for app in apps.values()]
    images = noise_images(4, apps["with"].input_size)
    times: dict[str, list[float]] = {name: [] for name in apps}
    for _ in range(N_ROUNDS):
        for name, app in apps.items():
            started = time.process_time()
            app.predict_each(images)
            times[name].append(time.process_time() - started)
    fastest = [min(each[1:]) for each in times.values()]
    return (
        f"The app grows by {(sizes[1] - sizes[0]) / 1e6:.2f} MB of {sizes[0] / 1e6:.0f}; four "
        f"images take {fastest[1] / fastest[0] - 1:+.1%} processor time (fastest of {N_ROUNDS})."
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("codes", type=Path, help="codes of labelled images")
    parser.add_argument("foreign", type=Path, help="codes of images of none of their classes")
    parser.add_argument("--seeds", type=int, default=3, help="draws of the training images")
    parser.add_argument("--app", type=Path, metavar="BACKBONE", help="compare apps with it")
    options = parser.parse_args()
    header = ["codes", "images of no class", "AUROC (least)", "refused", "refused of the test part"]
    with TemporaryDirectory() as folder:
        rows = measure(options.codes, options.foreign, options.seeds, Path(folder))
        sys.stdout.write(f"Machine: {machine(['scikit-learn'])}.\n\n{table(header, rows)}")
        if options.app is not None:
            sys.stdout.write(f"\n{compare_apps(options.app, options.codes, Path(folder))}\n")


if __name__ == "__main__":
    main()
