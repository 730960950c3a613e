from __future__ import annotations

import onnxruntime
import pytest

from cnncodes.errors import FileFormatError, ParameterError
from cnncodes.models.metadata import HeadInfo
from cnncodes.models.session import open_session, runtime_errors


def test_session_and_metadata_of_a_head(head):
    session, metadata = open_session(head, "head")
    assert [each.name for each in session.get_inputs()] == ["codes"]
    assert HeadInfo.from_metadata(metadata, head).labels == tuple("0123456789")


@pytest.mark.parametrize("content", [b"", b"a text", b"\x89HDF\r\n\x1a\n", b"\x08\x08"])
def test_what_is_no_model_cannot_be_opened(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"model\.onnx: ") as caught:
        open_session(path, "head")
    assert "\n" not in str(caught.value)


def test_missing_file_names_the_remedy(tmp_path):
    with pytest.raises(FileFormatError, match=r"no such file; make one with: cnncodes train"):
        open_session(tmp_path / "absent.onnx", "head")


@pytest.mark.parametrize(
    "name", ["azure", "Azure", "AZURE", "AzureExecutionProvider", "azureexecutionprovider"]
)
def test_provider_by_any_of_its_names(head, name):
    session, _ = open_session(head, "head", provider=name)
    assert session.get_providers() == ["AzureExecutionProvider", "CPUExecutionProvider"]


def test_provider_is_the_cpu_unless_another_is_named(head):
    session, _ = open_session(head, "head")
    assert session.get_providers() == ["CPUExecutionProvider"]


@pytest.mark.parametrize("name", ["cuda", "", "ExecutionProvider", "cpu,azure", "\x1b[31mcpu"])
def test_absent_provider_is_reported_with_those_there_are(head, name):
    with pytest.raises(ParameterError) as caught:
        open_session(head, "head", provider=name)
    assert str(caught.value).startswith(
        f"provider {name}: this onnxruntime has azure, cpu; choose one of these, or install "
        "another build of onnxruntime"
    )


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_provider_that_cannot_start_is_reported(head, monkeypatch):
    """A build that names a provider whose libraries are missing opens a session without it."""
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    with pytest.raises(ParameterError, match=r"^provider cuda: is built .* but cannot start here"):
        open_session(head, "head", provider="cuda")


def test_folder_is_not_reported_as_absent(tmp_path):
    with pytest.raises(FileFormatError, match="is a folder"):
        open_session(tmp_path, "head")


def test_lack_of_memory_is_not_reported_as_damage():
    with pytest.raises(MemoryError), runtime_errors(FileFormatError):
        raise MemoryError
    with pytest.raises(FileFormatError, match=r"^first$"), runtime_errors(FileFormatError):
        raise RuntimeError("first\nsecond")
