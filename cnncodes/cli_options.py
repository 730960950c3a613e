"""The types of options, and the options that several commands share."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from cnncodes.export.backbones import BACKBONES
from cnncodes.models.session import DEFAULT_PROVIDER
from cnncodes.output import CODES, MODEL, RESULT, TABLE, check_output
from cnncodes.parameters import (
    CODE_POOLS,
    MAX_PIXELS,
    PARTS,
    SEED,
    STRENGTH,
    THREADS,
    TRAIN_FRACTION,
    Real,
    Whole,
)
from cnncodes.text import similar

Command = TypeVar("Command", bound=Callable[..., Any])


def whole(among: Whole) -> click.IntRange:
    """Return the type of an option that is a whole number of a range."""
    return click.IntRange(among.least, among.most)


class Number(click.FloatRange):
    """A number of a range; click itself lets NaN through.

    Parameters
    ----------
    among : Real
        The range.
    """

    def __init__(self, among: Real) -> None:
        super().__init__(among.least, among.most, among.least_open, among.most_open)

    def convert(self, value: Any, param: Any, ctx: click.Context | None) -> float:
        """Turn what was typed into a number."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a valid number", param, ctx)
        return number


class ValueOrNone(Number):
    """A number that may be left out: what stands behind such an option is taken for it."""

    def convert(self, value: Any, param: Any, ctx: click.Context | None) -> float:
        """Turn what was typed into a number."""
        try:
            float(value)
        except ValueError:
            name = param.opts[0]
            self.fail(
                f"{value!r} is no number; put {name} at the end of the line, or write "
                f"{name}={param.flag_value}",
                param,
                ctx,
            )
        return super().convert(value, param, ctx)


class WrittenPath(click.Path):
    """A file or folder to write: ``-`` would seem to mean standard output."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, readable=False)

    def convert(self, value: Any, param: Any, ctx: click.Context | None) -> Any:
        """Turn what was typed into a path."""
        if os.fsdecode(value) == "-":
            self.fail("results go to files, not to standard output; name one", param, ctx)
        return super().convert(value, param, ctx)


class OutputPath(WrittenPath):
    """A file to write: `pathlib` drops a slash at the end, which only a folder can have.

    Parameters
    ----------
    endings : sequence of str
        As for `check_output`.
    """

    def __init__(self, endings: Sequence[str] = ()) -> None:
        super().__init__()
        self.endings = endings

    def convert(self, value: Any, param: Any, ctx: click.Context | None) -> Any:
        """Turn what was typed into a path."""
        text = os.fsdecode(value)
        if text.endswith((os.sep, os.altsep or os.sep)):
            self.fail(f"{text!r} names a folder; name a file", param, ctx)
        return super().convert(value, param, ctx)


class FigurePath(OutputPath):
    """A chart to write."""

    def convert(self, value: Any, param: Any, ctx: click.Context | None) -> Any:
        """Turn what was typed into a path, of a chart that can be drawn here."""
        from cnncodes.evaluate.charts import check_figure

        path = super().convert(value, param, ctx)
        check_figure(path, overwrite=True)  # whether it may be replaced is another option's
        return path


class CheckedCommand(click.Command):
    """A command whose output paths are checked before it imports what its work needs."""

    allow_extra_args = True  # refused below, with what to do

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse arguments beyond those of the command, and files that look like options."""
        typed = [*args]  # click takes from the list what it has read
        try:
            rest = super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            for each in typed:
                if each.startswith("-") and os.path.lexists(each):
                    ctx.fail(f"{error.format_message()} For the file of that name, write ./{each}")
            raise
        if rest and not ctx.resilient_parsing:
            message = f"one argument too many: {rest[0]}"
            if any("SOURCE" in (each.metavar or str(each.name).upper()) for each in self.params):
                message += "; SOURCE is one folder or CSV file, so put the images of all into one"
            ctx.fail(message)
        return rest

    def invoke(self, ctx: click.Context) -> Any:
        """Check the output paths, then run the command; without its result nothing is kept."""
        values = {each: ctx.params.get(each.name or "") for each in self.params}
        inputs = [
            path
            for each, value in values.items()
            if each.type is INPUT and value is not None
            for path in (value if isinstance(value, tuple) else (value,))
        ]
        # A command that can update a file looks at it itself.
        overwrite = bool(ctx.params.get("overwrite")) or "update" in ctx.params
        for each, value in values.items():
            if isinstance(each.type, OutputPath) and value is not None:
                check_output(value, overwrite=overwrite, inputs=inputs, endings=each.type.endings)
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            writes = any(isinstance(each.type, OutputPath) for each in self.params)
            if interrupt.args or not writes:  # it has said already what is kept
                raise
            raise KeyboardInterrupt(
                "nothing is kept, and the same command starts from the beginning"
            ) from None


class Network(click.Choice):  # type: ignore[type-arg]
    """A network that can be exported; a name that is none of them is answered by the nearest."""

    def __init__(self) -> None:
        super().__init__(list(BACKBONES))

    def convert(self, value: Any, param: Any, ctx: click.Context | None) -> str:
        """Return the name as it was typed, if it is one."""
        if value not in BACKBONES:
            near = similar(value, BACKBONES)
            meant = f"did you mean {near[0]}? " if near else ""
            all_names = "cnncodes export --list prints all"
            self.fail(f"{value!r} is no network of the table; {meant}{all_names}", param, ctx)
        return str(value)


class Strength(click.ParamType):  # type: ignore[type-arg]
    """A number of `STRENGTH`, or ``auto``."""

    name = "auto|number"

    def convert(self, value: Any, param: Any, ctx: click.Context | None) -> Any:
        """Turn what was typed into a number."""
        if value == "auto":
            return value
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if number not in STRENGTH:
            ends = f"from {STRENGTH.least:g} to {STRENGTH.most:g}"
            self.fail(f"{value!r} is neither auto nor a number {ends}", param, ctx)
        return number


class PartOf(click.ParamType):  # type: ignore[type-arg]
    """Which part of several, such as ``3/8``."""

    name = "K/N"

    def convert(self, value: Any, param: Any, ctx: click.Context | None) -> Any:
        """Turn what was typed into the number of the part and how many there are."""
        if isinstance(value, tuple):
            return value
        try:
            number, count = map(int, value.split("/"))
        except ValueError:
            number = count = 0
        if not (count in PARTS and 1 <= number <= count):
            self.fail(f"{value!r} is no part: of eight these are 1/8, 2/8 to 8/8", param, ctx)
        return number, count


class Sizes(click.ParamType):  # type: ignore[type-arg]
    """Whole numbers of a range, separated by commas; sorted, each once.

    Parameters
    ----------
    among : Whole
        The range.
    """

    name = "N,N,…"

    def __init__(self, among: Whole) -> None:
        self._among = among

    def convert(self, value: Any, param: Any, ctx: click.Context | None) -> Any:
        """Turn what was typed into numbers."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = {int(each) for each in value.split(",")}
        except ValueError:
            numbers = set()
        if not numbers or not all(number in self._among for number in numbers):
            ends = f"from {self._among.least:,} to {self._among.most:,}"
            wanted = f"whole numbers {ends}, such as 5,10,20"
            self.fail(f"{value!r} is not a list of {wanted}", param, ctx)
        return tuple(sorted(numbers))


# Whether a path can be read is reported by what reads it, as for any other failure.
INPUT = click.Path(path_type=Path, readable=False)
FOLDER = WrittenPath()
OUTPUT, FIGURE = OutputPath(), FigurePath()  # whose own checks know the endings
MODEL_OUTPUT, CODES_OUTPUT = OutputPath(MODEL), OutputPath(CODES)
RESULT_OUTPUT, TABLE_OUTPUT = OutputPath(RESULT), OutputPath(TABLE)

overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace the output file if it exists."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
mixed_option = click.option(
    "--allow-mixed",
    is_flag=True,
    help="Accept codes of the head's network in the other precision, float32 or int8.",
)
provider_option = click.option(
    "--provider",
    default=DEFAULT_PROVIDER,
    show_default=True,
    metavar="NAME",
    help="onnxruntime's execution provider, if the installed build has it: cpu, openvino, "
    "coreml, dml, cuda …",
)
pool_option = click.option(
    "--pool",
    type=click.Choice(CODE_POOLS),
    default="none",
    show_default=True,
    help="Pool the codes over height and width; grid2 has the mean of each quarter.",
)
max_pixels_option = click.option(
    "--max-pixels",
    type=whole(MAX_PIXELS),
    default=100_000_000,
    show_default=True,
    help="An image with more pixels is not decoded.",
)
group_option = click.option(
    "--group-by",
    type=click.Choice(["folder"]),
    help="Keep the images of each folder below a class folder on one side of every split.",
)
classes_option = click.option(
    "--classes",
    type=INPUT,
    metavar="MAP",
    help="Rename, merge or leave out classes by this CSV file with the columns from and to.",
)
exclude_option = click.option(
    "--exclude",
    type=INPUT,
    metavar="LIST",
    help="Leave out the images of this list: column b of an overlap.csv, or a path in each line.",
)
together_option = click.option(
    "--keep-together",
    type=INPUT,
    metavar="LIST",
    help="Keep the images of each pair of this overlap.csv on one side of every split.",
)
threads_option = click.option(
    "--threads", type=whole(THREADS), help="Number of threads, by default one per processor."
)
train_fraction_option = click.option(
    "--train-fraction",
    type=Number(TRAIN_FRACTION),
    default=0.7,
    show_default=True,
    help="Share of each class for training; the rest is for testing.",
)
split_option = click.option(
    "--split",
    type=click.Choice(["stratified", "first"]),
    default="stratified",
    show_default=True,
    help="Draw the training images of a class at random, or take the first by name.",
)


def seed_option(what: str) -> Callable[[Command], Command]:
    """Return the option ``--seed``; its help names `what` it seeds."""
    return click.option(
        "--seed", type=whole(SEED), default=0, show_default=True, help=f"Seed of {what}."
    )


def penalty_option(prefix: str = "") -> Callable[[Command], Command]:
    """Return the option ``--C``; the help starts with `prefix`."""
    return click.option(
        "--C",
        "C",
        type=Strength(),
        default="auto",
        show_default=True,
        help=f"{prefix}Inverse strength of the penalty; auto chooses it by cross-validation.",
    )


def class_weight_option(prefix: str = "") -> Callable[[Command], Command]:
    """Return the option ``--class-weight``; the help starts with `prefix`."""
    return click.option(
        "--class-weight",
        type=click.Choice(["balanced"]),
        help=f"{prefix}Weight each class by the inverse of its number of images.",
    )


def with_option_names(message: str, command: click.Command) -> str:
    """Return a message of the library with the options of a command in place of parameters.

    Parameters
    ----------
    message : str
        A message that may name parameters of more than one word (``max_pixels``), or values of
        any parameter (``overwrite=True``, ``dtype='float32'``).
    command : click.Command
        The command that was run.

    Returns
    -------
    str
        The same message with ``--max-pixels``, ``--overwrite`` and ``--dtype float32``.
    """
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name:
            name, option = re.escape(parameter.name), parameter.opts[0]
            alone = "(?:=True)?" if "_" in name else "=True"
            # Not inside a path that has the same letters.
            before, after = r"(?<![\w./\\-])", r"(?![\w./\\-])"
            message = re.sub(rf"{before}{name}='([\w+]+)'", rf"{option} \1", message)
            message = re.sub(f"{before}{name}{alone}{after}", option, message)
    return message


def command(summary: str, example: str) -> Callable[[Callable[..., None]], click.Command]:
    """Return the decorator that makes a command with its line in the list and an example."""
    return click.command(cls=CheckedCommand, short_help=summary, epilog=f"Example: {example}")
