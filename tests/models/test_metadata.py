from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnncodes.errors import FileFormatError
from cnncodes.models.metadata import BackboneInfo, HeadInfo, check_same_network
from tests.helpers import HEAD_INFO, VGG16_INFO

HERE = Path("here.onnx")
NAMES = st.text(max_size=20)
BACKBONES = st.builds(
    BackboneInfo,
    backbone=NAMES,
    weights=NAMES,
    input_size=st.integers(1, 10_000),
    layer=NAMES,
    pool=NAMES,
    precision=NAMES,
    parity=st.floats(0, 1),
    parity_images=NAMES,
    created_with=NAMES,
    parent_sha256=NAMES,
    quantization=st.just("") | st.dictionaries(NAMES, st.integers(), max_size=3).map(json.dumps),
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
HEADS = st.builds(
    HeadInfo,
    labels=st.lists(NAMES, max_size=5).map(tuple),
    training=st.dictionaries(NAMES, JSON_VALUES, max_size=4),
    backbone=BACKBONES,
    backbone_sha256=NAMES,
    training_images=st.frozensets(st.binary(min_size=6, max_size=6).map(bytes.hex)),
    created_with=NAMES,
)
BACKBONE_ENTRIES = sorted(set(VGG16_INFO.to_metadata()) - {"cnncodes.format", "cnncodes.kind"})
HEAD_ENTRIES = sorted(set(HEAD_INFO.to_metadata("head")) - {"cnncodes.format", "cnncodes.kind"})


@settings(deadline=None)
@given(BACKBONES)
def test_backbone_info_survives_the_round_trip(info):
    metadata = info.to_metadata()
    assert all(isinstance(value, str) for value in metadata.values())
    assert BackboneInfo.from_metadata(metadata, HERE) == info


@settings(deadline=None)
@given(HEADS, st.sampled_from(["head", "app"]))
def test_head_info_survives_the_round_trip(info, kind):
    metadata = info.to_metadata(kind)
    assert all(isinstance(value, str) for value in metadata.values())
    assert HeadInfo.from_metadata(metadata, HERE) == info


@settings(deadline=None)
@given(HEADS)
def test_onnx_can_hold_the_metadata(info):
    model = onnx.ModelProto()
    onnx.helper.set_model_props(model, info.to_metadata("head"))
    model = onnx.ModelProto.FromString(model.SerializeToString())
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert HeadInfo.from_metadata(metadata, HERE) == info


@pytest.mark.parametrize("entry", BACKBONE_ENTRIES)
def test_backbone_without_an_entry(entry):
    metadata = VGG16_INFO.to_metadata()
    del metadata[entry]
    with pytest.raises(FileFormatError, match=rf"here\.onnx: .*{entry}.*export it again"):
        BackboneInfo.from_metadata(metadata, HERE)


@pytest.mark.parametrize("entry", HEAD_ENTRIES)
def test_head_without_an_entry(entry):
    metadata = HEAD_INFO.to_metadata("head")
    del metadata[entry]
    with pytest.raises(FileFormatError, match=rf"here\.onnx: .*{entry}.*again"):
        HeadInfo.from_metadata(metadata, HERE)


@pytest.mark.parametrize("entry", BACKBONE_ENTRIES)
def test_head_whose_backbone_lacks_an_entry(entry):
    inner = VGG16_INFO.to_metadata()
    del inner[entry]
    metadata = HEAD_INFO.to_metadata("head") | {"cnncodes.backbone_info": json.dumps(inner)}
    with pytest.raises(FileFormatError, match=rf"here\.onnx: .*{entry}.*again"):
        HeadInfo.from_metadata(metadata, HERE)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("input_size", ""),
        ("input_size", "large"),
        ("input_size", "224.5"),
        ("parity", "none"),
        ("parity", ""),
    ],
)
def test_backbone_with_a_damaged_number(entry, value):
    metadata = VGG16_INFO.to_metadata() | {f"cnncodes.{entry}": value}
    with pytest.raises(FileFormatError, match=r"here\.onnx: the metadata are damaged .*again"):
        BackboneInfo.from_metadata(metadata, HERE)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("labels", ""),
        ("labels", "cat"),
        ("labels", '"cat"'),
        ("labels", "{}"),
        ("labels", "null"),
        ("labels", '["cat", 2]'),
        ("labels", json.dumps(["cat", "d" * 4097])),
        ("labels", json.dumps(["cat"] * 100_001)),
        ("labels", "[" * 100_000),
        ("training", "{"),
        ("training", "7"),
        ("training", "null"),
        ("training", '["sgd"]'),
        ("training", '{"a":' * 21 + "1" + "}" * 21),
        ("training", '{"a":' + "[" * 400 + "]" * 400 + "}"),
        ("backbone_info", "vgg16"),
        ("backbone_info", "7"),
        ("backbone_info", "null"),
        ("backbone_info", "[]"),
        ("backbone_info", '"vgg16"'),
        ("backbone_info", "{}"),
        ("training_images", "AAAA"),
        ("training_images", "AAAAAAA"),
        ("training_images", "AAAA AAAA"),
        ("training_images", "öööö"),
        ("white", ""),
        ("white", "0"),
        ("white", "65536"),
        ("white", "4095.0"),
    ],
)
def test_head_with_a_damaged_entry(entry, value):
    metadata = HEAD_INFO.to_metadata("head") | {f"cnncodes.{entry}": value}
    with pytest.raises(FileFormatError, match=r"here\.onnx: .*again"):
        HeadInfo.from_metadata(metadata, HERE)


@pytest.mark.parametrize("value", [None, [], {}])
@pytest.mark.parametrize("entry", ["backbone", "input_size", "parity"])
def test_head_whose_backbone_has_an_entry_of_another_type(entry, value):
    inner = VGG16_INFO.to_metadata() | {f"cnncodes.{entry}": value}
    metadata = HEAD_INFO.to_metadata("head") | {"cnncodes.backbone_info": json.dumps(inner)}
    with pytest.raises(FileFormatError, match=r"here\.onnx: .*again"):
        HeadInfo.from_metadata(metadata, HERE)


def test_training_images_are_stored_as_the_documentation_says():
    stored = HEAD_INFO.to_metadata("app")["cnncodes.training_images"]
    assert base64.b64decode(stored) == b"\x0a" * 6 + b"\xff" * 6


TF2ONNX = replace(VGG16_INFO, converter="tf2onnx")
DIRECT = replace(VGG16_INFO, converter="direct")


@pytest.mark.parametrize(
    ("trained", "other"),
    [
        (DIRECT, replace(DIRECT, parity=1e-7, created_with="another")),
        (replace(TF2ONNX, weights="imagenet"), replace(DIRECT, weights="imagenet")),
    ],
)
def test_float_files_of_one_network_count_as_the_same(trained, other):
    """As with Winograd's convolutions and without."""
    check_same_network(HERE, replace(HEAD_INFO, backbone=trained), HERE, other, "cd" * 32)


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": "vgg19"},
        {"weights": "random:1"},
        {"input_size": 96},
        {"layer": "block4_pool"},
        {"pool": "max"},
        {"converter": "tf2onnx"},  # which may have random weights that Keras drew
    ],
    ids=lambda change: next(iter(change)),
)
def test_float_files_that_differ_are_other_networks(change):
    head = replace(HEAD_INFO, backbone=DIRECT)
    with pytest.raises(FileFormatError, match="of another backbone"):
        check_same_network(HERE, head, HERE, replace(DIRECT, **change), "cd" * 32, allow_mixed=True)


def test_int8_file_of_the_twin_is_another_precision():
    head = replace(HEAD_INFO, backbone=DIRECT)
    int8 = replace(DIRECT, precision="int8", parent_sha256="ef" * 32)
    check_same_network(HERE, head, HERE, int8, "cd" * 32, allow_mixed=True)
    with pytest.raises(FileFormatError, match="allow_mixed"):
        check_same_network(HERE, head, HERE, int8, "cd" * 32)
