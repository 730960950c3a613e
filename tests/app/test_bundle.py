from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest

from cnncodes.export.graph import Graph
from cnncodes.export.winograd import restore_convolutions
from cnncodes.extract.backbone import Backbone
from cnncodes.images.decoding import decode_image
from cnncodes.models.metadata import HeadInfo
from cnncodes.models.session import noise_images
from tests.helpers import error_of, write_backbone, write_pooling_backbone


def session_of(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def metadata_of(path):
    return {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props}


def with_entry(model, path, key, value):
    """Save a copy of a model with one metadata entry changed."""
    changed = onnx.load(str(model))
    onnx.helper.set_model_props(changed, metadata_of(model) | {key: value})
    onnx.save(changed, str(path))
    return path


@pytest.fixture
def other_backbone(small_backbone, tmp_path):
    return with_entry(small_backbone, tmp_path / "other.onnx", "cnncodes.weights", "random:1")


@pytest.fixture
def foreign(tmp_path):
    helper = onnx.helper
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "g", *map(list, zip(values))
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])
    onnx.save(model, str(tmp_path / "foreign.onnx"))
    return tmp_path / "foreign.onnx"


def test_app_gives_what_backbone_and_head_give(app, small_backbone, head, photos):
    files = sorted(photos.rglob("*.png"))[::13]
    images = np.stack([decode_image(path.read_bytes(), 75) for path in files])
    codes = session_of(small_backbone).run(["codes"], {"images": images})[0]
    wanted = session_of(head).run(["probabilities"], {"codes": codes})[0]
    actual = session_of(app).run(["probabilities"], {"images": images})[0]
    assert np.abs(actual - wanted).max() < 1e-6
    assert np.ptp(wanted, axis=0).max() > 0.1, "the images must differ for a meaningful test"


@pytest.fixture
def plain_backbone(small_backbone, tmp_path):
    """The same network as exported without Winograd's convolutions."""
    graph = Graph.load(small_backbone)
    assert restore_convolutions(graph)
    model = graph.model()
    onnx.helper.set_model_props(model, metadata_of(small_backbone))
    onnx.save(model, str(tmp_path / "plain.onnx"))
    return tmp_path / "plain.onnx"


def test_plain_convolutions_are_the_backbones_but_for_rounding(
    app, small_backbone, head, tmp_path, run
):
    other = tmp_path / "winograd.onnx"
    run("bundle", small_backbone, head, "-o", other, "--winograd")
    names = [
        {node.name.partition("/")[0] for node in onnx.load(str(each)).graph.node}
        for each in (app, other)
    ]
    assert ["winograd" in each for each in names] == [False, True]
    images = noise_images(4, 75)
    plain, kept = (session_of(each).run(None, {"images": images})[0] for each in (app, other))
    assert 0 < np.abs(plain - kept).max() < 1e-5


def test_shapes_between_backbone_and_head_are_left_to_the_runtime(app):
    assert not onnx.load(str(app)).graph.value_info  # tract refuses the app with that of the codes


def test_plain_twin_is_the_same_network(plain_backbone, head, codes, photos, tmp_path, run):
    """A head trained on codes of either file goes with the other."""
    twins = tmp_path / "twins.h5"
    run("extract", plain_backbone, photos, "-o", twins)
    results = [json.loads(run("evaluate", head, each, "--json").stdout) for each in (codes, twins)]
    assert results[0]["figures"]["accuracy"] == results[1]["figures"]["accuracy"]
    run("evaluate", head, photos, "--backbone", plain_backbone)
    app = tmp_path / "app.onnx"
    info = run("bundle", plain_backbone, head, "-o", app)
    assert "classes" in info.stdout
    recorded = metadata_of(app)["cnncodes.backbone_sha256"]
    assert (
        recorded == Backbone(plain_backbone).sha256 != metadata_of(head)["cnncodes.backbone_sha256"]
    )


def test_app_of_codes_with_three_axes(tmp_path, photos, run):
    """The head flattens them inside the app, as it does on its own."""
    backbone, codes, head, app = (
        tmp_path / name for name in ("b.onnx", "c.h5", "h.onnx", "a.onnx")
    )
    write_pooling_backbone(backbone)
    run("extract", backbone, photos, "-o", codes)
    run("train", codes, "-o", head)
    run("bundle", backbone, head, "-o", app)
    image = decode_image(next(photos.rglob("*.png")).read_bytes(), 75)[np.newaxis]
    codes_of_it = session_of(backbone).run(["codes"], {"images": image})[0]
    assert codes_of_it.shape == (1, 5, 5, 3)
    wanted = session_of(head).run(["probabilities"], {"codes": codes_of_it})[0]
    assert np.abs(session_of(app).run(None, {"images": image})[0] - wanted).max() < 1e-6
    assert wanted.max() > 0.2


def with_versions(model, path, opset, ir_version=8):
    """Save a copy of a model that claims other versions."""
    changed = onnx.load(str(model))
    changed.opset_import[0].version, changed.ir_version = opset, ir_version
    onnx.checker.check_model(changed, full_check=True)
    onnx.save(changed, str(path))
    return path


@pytest.mark.parametrize(("opset", "ir_version"), [(18, 8), (13, 8), (21, 10), (13, 10)])
def test_versions_of_the_two_files_may_differ(tmp_path, photos, run, opset, ir_version):
    """Means over axes are written otherwise from opset 18 on, where the backbone is of 13."""
    backbone, codes, plain, head, app = (
        tmp_path / name for name in ("b.onnx", "c.h5", "plain.onnx", "h.onnx", "a.onnx")
    )
    write_backbone(backbone)
    run("extract", backbone, photos, "-o", codes)
    run("train", codes, "-o", plain)
    with_versions(plain, head, opset, ir_version)
    run("bundle", backbone, head, "-o", app)
    made = onnx.load(str(app))
    assert [(each.domain, each.version) for each in made.opset_import] == [("", max(13, opset))]
    assert made.ir_version == ir_version
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), np.uint8)
    codes_of_them = session_of(backbone).run(["codes"], {"images": images})[0]
    wanted = session_of(head).run(["probabilities"], {"codes": codes_of_them})[0]
    assert np.abs(session_of(app).run(None, {"images": images})[0] - wanted).max() < 1e-6
    assert np.ptp(wanted, axis=0).max() > 1e-3, "the images must differ for a meaningful test"


def save_scanning_backbone(path):
    """Save a network with the Scan of opset 8, which onnx cannot bring to a later one."""
    helper = onnx.helper
    row = helper.make_tensor_value_info("row", onnx.TensorProto.FLOAT, [4, 3])
    same = helper.make_tensor_value_info("same", onnx.TensorProto.FLOAT, [4, 3])
    body = helper.make_graph([helper.make_node("Abs", ["row"], ["same"])], "body", [row], [same])
    write_backbone(path)
    model = onnx.load(str(path))
    cast = model.graph.node[0]
    nodes = [
        helper.make_node("Sub", ["numbers", "numbers"], ["zeros"]),
        helper.make_node("Add", ["zeros", "height"], ["heights"]),
        helper.make_node("ReduceMean", ["heights"], ["height of each"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Cast", ["height of each"], ["lengths"], to=onnx.TensorProto.INT64),
        helper.make_node("Scan", ["lengths", "numbers"], ["rows"], body=body, num_scan_inputs=1),
        helper.make_node("ReduceMean", ["rows"], ["codes"], axes=[1, 2], keepdims=0),
    ]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend([cast, *nodes])
    model.graph.initializer.append(helper.make_tensor("height", onnx.TensorProto.FLOAT, (), [4]))
    model.opset_import[0].version = 8
    onnx.save(model, str(path))


def test_version_that_cannot_be_converted(tmp_path, photos, run):
    backbone, codes, head = (tmp_path / name for name in ("b.onnx", "c.h5", "h.onnx"))
    save_scanning_backbone(backbone)
    run("extract", backbone, photos, "-o", codes)
    run("train", codes, "-o", head)
    message = error_of("bundle", backbone, head, "-o", tmp_path / "a.onnx")
    assert message == (
        f"Error: {backbone}: is of opset 8, the other file of 18, and onnx cannot convert it; "
        "make it again with this release"
    )
    assert not (tmp_path / "a.onnx").exists()


def test_names_types_and_batch_of_any_size(app):
    session = session_of(app)
    (images,), (probabilities, features) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape[1:]) == ("images", "tensor(uint8)", [75, 75, 3])
    assert (probabilities.name, probabilities.type) == ("probabilities", "tensor(float)")
    assert probabilities.shape[1:] == [10]
    assert (features.name, features.type) == ("features", "tensor(float)")
    assert features.shape[1:] == [1, 1, 2048]
    for n_images in (0, 1, 9):
        pixels = np.zeros((n_images, 75, 75, 3), np.uint8)
        assert session.run(None, {"images": pixels})[0].shape == (n_images, 10)


def test_app_passes_the_checker(app):
    model = onnx.load(str(app))
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}


def test_metadata_are_the_heads_but_for_kind_card_and_checksum(app, head):
    reported, heads = metadata_of(app), metadata_of(head)
    assert reported["cnncodes.kind"] == "app"
    assert reported.pop("cnncodes.checksum") != heads.pop("cnncodes.checksum")
    card = json.loads(reported.pop("cnncodes.card"))
    assert card == {"licence": "none: the weights are random numbers"}
    assert reported == heads | {"cnncodes.kind": "app"}
    assert HeadInfo.from_metadata(reported, app).labels == tuple("0123456789")


def test_what_is_printed(small_backbone, head, tmp_path, run):
    app = tmp_path / "app.onnx"
    assert run("bundle", small_backbone, head, "-o", app).stdout == (
        f"{app}: 10 classes, {app.stat().st_size / 1e6:.0f} MB\n"
    )
    result = run("bundle", small_backbone, head, "-o", app, "--overwrite", "--json")
    assert json.loads(result.stdout) == {
        "path": str(app),
        "labels": list("0123456789"),
        "card": {"licence": "none: the weights are random numbers"},
    }


def test_head_of_another_backbone_is_refused(other_backbone, head, tmp_path):
    app = tmp_path / "app.onnx"
    message = error_of("bundle", other_backbone, head, "-o", app)
    assert f"{head}: was trained on codes of another backbone (inception_v3, random:0, " in message
    assert f"than that of {other_backbone} (inception_v3, random:1, " in message
    assert "use files that belong together" in message
    assert not app.exists()


def test_head_with_another_number_of_labels_is_refused(small_backbone, head, tmp_path):
    """Such a file could be written, but no Classifier would open it."""
    damaged = with_entry(head, tmp_path / "head.onnx", "cnncodes.labels", '["one"]')
    assert str(damaged) in error_of("bundle", small_backbone, damaged, "-o", tmp_path / "app.onnx")


def test_files_that_cannot_be_joined_are_refused(small_backbone, head, tmp_path):
    clashing, backbone = f"head/{onnx.load(str(head)).graph.node[0].output[0]}", tmp_path / "b.onnx"
    model = onnx.load(str(small_backbone))
    old = model.graph.node[0].output[0]
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [clashing if name == old else name for name in names]
    onnx.save(model, str(backbone))
    new_head = tmp_path / "head.onnx"
    changed = onnx.load(str(head))
    for entry in changed.metadata_props:
        if entry.key == "cnncodes.backbone_sha256":
            entry.value = Backbone(backbone).sha256
    onnx.save(changed, str(new_head))
    message = error_of("bundle", backbone, new_head, "-o", tmp_path / "app.onnx")
    assert f"{new_head}: cannot be joined to {backbone} (" in message
    assert not (tmp_path / "app.onnx").exists()


def test_swapped_arguments(small_backbone, head, tmp_path):
    message = error_of("bundle", head, small_backbone, "-o", tmp_path / "app.onnx")
    assert f"{head}: is a head (evaluate and bundle take it), not a backbone" in message


def test_app_as_head(small_backbone, app, tmp_path):
    message = error_of("bundle", small_backbone, app, "-o", tmp_path / "new.onnx")
    assert f"{app}: is a" in message
    assert "not a head; make one with: cnncodes train" in message


@pytest.mark.parametrize("role", ["backbone", "head"])
def test_foreign_model(small_backbone, head, foreign, tmp_path, role):
    files = (foreign, head) if role == "backbone" else (small_backbone, foreign)
    message = error_of("bundle", *files, "-o", tmp_path / "app.onnx")
    assert f"{foreign}: is an ONNX model of another program " in message


@pytest.mark.parametrize("role", ["backbone", "head"])
@pytest.mark.parametrize("content", [b"", b"a text\n", b"\x89HDF\r\n\x1a\n"])
def test_not_a_model(small_backbone, head, tmp_path, role, content):
    path = tmp_path / "file.onnx"
    path.write_bytes(content)
    files = (path, head) if role == "backbone" else (small_backbone, path)
    assert f"{path}: " in error_of("bundle", *files, "-o", tmp_path / "app.onnx")
    assert not (tmp_path / "app.onnx").exists()


def test_codes_as_head(small_backbone, codes, tmp_path):
    message = error_of("bundle", small_backbone, codes, "-o", tmp_path / "app.onnx")
    assert f"{codes}: is a codes file (train, curve and evaluate take it), not a head" in message


@pytest.mark.parametrize(("role", "remedy"), [("backbone", "export"), ("head", "train")])
def test_missing_file(small_backbone, head, tmp_path, role, remedy):
    absent = tmp_path / "absent.onnx"
    files = (absent, head) if role == "backbone" else (small_backbone, absent)
    message = error_of("bundle", *files, "-o", tmp_path / "app.onnx")
    assert message == f"Error: {absent}: no such file; make one with: cnncodes {remedy}"


def test_existing_output_is_kept(small_backbone, head, tmp_path, run):
    app = tmp_path / "app.onnx"
    app.write_text("mine")
    assert "exists already" in error_of("bundle", small_backbone, head, "-o", app)
    other_name = tmp_path / "kept"
    other_name.hardlink_to(app)
    run("bundle", small_backbone, head, "-o", app, "--overwrite")
    assert metadata_of(app)["cnncodes.kind"] == "app"
    # The new app replaced the old one when it was complete; it was not written over it.
    assert other_name.read_text() == "mine"


def test_existing_output_survives_a_failure(other_backbone, head, tmp_path):
    app = tmp_path / "app.onnx"
    app.write_text("mine")
    error_of("bundle", other_backbone, head, "-o", app, "--overwrite")
    assert app.read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"app.onnx", "other.onnx"}


def test_missing_folder(small_backbone, head, tmp_path):
    message = error_of("bundle", small_backbone, head, "-o", tmp_path / "absent" / "app.onnx")
    assert "does not exist; create it first" in message
