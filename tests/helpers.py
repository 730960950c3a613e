"""Files, networks and values that several tests use."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper
from PIL import Image

from cnncodes import CodeStore
from cnncodes.cli import main
from cnncodes.errors import (
    FileFormatError,
)
from cnncodes.evaluate.curve import Curve, CurvePoint
from cnncodes.extract.journal import Journal
from cnncodes.extract.writing import CodesInfo, Rows, encode_codes
from cnncodes.head.head_onnx import build_head
from cnncodes.images.sources import find_images
from cnncodes.models.metadata import BackboneInfo, HeadInfo, image_key


def run_command(*arguments: object, exit_code: int = 0, stdin: bytes | None = None) -> Result:
    """Run a command through click; fail unless it ends with `exit_code`."""
    result = CliRunner().invoke(main, [str(each) for each in arguments], input=stdin)
    assert result.exit_code == exit_code, result.output
    if exit_code == 1:
        assert result.stderr.splitlines()[-1].startswith("Error: ")
        assert "Traceback" not in result.output
        assert "--debug shows where" not in result.output  # reported on purpose, not by accident
    return result


def error_of(*arguments: object, stdin: bytes | None = None) -> str:
    """Run a command that must fail with exit code 1; return its one line of error."""
    return run_command(*arguments, exit_code=1, stdin=stdin).stderr.splitlines()[-1]


def run_process(
    *arguments: object, bound_by_permissions: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own; root may pass over permissions unless it gives up."""
    command = [sys.executable, "-m", "cnncodes", *map(str, arguments)]
    if bound_by_permissions and os.getuid() == 0:
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
    )


def run_program(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program of a page in a process of its own, which must succeed."""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def encode_image(image: Image.Image, layout: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, layout, **options)
    return buffer.getvalue()


IMAGE = b"\x89PNG\r\n\x1a\nenough to be listed"


def write_images(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(IMAGE)
    return folder


def write_colours(folder: Path, seed: int = 0) -> Path:
    """Write ten noisy squares of each of three colours into class folders."""
    random = np.random.default_rng(seed)
    for name, colour in {"b": (40, 60, 200), "g": (40, 200, 60), "red": (200, 60, 40)}.items():
        (folder / name).mkdir(parents=True)
        for number in range(10):
            pixels = (colour + random.normal(0, 40, (8, 8, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def find_labelled(source: Path) -> list[tuple[str, str]]:
    """Path and label of each image, as a person would list them."""
    images = find_images(source)
    assert all(0 <= label < len(images.class_names) for label in images.labels if label != -1)
    names = (*images.class_names, "")
    return [(path, names[label]) for path, label in zip(images.paths, images.labels, strict=True)]


def write_table(folder: Path, content: str | bytes) -> Path:
    path = folder / "list.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


NOBODY = 65534


@contextmanager
def unprivileged(folder: Path) -> Iterator[None]:
    """Be an ordinary user in `folder` for a moment: to root no permission means anything."""
    if os.getuid() != 0:
        yield
        return
    os.chown(folder, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def names_in(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


BACKBONE_SIZE = 4


BACKBONE_INFO = BackboneInfo(
    backbone="vgg16",
    weights="random:0",
    input_size=BACKBONE_SIZE,
    layer="mean",
    pool="avg",
    precision="float32",
    parity=0.0,
    parity_images="none",
    created_with="a test",
)


def write_backbone(
    path: Path,
    *,
    factor: float = 1.0,
    pooled: bool = True,
    metadata: dict[str, str] | None = None,
    shape: tuple[object, ...] = ("N", BACKBONE_SIZE, BACKBONE_SIZE, 3),
    names: tuple[str, str] = ("images", "codes"),
) -> Path:
    """Write the least of a backbone: its codes are the mean colour, or all, times `factor`."""
    images, codes = names
    code_shape = ("N", 3) if pooled else ("N", BACKBONE_SIZE, BACKBONE_SIZE, 3)
    nodes = [
        helper.make_node("Cast", [images], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers"], ["means"], axes=[1, 2], keepdims=0),
        # Named as the last node of an exported network is.
        helper.make_node("Mul", ["means" if pooled else "numbers", "factor"], [codes], name=codes),
    ]
    graph = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info(images, TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info(codes, TensorProto.FLOAT, code_shape)],
        [helper.make_tensor("factor", TensorProto.FLOAT, (), [factor])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, BACKBONE_INFO.to_metadata() if metadata is None else metadata)
    onnx.save(model, path)
    return path


def write_pooling_backbone(path):
    """Save a network that only averages squares of 15 × 15 pixels."""
    helper = onnx.helper
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node(
            "AveragePool", ["planes"], ["means"], kernel_shape=[15, 15], strides=[15, 15]
        ),
        helper.make_node("Transpose", ["means"], ["codes"], perm=[0, 2, 3, 1]),
    ]
    images = helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["N", 75, 75, 3])
    codes = helper.make_tensor_value_info("codes", onnx.TensorProto.FLOAT, ["N", 5, 5, 3])
    info = BackboneInfo("means", "random:0", 75, "pool", "none", "float32", 0.0, "none", "a test")
    graph = helper.make_graph(nodes, "means", [images], [codes])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])
    helper.set_model_props(model, info.to_metadata())
    onnx.save(model, str(path))


N_ROWS = 5


CODES = np.random.default_rng(0).normal(size=(N_ROWS, 2, 2, 3)).astype(np.float32)


LABELS = [0, 1, -1, 1, 0]


PATHS = [f"{index}.png" for index in range(N_ROWS)]


DIGESTS = [f"{index:064x}" for index in range(N_ROWS)]


SKIPPED = [("odd.png", "empty file"), ("öde.png", "damaged: 日本")]


def create_journal(path: Path, **options: object) -> Journal:
    """Start a journal."""
    values = {
        "backbone": BACKBONE_INFO,
        "backbone_sha256": "ab" * 32,
        "code_shape": (2, 2, 3),
        "dtype": "float32",
        "source": "photos",
        "class_names": ("cat", "dog"),
        "max_pixels": 1000,
    }
    return Journal.open(path, CodesInfo(**(values | options)), "the request")


def append_rows(journal: Journal, codes: np.ndarray = CODES, **options: object) -> None:
    values = {"labels": LABELS, "paths": PATHS, "digests": DIGESTS, "skipped": SKIPPED}
    chunks = encode_codes(codes, journal.info.dtype)
    journal.append(Rows(chunks, **(values | options)))


def write_store(path: Path, codes: np.ndarray = CODES, **info: object) -> Path:
    """Write a codes file."""
    with create_journal(path.with_suffix(".partial"), **info) as journal:
        append_rows(journal, codes)
        journal.finish(path)
    assert not journal.path.exists()
    return path


def refusal_of_store(path: Path) -> str:
    with pytest.raises(FileFormatError) as caught:
        CodeStore.open(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def write_codes(path: Path, X: np.ndarray, y: np.ndarray, **columns: object) -> Path:
    """Write a codes file; `columns` are those of `Rows`, such as weights."""
    names = tuple(f"{number:02}" for number in range(y.max() + 1))
    store = create_journal(path.with_suffix(".new"), code_shape=X.shape[1:], class_names=names)
    paths = [f"{index}.png" for index in range(len(X))]
    digests = [f"{index:064x}" for index in range(len(X))]
    rows = {"labels": y.tolist(), "paths": paths, "digests": digests, "skipped": []}
    append_rows(store, X, **(rows | columns))
    store.finish(path)
    return path


VGG16_INFO = BackboneInfo("vgg16", "random:0", 224, "pool", "avg", "float32", 1e-6, "noise", "test")


IMAGE_KEYS = frozenset({"0a" * 6, "ff" * 6})


HEAD_INFO = HeadInfo(
    ("cat", "dog"), {"estimator": "sgd"}, VGG16_INFO, "ab" * 32, IMAGE_KEYS, "test"
)


class InMemory:
    """Codes in an array, as `SGDSoftmax.train` takes them."""

    def __init__(self, X):
        self.X = X
        self.n_features = X.shape[1]

    def batches(self, order, size):
        for start in range(0, len(order), size):
            indices = order[start : start + size]
            yield indices, self.X[indices]


def info_of(head):
    metadata = {entry.key: entry.value for entry in onnx.load(str(head)).metadata_props}
    return HeadInfo.from_metadata(metadata, head)


def measure_head(head, codes, rows):
    """What onnxruntime finds when the head is run on some of the stored codes."""
    with CodeStore.open(codes) as store:
        X, names = store.codes[:][rows].astype(np.float32), np.array(store.class_names)
        truth = names[store.labels[rows]]
    session = onnxruntime.InferenceSession(str(head), providers=["CPUExecutionProvider"])
    probabilities = session.run(["probabilities"], {"codes": X})[0].astype(np.float64)
    labels = list(info_of(head).labels)
    columns = [labels.index(name) for name in truth]
    true = probabilities[np.arange(len(rows)), columns].clip(np.finfo(np.float32).eps)
    return {
        "n_images": len(rows),
        "loss": pytest.approx(-np.log(true).mean(), rel=1e-4),
        "accuracy": pytest.approx((probabilities.argmax(axis=1) == columns).mean(), abs=1e-9),
    }


def labels_in(codes):
    with CodeStore.open(codes) as store:
        return store.labels


def train_json(run, *arguments):
    return json.loads(run("train", *arguments, "--json").stdout)


CURVE_ORIGIN = {
    "backbone_sha256": "ab" * 32,
    "images_sha256": "cd" * 32,
    "split": "stratified",
    "train_fraction": 0.7,
    "seed": 2**32 - 1,
    "class_weight": None,
    "created_with": "a test",
}


CURVES = [
    Curve(
        codes="fo\udcff.h5",  # a file name need not be UTF-8
        backbone="vgg16",
        weights="imagenet",
        **CURVE_ORIGIN,
        n_classes=3,
        n_test=40,
        points=(
            CurvePoint(5, 15, 0.3, (0.5, 0.75, 0.625)),
            CurvePoint(10, 29, 10.0, (0.8, 0.8, 0.95)),
        ),
        notes=("1 of 3 classes have fewer than 10 training images: Zürich\n",),
    ),
    Curve(
        codes="b.h5",
        backbone="inception_v3",
        weights="random:0",
        **(CURVE_ORIGIN | {"split": "first", "class_weight": "balanced"}),
        n_classes=2,
        n_test=1,
        points=(CurvePoint(1, 2, 1.0, (1.0,)),),
        notes=(),
    ),
]


def make_curve(codes="codes.h5", backbone="vgg16", weights="imagenet", shift=0.0, n=6):
    points = [
        CurvePoint(2**power, 10 * 2**power, 1.0, (0.4 + 0.05 * power + shift, 0.5 + 0.05 * power))
        for power in range(n)
    ]
    named = {"codes": codes, "backbone": backbone, "weights": weights, "n_classes": 10}
    return replace(CURVES[0], **named, points=tuple(points), notes=())


EVALUATED_BACKBONE = BackboneInfo(
    "vgg16", "imagenet", 32, "pool", "avg", "float32", 1e-6, "noise", "a test"
)


EVALUATED_SHA256 = "ab" * 32


def digest_of(number):
    return hashlib.sha256(str(number).encode()).hexdigest()


def head_info(
    labels, trained=(), sha256=EVALUATED_SHA256, backbone=EVALUATED_BACKBONE, training=None
):
    return HeadInfo(
        labels=tuple(labels),
        training={"method": "logistic"} if training is None else training,
        backbone=backbone,
        backbone_sha256=sha256,
        training_images=frozenset(image_key(digest_of(number)) for number in trained),
        created_with="a test",
    )


def write_head(path, labels, **info):
    """A head whose probabilities are the softmax of its codes."""
    n = len(labels)
    weights, bias = np.eye(n, dtype=np.float32), np.zeros(n, np.float32)
    onnx.save(build_head(weights, bias, (n,), head_info(labels, **info)), str(path))
    return path


def write_labelled_codes(path, codes, labels, names, *, paths=None, skipped=(), source="photos"):
    """A codes file; the digest of image i is that of the text i."""
    codes = np.asarray(codes, np.float32)
    n = len(codes)
    info = {
        "backbone": EVALUATED_BACKBONE,
        "backbone_sha256": EVALUATED_SHA256,
        "class_names": tuple(names),
    }
    info |= {"code_shape": codes.shape[1:], "source": str(source)}
    digests = [digest_of(number) for number in range(n)]
    with create_journal(path.with_suffix(".partial"), **info) as journal:
        paths = paths or [f"{i}.png" for i in range(n)]
        rows = {"labels": labels, "paths": paths, "digests": digests, "skipped": list(skipped)}
        append_rows(journal, codes, **rows)
        journal.finish(path)
    return path


def logits_of(predicted, n_classes, size=3.0):
    return size * np.eye(n_classes)[predicted]


def make_app(folder: Path, backbone: Path, photos: Path, *options: object) -> Path:
    """Train a head on photos and join it to a backbone."""
    codes, head, app = folder / "codes.h5", folder / "head.onnx", folder / "app.onnx"
    run_command("extract", backbone, photos, "-o", codes, "--dtype", "float32")
    run_command("train", codes, "-o", head, *options)
    run_command("bundle", backbone, head, "-o", app)
    return app
