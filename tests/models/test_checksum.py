"""The checksum of a model: a wrong bit is detected, and files without a checksum are read."""

from __future__ import annotations

import hashlib
import json
import mmap
import shutil
from pathlib import Path

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cnncodes import Classifier
from cnncodes.errors import FileFormatError
from cnncodes.inspect.verify import ALTERED, WITHOUT_CHECKSUM, verify
from cnncodes.models.checksum import read_checksum
from cnncodes.models.safety import mapped, read_fields
from tests.fuzz.files import Chain
from tests.helpers import run_command

KINDS = ("backbone", "head", "app")
CHECKED = "that weights, operators and metadata are those it was written with"
WITHOUT = Path(__file__).parents[1] / "data" / "without_checksum"


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain.make(tmp_path_factory.mktemp("chain"))


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory, chain: Chain) -> Chain:
    """A backbone, head and app as they were made before there were checksums."""
    folder = tmp_path_factory.mktemp("earlier")
    for kind in KINDS:
        shutil.copy(WITHOUT / f"{kind}.onnx", folder)
    return Chain(
        chain.photos,
        *(folder / f"{name}" for name in ("backbone.onnx", "codes.h5")),
        folder / "head.onnx",
        folder / "app.onnx",
    )


def covered(path: Path) -> list[slice]:
    """Return where the graph, the versions and the values of our metadata are in a file."""
    with mapped(path) as model:
        actual = []
        assert model[0] == 8  # the tag of the version of ONNX, which is the byte behind it
        actual.append(slice(1, 2))
        for number, _, value in read_fields(model, slice(0, len(model))):
            if number in (7, 8):
                actual.append(value)
            elif number == 14:
                entry = {n: v for n, _, v in read_fields(model, value)}
                assert model[entry[1]].startswith(b"cnncodes.")
                actual.append(entry[2])
        return actual


def flipped(path: Path, bit: int, new: Path) -> Path:
    """Write a copy with one of the covered bits flipped, counted through all of them."""
    content = bytearray(path.read_bytes())
    positions = [at for part in covered(path) for at in range(part.start, part.stop)]
    content[positions[bit // 8 % len(positions)]] ^= 1 << bit % 8
    new.write_bytes(content)
    return new


@pytest.mark.parametrize("kind", KINDS)
def test_checksum_is_that_of_the_documentation(kind: str, chain: Chain) -> None:
    model = onnx.load(getattr(chain, kind))
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    digest = hashlib.sha256(model.graph.SerializeToString())
    opsets = [each.SerializeToString() for each in model.opset_import]
    for version in (str(model.ir_version).encode(), *opsets):
        digest.update(str(len(version)).encode() + b"\0" + version)
    for key in sorted(metadata):
        if key.startswith("cnncodes.") and key != "cnncodes.checksum":
            digest.update(key.encode() + b"\0" + metadata[key].encode() + b"\0")
    assert metadata["cnncodes.checksum"] == digest.hexdigest()


@pytest.mark.parametrize("kind", KINDS)
def test_whole_file_has_its_checksum_compared(kind: str, chain: Chain) -> None:
    assert CHECKED in run_command("verify", getattr(chain, kind)).stdout


@pytest.mark.parametrize("kind", KINDS)
def test_any_bit_that_flips_is_detected(kind: str, chain: Chain, tmp_path: Path) -> None:
    path = getattr(chain, kind)
    n_bits = 8 * sum(part.stop - part.start for part in covered(path))
    assert n_bits > 5000
    content, new = path.read_bytes(), tmp_path / "flipped.onnx"
    new.write_bytes(content)
    unnoticed = []
    with new.open("r+b") as file, mmap.mmap(file.fileno(), 0) as bytes_:
        for part in covered(path):
            for at in range(part.start, part.stop):
                bit = 1 << at % 8
                bytes_[at] ^= bit
                try:
                    recorded, computed = read_checksum(new)
                    if recorded == computed:
                        unnoticed.append(at)
                except FileFormatError:
                    pass
                bytes_[at] ^= bit
    assert new.read_bytes() == content
    assert unnoticed == []


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bit=st.integers(0, 2**20))
def test_verify_reports_a_bit_that_flipped(
    kind: str, chain: Chain, tmp_path: Path, bit: int
) -> None:
    new = flipped(getattr(chain, kind), bit, tmp_path / "flipped.onnx")
    try:
        problems = [fault.problem for fault in verify(new).faults]
    except FileFormatError:  # it is refused in one line
        return
    assert ALTERED in problems


def test_exponent_of_a_weight(chain: Chain, tmp_path: Path) -> None:
    """The model runs and gives probabilities; they are wrong."""
    model = onnx.load(chain.head)
    raw = next(each for each in model.graph.initializer if each.name == "weights").raw_data
    at = chain.head.read_bytes().index(raw) + 3
    content = bytearray(chain.head.read_bytes())
    content[at] ^= 1 << 5
    path = tmp_path / "head.onnx"
    path.write_bytes(content)
    stdout = run_command("verify", path, "--json", exit_code=1).stdout
    assert json.loads(stdout)["faults"] == [{"subject": str(path), "problem": ALTERED}]


def test_entry_that_is_added_or_repeated_is_detected(chain: Chain, tmp_path: Path) -> None:
    for key, value in (
        ("cnncodes.white", "255"),
        ("cnncodes.kind", "head"),
        ("cnncodes.checksum", "0" * 64),
        ("cnncodes.checksum", read_checksum(chain.head)[1]),
    ):
        entry = onnx.StringStringEntryProto(key=key, value=value)
        path = tmp_path / "head.onnx"
        path.write_bytes(
            chain.head.read_bytes() + onnx.ModelProto(metadata_props=[entry]).SerializeToString()
        )
        assert [fault.problem for fault in verify(path).faults] == [ALTERED], key


def test_graph_that_is_added_is_detected(chain: Chain, tmp_path: Path) -> None:
    node = onnx.helper.make_node("Identity", ["codes"], ["more"])
    graph = onnx.GraphProto(node=[node])
    path = tmp_path / "head.onnx"
    path.write_bytes(chain.head.read_bytes() + onnx.ModelProto(graph=graph).SerializeToString())
    assert [fault.problem for fault in verify(path).faults] == [ALTERED]


def test_metadata_of_others_may_be_added(chain: Chain, tmp_path: Path) -> None:
    model = onnx.load(chain.app)
    model.metadata_props.add(key="author", value="somebody")
    onnx.save(model, tmp_path / "app.onnx")
    assert verify(tmp_path / "app.onnx").faults == []


def test_altered_file_is_opened_without_a_look_at_its_checksum(
    chain: Chain, tmp_path: Path
) -> None:
    """That would read all of a large file, whenever a program starts."""
    model = onnx.load(chain.app)
    labels = json.dumps([f"digit {number}" for number in range(10)])
    next(each for each in model.metadata_props if each.key == "cnncodes.labels").value = labels
    onnx.save(model, tmp_path / "app.onnx")
    assert Classifier(tmp_path / "app.onnx").labels[3] == "digit 3"


def test_file_that_is_no_model_has_no_checksum(tmp_path: Path) -> None:
    for content, fault in ((b"", "is an empty file"), (b"a text", "cannot be opened as an ONNX")):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(FileFormatError, match=fault):
            read_checksum(tmp_path / "file")


@pytest.mark.parametrize("kind", KINDS)
def test_file_of_an_earlier_release_has_none(kind: str, earlier: Chain) -> None:
    assert read_checksum(getattr(earlier, kind))[0] is None
    stdout = run_command("verify", getattr(earlier, kind)).stdout
    assert "nothing is wrong" in stdout
    assert CHECKED not in stdout
    assert WITHOUT_CHECKSUM in stdout


def test_lost_key_of_a_checksum_is_reported(chain: Chain, tmp_path: Path) -> None:
    content = chain.head.read_bytes()
    path = tmp_path / "head.onnx"
    path.write_bytes(content.replace(b"cnncodes.checksum", b"cnncodes.chacksum"))
    assert WITHOUT_CHECKSUM in run_command("verify", path).stdout
    assert WITHOUT_CHECKSUM not in run_command("verify", chain.head).stdout


def test_other_version_of_the_operators_is_detected(chain: Chain, tmp_path: Path) -> None:
    for change in ("opset", "added", "ir"):
        model = onnx.load(chain.head)
        if change == "opset":
            model.opset_import[0].version -= 1
        elif change == "added":
            model.opset_import.add(domain="ai.onnx.ml", version=3)
        else:
            model.ir_version -= 1
        path = tmp_path / f"{change}.onnx"
        onnx.save(model, path)
        assert [fault.problem for fault in verify(path).faults] == [ALTERED], change


def test_files_of_an_earlier_release_are_used_by_all_commands(
    earlier: Chain, tmp_path: Path
) -> None:
    photos, codes = earlier.photos, tmp_path / "codes.h5"
    new_head, new_app, int8 = (tmp_path / f"{name}.onnx" for name in ("head", "app", "int8"))
    for path in (earlier.backbone, earlier.head, earlier.app):
        assert "format" in run_command("info", path).stdout
    run_command("extract", earlier.backbone, photos, "-o", codes)
    run_command("verify", codes, "--source", photos, "--backbone", earlier.backbone)
    run_command("verify", earlier.head, "--backbone", earlier.backbone)
    run_command("evaluate", earlier.head, codes, "--include-training")
    run_command("evaluate", earlier.app, photos, "--include-training")
    run_command("predict", earlier.app, earlier.photo())
    run_command("bench", earlier.backbone, "--batch-sizes", 1, "--seconds", 0.01)
    run_command("train", codes, "-o", new_head, "--C", 1)
    run_command("curve", codes, "-o", tmp_path / "curve.json", "--per-class", 2, "--seeds", 1)
    run_command("bundle", earlier.backbone, earlier.head, "-o", new_app)
    assert CHECKED in run_command("verify", new_app).stdout
    run_command("bundle", earlier.backbone, new_head, "-o", new_app, "--overwrite")
    run_command("quantize", earlier.backbone, "--images", photos, "-o", int8)
    assert CHECKED in run_command("verify", int8).stdout
