"""Results of `bench` and `verify`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from cnncodes.text import shown

if TYPE_CHECKING:
    from cnncodes.inspect.bench import Benchmark
    from cnncodes.inspect.verify import Verification


def print_benchmarks(benchmarks: Sequence[Benchmark]) -> None:
    """Print a line per file, then images per second by batch size and threads."""
    names = [shown(each.path) for each in benchmarks]
    width = max(len("file"), *map(len, names))
    ratio = len(benchmarks) > 1
    click.echo(
        f"{'file':{width}}  precision  file MB  load s  p50 ms  p95 ms  images/s  {'min–max':>13}"
        f"  memory MB{'  ratio' if ratio else ''}"
    )
    for name, each in zip(names, benchmarks, strict=True):
        peak = "–" if each.peak_bytes is None else f"{each.peak_bytes / 1e6:.0f}"
        spread = f"{each.best.slowest:.1f}–{each.best.fastest:.1f}"
        click.echo(
            f"{name:{width}}  {shown(each.precision):9}  {each.file_bytes / 1e6:7.1f}"
            f"  {each.load_seconds:6.2f}  {each.latency_p50 * 1e3:6.1f}"
            f"  {each.latency_p95 * 1e3:6.1f}  {each.best.images_per_second:8.1f}  {spread:>13}"
            f"  {peak:>9}{f'  {each.ratio:5.2f}' if ratio else ''}"
        )
    turns = ", the files in turn" if ratio else ""
    click.echo(
        f"images/s is the median of {benchmarks[0].best.rounds} rounds{turns}; min–max are the "
        "slowest and the fastest of them\n"
        "of single images, half take at most p50, and 95 of 100 at most p95\n"
        "\nimages/s by batch size, for parallel batches × threads of each; * is the rate above"
    )
    sizes = list(dict.fromkeys(each.batch_size for each in benchmarks[0].throughputs))
    click.echo(" " * (width + 11) + "".join(f"{size:9}" for size in sizes))
    for name, each in zip(names, benchmarks, strict=True):
        for start in range(0, len(each.throughputs), len(sizes)):
            row = each.throughputs[start : start + len(sizes)]
            rates = "".join(
                f"{one.images_per_second:8.1f}{'*' if one == each.best else ' '}" for one in row
            )
            click.echo(f"{name:{width}}  {row[0].callers:3} × {row[0].threads:<3}{rates}".rstrip())


def print_verification(verification: Verification) -> None:
    """Print what was checked, and every fault."""
    click.echo(f"{shown(str(verification.path))}: {verification.kind}")
    for each in verification.checked:
        click.echo(f"  checked: {shown(each)}")
    if verification.largest_difference == 0:
        click.echo("  those computed again are equal to the stored codes")
    elif verification.largest_difference is not None:
        difference = f"{verification.largest_difference:.1e} of the largest code"
        click.echo(f"  those computed again differ from the stored codes by at most {difference}")
    for fault in verification.faults:
        click.echo(f"  WRONG: {shown(fault.subject)}: {shown(fault.problem)}")
    if not verification.faults:
        click.echo("  nothing is wrong")
