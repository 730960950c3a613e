"""Weight files as people have them: the right weights come out of them, or one line."""

from __future__ import annotations

import json
import os
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnncodes.errors import WeightsError
from cnncodes.export import keras_weights
from cnncodes.export.architectures import Layer
from cnncodes.export.keras_weights import read_weights
from tests.export.keras_process import run_with_keras, try_weight_files

SHAPES = {"stem": ((3, 3, 3, 4), (4,)), "neck": ((3, 3, 4, 4), (4,)), "last": ((1, 1, 4, 6), (6,))}
Edit = Callable[[h5py.File], None]


def layers() -> list[Layer]:
    """Return a network of three convolutions, with names of its own."""
    first = Layer("input_layer", "input_layer", (), (8, 8, 3))
    named = [Layer(name, "conv2d", (), (8, 8, 3), shapes) for name, shapes in SHAPES.items()]
    return [first, *named]


def values(seed: int = 0) -> list[np.ndarray]:
    """Return the weights of a network, layer by layer."""
    random = np.random.default_rng(seed)
    shapes = [shape for some in SHAPES.values() for shape in some]
    return [random.normal(size=shape).astype(np.float32) for shape in shapes]


def loaded(path: Path) -> list[np.ndarray]:
    """Return what a network gets from a file."""
    weights = read_weights(layers(), path, "tiny")
    assert list(weights) == list(SHAPES)
    return [each for arrays in weights.values() for each in arrays]


def assert_loads(path: Path, expected: list[np.ndarray]) -> None:
    for one, two in zip(loaded(path), expected, strict=True):
        np.testing.assert_array_equal(one, two)


def refusal(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        read_weights(layers(), path, "tiny")
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def write_counted(path: Path, prefix: str = "layers", seed: int = 0) -> list[np.ndarray]:
    """Write a file of Keras 3; return its weights."""
    arrays = values(seed)
    with h5py.File(path, "a") as file:
        for index, array in enumerate(arrays):
            layer = f"conv2d_{index // 2}" if index > 1 else "conv2d"
            file[f"{prefix}/{layer}/vars/{index % 2}"] = array
    return arrays


def write_named(path: Path, names: list[str], *, nested: str = "") -> list[np.ndarray]:
    """Write a file of Keras 2, of layers of these names; return their weights."""
    arrays = values()
    with h5py.File(path, "w") as file:
        layers = [nested] if nested else names
        file.attrs["layer_names"] = [each.encode() for each in ["input_1", *layers]]
        for layer in ("input_1", *layers):
            file.create_group(layer).attrs["weight_names"] = np.array([], "S1")
        for layer in layers:
            inner = names if nested else [layer]
            weights = [f"{name}/{kind}:0" for name in inner for kind in ("kernel", "bias")]
            file[layer].attrs["weight_names"] = [each.encode() for each in weights]
        for index, array in enumerate(arrays):
            name, kind = names[index // 2], ("kernel", "bias")[index % 2]
            file[f"{nested or name}/{name}/{kind}:0"] = array
    return arrays


@pytest.mark.parametrize(("name", "size"), [("mobilenet_v2", 32), ("inception_v3", 75)])
def test_every_file_of_keras_gives_the_codes_of_the_source(
    name: str, size: int, tmp_path: Path
) -> None:
    done = run_with_keras(try_weight_files, name, size, tmp_path)
    assert done.returncode == 0, done.stderr
    differences = json.loads(done.stdout.splitlines()[-1])
    ambiguous = {key: differences.pop(key) for key in list(differences) if key.startswith("two.")}
    assert len(differences) == 8 * 3
    assert {key: value for key, value in differences.items() if value != 0} == {}
    assert len(ambiguous) == 3
    for message in ambiguous.values():
        assert f"holds weights for {name} more than once; save the network alone" in message
        assert '.save_weights("network.weights.h5")' in message


def test_layouts_of_keras_3(tmp_path: Path) -> None:
    path = tmp_path / "network.weights.h5"
    for prefix in ("layers", "layers/functional/layers", "_layer_checkpoint_dependencies", "a/b/c"):
        assert_loads(path, write_counted(path, prefix))
        path.unlink()
    expected = write_counted(path)
    with h5py.File(path, "a") as file:
        for index, array in enumerate(expected):  # as others of the same class, and an optimizer
            file[f"layers/conv2d_{3 + index}/vars/0"] = np.ones((1, 1, 6, index + 1))
            file[f"optimizer/vars/{index}"] = array
            file[f"layers/dense/vars/{index}"] = array
    assert_loads(path, expected)


def test_layouts_of_keras_2(tmp_path: Path) -> None:
    path = tmp_path / "network.h5"
    own, counted = list(SHAPES), ["conv2d_7", "conv2d_8", "conv2d_9"]
    suffixed = [f"{name}_1" for name in own]
    for names in (own, suffixed, counted):
        assert_loads(path, write_named(path, names))
        assert_loads(path, write_named(path, names, nested="tiny"))


def test_no_link_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows refuses links without developer mode; the name of the file does not matter."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(1314, "A required privilege is not held by the client")

    for function in ("symlink", "link"):
        monkeypatch.setattr(os, function, refuse)
    path = tmp_path / "downloaded.h5.1"
    assert_loads(path, write_named(path, list(SHAPES)))


def test_lists_in_several_attributes(tmp_path: Path) -> None:
    """As Keras stores those that are too long for one."""
    path = tmp_path / "network.h5"
    expected = write_named(path, list(SHAPES))
    with h5py.File(path, "a") as file:
        names = file.attrs["layer_names"]
        del file.attrs["layer_names"]
        file.attrs["layer_names0"], file.attrs["layer_names1"] = names[:1], names[1:]
    assert_loads(path, expected)


def test_layers_of_a_nested_network_in_the_order_of_what_was_frozen(tmp_path: Path) -> None:
    path = tmp_path / "network.h5"
    expected = write_named(path, ["conv2d", "conv2d_1", "conv2d_2"], nested="tiny")
    with h5py.File(path, "a") as file:
        names = list(file["tiny"].attrs["weight_names"])
        file["tiny"].attrs["weight_names"] = names[2:] + names[:2]
    assert_loads(path, expected)


def test_names_of_a_deeper_network_are_not_enough(tmp_path: Path) -> None:
    """ResNet101 has layers of all the names and shapes of ResNet50, and others between."""
    path = tmp_path / "network.h5"
    write_named(path, list(SHAPES))
    with h5py.File(path, "a") as file:
        file.attrs["layer_names"] = ["stem", "neck", "neck2", "last"]
        file.copy("neck", "neck2")
    assert "layer last has weights of shape [(1, 1, 4, 6), (6,)]" in refusal(path)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_precisions(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "network.weights.h5"
    expected = [each.astype(dtype).astype(np.float32) for each in write_counted(path)]
    with h5py.File(path, "a") as file:
        for name in ("conv2d", "conv2d_1", "conv2d_2"):
            for index in "01":
                array = file[f"layers/{name}/vars/{index}"][:]
                del file[f"layers/{name}/vars/{index}"]
                file[f"layers/{name}/vars/{index}"] = array.astype(dtype)
    assert_loads(path, expected)


def archive(path: Path, content: bytes, name: str = "model.weights.h5") -> Path:
    """Write a ``.keras`` file."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("metadata.json", "{}")
        opened.writestr("config.json", '{"class_name": "Lambda"}')  # which is never looked at
        opened.writestr("../escaped.txt", "outside")
        opened.writestr(name, content)
    return path


def test_archive(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    expected = write_counted(tmp_path / "plain.h5", "layers/functional/layers")
    path = archive(tmp_path / "in" / "model.keras", (tmp_path / "plain.h5").read_bytes())
    (tmp_path / "plain.h5").unlink()
    assert_loads(path, expected)
    assert [each.name for each in tmp_path.rglob("*") if each.is_file()] == ["model.keras"]


def test_archives_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.keras"
    assert "a zip archive without model.weights.h5" in refusal(archive(path, b"", "data.pkl"))
    assert "not a readable HDF5 file" in refusal(archive(path, b"nothing of the kind"))
    path.write_bytes(archive(path, b"weights" * 1000).read_bytes()[:-30])
    assert "cannot be unpacked (File is not a zip file)" in refusal(path)
    monkeypatch.setattr(keras_weights, "LARGEST_MEMBER", 1_000_000)
    assert "not a readable HDF5 file" in refusal(archive(path, bytes(1_000_000)))
    assert "its weights would take 0.0 GB" in refusal(archive(path, bytes(1_000_001)))


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such limit")
def test_archive_that_the_temporary_folder_has_no_room_for(tmp_path: Path) -> None:
    path = archive(tmp_path / "model.keras", bytes(3_000_000))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        message = refusal(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "since a temporary file cannot be written (File too large); let TMPDIR" in message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "neither an HDF5 nor a .keras file"),
        (b'{"weight_map": {}}', "neither an HDF5 nor a .keras file"),
        (b"\x89HDF\r\n\x1a\n and no more", "not a readable HDF5 file"),
    ],
)
def test_files_of_others(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "network.weights.h5"
    path.write_bytes(content)
    assert reason in refusal(path)


def move(file: h5py.File) -> None:
    del file["layers/conv2d_1"]


def link(file: h5py.File) -> None:
    move(file)
    with h5py.File(Path(file.filename).with_name("other.h5"), "w") as other:
        other["vars/0"], other["vars/1"] = np.ones(SHAPES["neck"][0]), np.ones(SHAPES["neck"][1])
    file["layers/conv2d_1"] = h5py.ExternalLink("other.h5", "/")


def virtual(file: h5py.File) -> None:
    link(file)
    del file["layers/conv2d_1"]
    shape = SHAPES["neck"][0]
    layout = h5py.VirtualLayout(shape, np.float32)
    layout[:] = h5py.VirtualSource("other.h5", "vars/0", shape)
    file.create_virtual_dataset("layers/conv2d_1/vars/0", layout)
    file["layers/conv2d_1/vars/1"] = np.ones(SHAPES["neck"][1])


def external(file: h5py.File) -> None:
    move(file)
    shape = SHAPES["neck"][0]
    Path(file.filename).with_name("secret").write_bytes(bytes(4 * int(np.prod(shape))))
    file.create_dataset("layers/conv2d_1/vars/0", shape, "f4", external="secret")
    file["layers/conv2d_1/vars/1"] = np.ones(SHAPES["neck"][1])


def deflate(file: h5py.File) -> None:
    """Store a chunk as HDF5 would unpack it, to any size."""
    values = file["layers/conv2d_1/vars/0"][:]
    del file["layers/conv2d_1/vars/0"]
    file.create_dataset("layers/conv2d_1/vars/0", data=values, compression="gzip")


def claim(file: h5py.File) -> None:
    """Claim what no memory holds, in a few bytes."""
    del file["layers/conv2d_1/vars/0"]
    file.create_dataset("layers/conv2d_1/vars/0", (3, 3, 2**30, 4), "f4", chunks=(1, 1, 2**10, 4))


def integers(file: h5py.File) -> None:
    move(file)
    for index, shape in enumerate(SHAPES["neck"]):
        file[f"layers/conv2d_1/vars/{index}"] = np.ones(shape, np.int8)


def nest(file: h5py.File) -> None:
    group = file["layers"]
    for _ in range(keras_weights.MOST_NESTED):
        group = group.create_group("x")


def twice(file: h5py.File) -> None:
    for name in list(file["layers"]):
        file.copy(f"layers/{name}", f"layers/functional/layers/{name}")


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (move, "layer neck has weights of shape [(3, 3, 4, 4), (4,)], the file [(1, 1, 4, 6)"),
        (link, "layer neck has weights of shape"),
        (virtual, "its weights are in another file"),
        (external, "its weights are in another file"),
        (deflate, "its weights are compressed; save them uncompressed"),
        (claim, "layer neck has weights of shape"),
        (integers, "its weights are stored as int8; save them as float32"),
        (nest, "groups in it are nested more than 100 deep"),
        (twice, "holds weights for tiny more than once"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, edit: Edit, reason: str) -> None:
    path = tmp_path / "network.weights.h5"
    write_counted(path)
    with h5py.File(path, "a") as file:
        edit(file)
    assert reason in refusal(path)


@settings(max_examples=200)
@given(st.integers(0, 2**32), st.sampled_from(["counted", "named", "archive"]))
def test_damage_ends_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, seed: int, kind: str
) -> None:
    folder = tmp_path_factory.mktemp("damaged", numbered=True)
    path = folder / "network.h5"
    if kind == "named":
        write_named(path, list(SHAPES), nested="tiny")
    else:
        write_counted(path)
    if kind == "archive":
        archive(path, path.read_bytes())
    content = bytearray(path.read_bytes())
    random = np.random.default_rng(seed)
    for index in random.integers(0, len(content), random.integers(1, 30)):
        content[index] = random.integers(256)
    path.write_bytes(content)
    message = f"{path}: "
    try:
        loaded(path)
    except WeightsError as error:
        message = str(error)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
