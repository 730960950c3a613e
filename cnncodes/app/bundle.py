"""Backbone and head joined into one file, from image to probabilities."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
from onnx import helper

from cnncodes.errors import FileFormatError
from cnncodes.export.graph import rename_output
from cnncodes.extract.backbone import Backbone
from cnncodes.models.checksum import save_checked
from cnncodes.models.metadata import HeadInfo, check_same_network
from cnncodes.models.session import open_session
from cnncodes.output import check_output, replacing
from cnncodes.parameters import as_path


def bundle(
    backbone: str | Path,
    head: str | Path,
    output: str | Path,
    *,
    allow_mixed: bool = False,
    overwrite: bool = False,
) -> HeadInfo:
    """Join a head to the backbone whose codes it was trained on.

    Parameters
    ----------
    backbone : str or Path
        A backbone file.
    head : str or Path
        A head trained on that backbone's codes.
    output : str or Path
        The app to write.
    allow_mixed : bool
        Whether the head may have been trained on codes of the same network in another
        precision, float32 or int8.
    overwrite : bool
        Whether a file at `output` may be replaced.

    Returns
    -------
    HeadInfo
        What the app says of itself.

    Raises
    ------
    FileFormatError
        A file is not what it should be, or the head belongs to another backbone.
    ParameterError
        A parameter is no path.
    OutputError
        The app cannot be written, or its metadata would be more than can be read.
    """
    backbone, head = as_path(backbone, "backbone"), as_path(head, "head")
    output = as_path(output, "output")
    check_output(output, overwrite=overwrite, inputs=[backbone, head])
    network = Backbone(backbone)
    session, metadata = open_session(head, "head")
    info = HeadInfo.from_metadata(metadata, head)
    check_same_network(head, info, backbone, network.info, network.sha256, allow_mixed=allow_mixed)
    info = replace(info, backbone=network.info, backbone_sha256=network.sha256)
    described = info.to_metadata("app")
    given = [(each.name, tuple(each.shape[1:])) for each in session.get_inputs()]
    taken = [(each.name, tuple(each.shape[1:])) for each in session.get_outputs()]
    if given != [("codes", network.code_shape)] or taken != [
        ("probabilities", (len(info.labels),))
    ]:
        raise FileFormatError(f"{head}: its input or output is not that of a head; train it again")
    with replacing(output, overwrite=overwrite) as temporary:
        try:
            joined = _join(backbone, head)
            helper.set_model_props(joined, described)
            save_checked(joined, temporary)
        except (OSError, FileFormatError):
            raise
        except Exception as error:  # onnx has no common base class for its errors
            reason = str(error).strip().partition("\n")[0]
            raise FileFormatError(
                f"{head}: cannot be joined to {backbone} ({reason}); make it again"
            ) from error
    return info


def _join(backbone: Path, head: Path) -> onnx.ModelProto:
    models = [onnx.load(str(path), format="protobuf") for path in (backbone, head)]
    for model in models:
        del model.metadata_props[:]  # they differ, and merge_models refuses that
        _clean_domains(model)
    # Ours are of the same versions; files made elsewhere or by another release may not be.
    opset, ir_version = max(map(_opset, models)), max(model.ir_version for model in models)
    first, second = (
        _in_versions(model, opset, ir_version, path)
        for model, path in zip(models, (backbone, head), strict=True)
    )
    joined = onnx.compose.merge_models(
        first,
        onnx.compose.add_prefix(second, "head/"),  # names inside the two graphs may clash
        io_map=[("codes", "head/codes")],
        name="cnncodes_app",
        producer_name="cnncodes",
    )
    _clean_domains(joined)
    rename_output(joined, "probabilities")
    return joined


def _opset(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators that a model uses."""
    return max((each.version for each in model.opset_import if not each.domain), default=0)


def _in_versions(
    model: onnx.ModelProto, opset: int, ir_version: int, path: Path
) -> onnx.ModelProto:
    """Bring a model to a later version of the operators and of the format, or leave it as it is."""
    old = _opset(model)
    if old < opset:
        try:
            model = onnx.version_converter.convert_version(model, opset)
            onnx.checker.check_model(model, full_check=True)
        except Exception as error:  # whatever the converter stumbled on
            raise FileFormatError(
                f"{path}: is of opset {old}, the other file of {opset}, and onnx cannot convert "
                "it; make it again with this release"
            ) from error
    model.ir_version = ir_version
    return model


def _clean_domains(model: onnx.ModelProto) -> None:
    """Name each domain of operators once, and none that is not used: versions there may differ."""
    used = {"", *(node.domain for node in model.graph.node)}
    kept = {each.domain: each for each in model.opset_import if each.domain in used}
    del model.opset_import[:]
    model.opset_import.extend(kept.values())
