"""Backbone and head joined into one file, from image to probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from cnncodes.app.card import write_card
from cnncodes.app.explain import BIAS, FEATURES, WEIGHTS
from cnncodes.app.golden import check_golden, draw_image, write_golden
from cnncodes.app.networks import describe_parts, joined_shape, side_by_side
from cnncodes.app.variants import compare_answers, fix_batch, halve_weights
from cnncodes.app.views import average_over_views
from cnncodes.errors import FileFormatError
from cnncodes.export.graph import POOLS, TO_NHWC, Graph, rename_tensor
from cnncodes.export.winograd import restore_convolutions
from cnncodes.extract.backbone import Backbone
from cnncodes.models.checksum import save_checked
from cnncodes.models.matching import match_networks
from cnncodes.models.metadata import UNKNOWN, HeadInfo, Part
from cnncodes.models.session import open_session, runtime_errors
from cnncodes.output import MODEL, check_output, replacing
from cnncodes.parameters import FIXED_BATCH, as_path, one_or_more_paths
from cnncodes.text import counted

N_COMPARED = 16  # images on which float16 weights are compared with float32 ones


def bundle(
    backbone: str | Path | Sequence[str | Path],
    head: str | Path,
    output: str | Path,
    *,
    winograd: bool = False,
    half: bool = False,
    tta: bool = False,
    batch: int | None = None,
    golden: str | Path | None = None,
    limits: str | None = None,
    date: str | None = None,
    allow_mixed: bool = False,
    overwrite: bool = False,
) -> HeadInfo:
    """Join a head to the backbone whose codes it was trained on.

    An app has plain convolutions: it loads in less time and memory than one with Winograd's, and
    more runtimes compute it, if more slowly than onnxruntime on a CPU the other.

    Parameters
    ----------
    backbone : str or Path, or sequence of them
        A backbone file; for a head trained on the codes of several side by side all of them, in
        any order. Their images must be of one size.
    head : str or Path
        A head trained on that backbone's codes.
    output : str or Path
        The app to write.
    winograd : bool
        Whether to keep the convolutions of the backbone as they are, which may be Winograd's.
    half : bool
        Whether to store weights as float16, in half the room. Runtimes compute in float32 as
        before. `HeadInfo.card` has how far the probabilities of drawn images differ.
    tta : bool
        Whether the app makes the views of each image on which the head was trained, and gives the
        softmax of the mean of their logits. It takes as many times the time and memory as there
        are views, and its answers cannot be explained.
    batch : int, optional
        The only number of images that the app takes at a time; by default any number. Compilers
        for phones and the like want it.
    golden : str or Path, optional
        A folder for three images with the app's answers, by which to check another program that
        runs it; created if absent.
    limits : str, optional
        What the app must not be used for, for its model card.
    date : str, optional
        Its date, for the card, such as ``"2025-01-31"``; by default that of the environment
        variable ``SOURCE_DATE_EPOCH``, or none: the same files give the same app.
    allow_mixed : bool
        Whether the head may have been trained on codes of the same network in another
        precision, float32 or int8.
    overwrite : bool
        Whether a file at `output`, and those in `golden`, may be replaced.

    Returns
    -------
    HeadInfo
        The metadata of the app.

    Raises
    ------
    FileFormatError
        A file is of another kind or damaged, or the head belongs to another backbone.
    ParameterError
        A parameter is of another type or range, `half` is for weights that float16 cannot hold,
        or `tta` for a head that was trained without views.
    OutputError
        The app or `golden` cannot be written, or its metadata exceed what can be read.
    """
    files, head = one_or_more_paths(backbone, "backbone"), as_path(head, "head")
    output = as_path(output, "output")
    batch = FIXED_BATCH.check_or_none(batch, "batch")
    check_output(output, overwrite=overwrite, inputs=[*files, head], endings=MODEL)
    if golden is not None:
        golden = as_path(golden, "golden")
        check_golden(golden, overwrite=overwrite, inputs=[*files, head, output])
    networks = [Backbone(file) for file in files]
    session, metadata = open_session(head, "head")
    info = HeadInfo.from_metadata(metadata, head)
    described = [(each.path, each.info, each.sha256) for each in networks]
    order = match_networks(head, info, described, allow_mixed=allow_mixed)
    networks = [networks[index] for index in order]
    _check_columns(head, info.parts, networks)
    network, code_shape = networks[0], joined_shape(networks)
    augment = info.trained_views(head) if tta else "none"
    card = write_card([each.info for each in networks], limits=limits, day=date)
    inputs, outputs = (
        [(each.name, tuple(each.shape[1:])) for each in ends]
        for ends in (session.get_inputs(), session.get_outputs())
    )
    wanted = [("probabilities", (len(info.labels),)), (UNKNOWN, ())]
    if inputs != [("codes", code_shape)] or outputs not in (wanted[:1], wanted):
        raise FileFormatError(f"{head}: its input or output is not that of a head; train it again")
    with (
        replacing(output, overwrite=overwrite) as temporary,
        runtime_errors(
            lambda reason: FileFormatError(
                f"{head}: cannot be joined to {network.path} ({reason}); make it again"
            )
        ),
    ):
        joined = _join([each.path for each in networks], head, code_shape, winograd=winograd)
        describe_parts(joined, [part.n_columns for part in info.parts])
        if tta:
            average_over_views(joined, augment)
            card["tta"] = augment
        elif len(networks) == 1:
            _output_features(joined, network.info.pool)
        info = replace(
            info,
            backbone=network.info,
            backbone_sha256=network.sha256,
            parts=tuple(
                Part(each.info, each.sha256, part.n_columns)
                for each, part in zip(networks, info.parts, strict=False)  # none for one network
            ),
            card=card | _change(joined, info, network.info.input_size, half=half, batch=batch),
        )
        helper.set_model_props(joined, info.to_metadata("app"))
        save_checked(joined, temporary)
    if golden is not None:
        write_golden(output, golden, overwrite=overwrite)
    return info


def _check_columns(head: Path, parts: Sequence[Part], networks: Sequence[Backbone]) -> None:
    """Refuse a head whose metadata have another number of codes for one of several networks."""
    for part, each in zip(parts, networks, strict=False):  # no parts for one network
        n_codes = math.prod(each.code_shape)
        if part.n_columns != n_codes:
            raise FileFormatError(
                f"{head}: the metadata are damaged ({each.path} has {counted(n_codes, 'code')}, "
                f"not {part.n_columns}); make the file again"
            )


def _change(
    app: onnx.ModelProto, info: HeadInfo, input_size: int, *, half: bool, batch: int | None
) -> dict[str, Any]:
    """Change an app as asked for, in place; return what its card has of that."""
    card: dict[str, Any] = {}
    if half:
        before = onnx.ModelProto()
        before.CopyFrom(app)
        n_tensors = halve_weights(app)
        images = [draw_image(number, input_size, input_size) for number in range(N_COMPARED)]
        card["half"] = {
            "n_tensors": n_tensors,
            **compare_answers(before, app, images, info.thresholds),
        }
    if batch is not None:
        fix_batch(app, batch)
        card["batch"] = batch
    return card


def _join(
    backbones: Sequence[Path], head: Path, code_shape: Sequence[int], *, winograd: bool
) -> onnx.ModelProto:
    paths = [*backbones, head]
    models = [onnx.load(str(path), format="protobuf") for path in paths]
    for index in range(0 if winograd else len(backbones)):
        graph = Graph(models[index])
        if restore_convolutions(graph):
            models[index] = graph.model()
    for model in models:
        del model.metadata_props[:]  # merge_models refuses metadata that differ
        _clean_domains(model)
    # Files of this release have the same versions; others may not.
    opset, ir_version = max(map(_opset, models)), max(model.ir_version for model in models)
    *networks, second = (
        _in_versions(model, opset, ir_version, path)
        for model, path in zip(models, paths, strict=True)
    )
    first = networks[0] if len(networks) == 1 else side_by_side(networks, code_shape)
    joined = onnx.compose.merge_models(
        first,
        onnx.compose.add_prefix(second, "head/"),  # keeps names of the two graphs apart
        io_map=[("codes", "head/codes")],
        name="cnncodes_app",
        producer_name="cnncodes",
    )
    _clean_domains(joined)
    for output, name in zip(joined.graph.output, ("probabilities", UNKNOWN), strict=False):
        rename_tensor(joined, output.name, name)
        output.name = name
    # The merger describes the codes, of N images. To tract that is a fact, which contradicts
    # the number of images it is given. The shapes follow from the graph anyway.
    del joined.graph.value_info[:]
    return joined


def _output_features(app: onnx.ModelProto, pool: str) -> None:
    """Add what a linear head's answers are explained by as a second output: codes before pooling.

    The output is a tensor that is computed anyway, but for a transposition behind a pooled
    network's last layer: with it an app takes 0.97 to 1.00 of the time (MobileNetV2, InceptionV3
    and VGG16, batches of 1 and 4). To compute the contributions in the graph too would take 1 % to
    10 % more, at 8 and at 102 classes, whether somebody asks for them or not.
    """
    graph = app.graph
    if not {WEIGHTS, BIAS} <= {each.name for each in graph.initializer}:
        return
    shapes = Graph(app).shapes()
    if pool == "none":
        shape = shapes["codes"]
        if len(shape) != 4 or 0 in shape[1:]:  # a network from elsewhere
            return
        rename_tensor(app, "codes", FEATURES)
    else:
        (last,) = (node for node in graph.node if "codes" in node.output)
        if last.op_type != POOLS.get(pool):  # several pools or layers side by side
            return
        n_images, channels, height, width = shapes[last.input[0]]
        shape = [n_images, height, width, channels]
        to_features = helper.make_node(
            "Transpose", [last.input[0]], [FEATURES], name=FEATURES, perm=TO_NHWC
        )
        graph.node.append(to_features)
    output = helper.make_tensor_value_info(FEATURES, onnx.TensorProto.FLOAT, ["N", *shape[1:]])
    graph.output.insert(1, output)


def _opset(model: onnx.ModelProto) -> int:
    """Return the version of the default domain's operators."""
    return max((each.version for each in model.opset_import if not each.domain), default=0)


def _in_versions(
    model: onnx.ModelProto, opset: int, ir_version: int, path: Path
) -> onnx.ModelProto:
    """Raise a model to these versions where its own are lower."""
    old = _opset(model)
    if old < opset:
        try:
            model = onnx.version_converter.convert_version(model, opset)
            onnx.checker.check_model(model, full_check=True)
        except Exception as error:  # the converter raises anything
            raise FileFormatError(
                f"{path}: is of opset {old}, the other file of {opset}, and onnx cannot convert "
                "it; make it again with this release"
            ) from error
    model.ir_version = ir_version
    return model


def _clean_domains(model: onnx.ModelProto) -> None:
    """List each operator domain that is used once: merge_models refuses versions that differ."""
    used = {"", *(node.domain for node in model.graph.node)}
    kept = {each.domain: each for each in model.opset_import if each.domain in used}
    del model.opset_import[:]
    model.opset_import.extend(kept.values())
