"""Results of `export`, `quantize` and `bundle`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cnncodes.export.backbones import DEFAULT_INPUT_SIZE
from cnncodes.models.description import card_rows, precision_rows, weights_text
from cnncodes.printing.emit import shape_text
from cnncodes.text import class_nouns, counted, shown

if TYPE_CHECKING:
    from cnncodes.export.backbones import BackboneSpec
    from cnncodes.export.export import Export
    from cnncodes.models.metadata import HeadInfo
    from cnncodes.quantize.quantize import Quantization

WORTHWHILE = 1.1  # times the speed


def print_backbones(specs: Iterable[BackboneSpec]) -> None:
    """Print the networks that can be exported, a line each."""
    click.echo("network             codes                  parameters  operations  smallest input")
    for spec in specs:
        codes = f"{shape_text(spec.code_shape)} = {math.prod(spec.code_shape):,}"
        click.echo(
            f"{spec.name:18}  {codes:22} {spec.n_parameters / 1e6:8.1f} M"
            f"  {spec.n_multiply_adds / 1e9:8.1f} G  {spec.min_input_size:7} pixels"
        )
    click.echo(
        f"  codes and operations (a multiplication and its addition are one) of an image of\n"
        f"  {DEFAULT_INPUT_SIZE} pixels a side; --json names the files of the weights too"
    )


def export_to_json(exported: Export) -> dict[str, Any]:
    """Return an exported backbone as JSON types, its metadata beside path and shape."""
    named = {"path": exported.path, "code_shape": exported.code_shape}
    return {**named, **asdict(exported.info)}


def print_export(exported: Export) -> None:
    """Print what was exported, and how close it is to Keras."""
    info = exported.info
    size = (info.input_size, info.input_size)
    weights = weights_text(info.weights, info.weights_file)
    click.echo(f"{shown(str(exported.path))}: {info.backbone}, {weights}")
    click.echo(f"  codes   {shape_text(exported.code_shape)} for an image of {shape_text(size)}")
    ((name, text),) = precision_rows(info.parity, info.parity_images, {})
    click.echo(f"  {name:6}  {text}")


def print_quantization(quantized: Quantization) -> None:
    """Print how close the int8 codes are to the float32 ones, and the speed-up."""
    before, after = quantized.images_per_second
    spreads = [f"{least:.1f}–{most:.1f}" for least, most in quantized.images_per_second_spread]
    sizes = [f"{size / 1e6:.1f} MB" for size in quantized.file_sizes]
    info = quantized.info
    click.echo(f"{shown(str(quantized.path))}: {shown(info.backbone)}, int8")
    rows = [
        *precision_rows(info.parity, info.parity_images, json.loads(info.quantization)),
        (
            "speed",
            f"{after:.1f} images per second (rounds of {spreads[1]}), {after / before:.1f} times "
            f"that of float32, {before:.1f} ({spreads[0]})",
        ),
        ("size", f"{sizes[1]}, float32 {sizes[0]}"),
    ]
    for name, text in rows:
        click.echo(f"  {name:11}  {text}")
    if after < WORTHWHILE * before or not quantized.is_close:
        click.echo("  Not worth it: this network does better in its float32 file.")
    for note in quantized.notes:
        click.echo(f"  note: {shown(note)}")


def print_bundle(path: Path, info: HeadInfo, golden: Path | None) -> None:
    """Print which files were made, and what float16 weights change."""
    megabytes = path.stat().st_size / 1e6
    classes = counted(len(info.labels), *class_nouns(several=info.has_several_labels))
    click.echo(f"{shown(str(path))}: {classes}, {megabytes:.0f} MB")
    measured = {key: value for key, value in info.card.items() if key == "half"}
    for name, text in card_rows(measured):
        click.echo(f"  {name}  {text}")
    measured_with_views, has_views = bool(info.training.get("tta")), "tta" in info.card
    if measured_with_views and not has_views:
        click.echo(
            "  note: the accuracy in its card is that of the mean over views, which this app does "
            "not take; bundle --tta does"
        )
    if has_views and not measured_with_views:
        click.echo(
            "  note: the accuracy in its card is that of single images, and this app takes the "
            "mean over views; train --tta measures that"
        )
    if golden is not None:
        click.echo(f"{shown(str(golden))}: three images with the app's answers, golden.json")
