from __future__ import annotations

import hashlib
import json

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from cnncodes.app.golden import draw_image
from tests.helpers import error_of, names_in, run_command

NAMES = ["exact.png", "golden.json", "large.png", "small.png"]


@pytest.fixture
def bundled(small_backbone, head, tmp_path):
    """An app and its golden images."""
    done = run_command(
        "bundle", small_backbone, head, "-o", tmp_path / "app.onnx", "--golden", tmp_path / "golden"
    )
    assert done.stdout.splitlines()[-1].startswith(f"{tmp_path / 'golden'}: three images")
    return tmp_path / "app.onnx", tmp_path / "golden"


def test_another_program_can_check_itself(bundled):
    """This one has numpy, Pillow and onnxruntime only."""
    app, folder = bundled
    assert names_in(folder) == NAMES
    golden = json.loads((folder / "golden.json").read_text("utf-8"))
    assert (golden["format"], golden["kind"], golden["app"]) == ("1", "golden", "app.onnx")
    assert golden["app_sha256"] == hashlib.sha256(app.read_bytes()).hexdigest()
    session = onnxruntime.InferenceSession(str(app), providers=["CPUExecutionProvider"])
    sizes = set()
    for image in golden["images"]:
        content = (folder / image["path"]).read_bytes()
        assert image["sha256"] == hashlib.sha256(content).hexdigest()
        opened = Image.open(folder / image["path"])
        assert opened.size == (image["width"], image["height"])
        sizes.add(opened.size)
        pixels = np.asarray(opened.resize((75, 75), Image.Resampling.BILINEAR))
        (probabilities,) = session.run(["probabilities"], {"images": pixels[np.newaxis]})
        assert np.abs(probabilities[0] - image["probabilities"]).max() < 1e-6
        assert golden["labels"][probabilities.argmax()] == image["label"]
    assert (75, 75) in sizes
    assert len(sizes) == 3


def test_same_images_each_time_and_not_all_alike():
    first, again, other = draw_image(0, 40, 60), draw_image(0, 40, 60), draw_image(1, 40, 60)
    assert first.shape == (40, 60, 3)
    assert first.dtype == np.uint8
    assert (first == again).all()
    assert np.abs(first.astype(int) - other).mean() > 20
    assert min(np.ptp(first, axis=(0, 1))) > 100


def test_files_are_replaced_only_when_asked(bundled, small_backbone, head):
    app, folder = bundled
    before = {name: (folder / name).read_bytes() for name in NAMES}
    (folder / "mine.txt").write_text("mine")
    message = error_of(
        "bundle", small_backbone, head, "-o", app.with_name("b.onnx"), "--golden", folder
    )
    assert message.startswith(f"Error: {folder / 'large.png'}: exists already")
    assert not app.with_name("b.onnx").exists()
    run_command("bundle", small_backbone, head, "-o", app, "--golden", folder, "--overwrite")
    assert {name: (folder / name).read_bytes() for name in NAMES} == before
    assert (folder / "mine.txt").read_text() == "mine"


def test_folder_that_cannot_be_one(small_backbone, head, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    app = tmp_path / "app.onnx"
    for golden, words in ((file, "is not a folder"), (tmp_path / "no" / "b", "does not exist")):
        assert words in error_of("bundle", small_backbone, head, "-o", app, "--golden", golden)
    assert names_in(tmp_path) == ["file"]
