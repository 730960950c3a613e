"""The command line: the group of the commands, and how failures end.

No logic lives here, and nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import logging
import sys
import warnings
from contextlib import nullcontext
from functools import partial
from typing import IO, Any, NoReturn

import click

from cnncodes._version import __version__
from cnncodes.cli_options import (
    CheckedCommand,
    with_option_names,
)
from cnncodes.commands.files import bench, demo, info, verify
from cnncodes.commands.heads import curve, evaluate, experiment, train
from cnncodes.commands.images import convert, extract, fetch, merge, overlap
from cnncodes.commands.networks import bundle, export, finetune, quantize
from cnncodes.commands.predictions import page, predict, serve
from cnncodes.errors import (
    CnncodesError,
    FileLockWarning,
    OutputError,
    SaturationWarning,
    SourceWarning,
)
from cnncodes.interrupts import Interruptible
from cnncodes.machine import give_memory_back
from cnncodes.streams import open_silence, prepare
from cnncodes.text import shown

# In the order of their use, in which --help lists them.
COMMANDS = (
    export,
    quantize,
    fetch,
    extract,
    merge,
    convert,
    overlap,
    train,
    evaluate,
    curve,
    experiment,
    bundle,
    finetune,
    predict,
    serve,
    page,
    bench,
    info,
    verify,
    demo,
)


class Program(click.Group):
    """Prints every failure in one line and exits with 1; usage errors stay click's own."""

    command_class = CheckedCommand

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the program on standard streams that are fit to be used."""
        prepare()
        return super().main(*args, **extra)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Parse the options; --help and --version print here, before any command runs."""
        try:
            return super().make_context(*args, **extra)
        except OutputError as error:
            _fail(str(error))

    def invoke(self, context: click.Context) -> Any:
        """Run a command; with ``--debug`` let its traceback through."""
        give_memory_back()
        if context.params["debug"]:
            return self._run(context)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")  # odd metadata, no use to anyone
            logging.getLogger("PIL").setLevel(logging.CRITICAL)  # what it logs, it raises too
            for shown_once in (FileLockWarning, SaturationWarning, SourceWarning):
                warnings.simplefilter("default", shown_once)
            warnings.showwarning = partial(_show_warning, sys.stderr)
            return self._invoke(context)

    def _run(self, context: click.Context) -> Any:
        # Errors and warnings are written to the stream that was there before.
        silence = open_silence() if context.params["quiet"] else nullcontext()
        with Interruptible(), silence:
            return super().invoke(context)

    def _invoke(self, context: click.Context) -> Any:
        try:
            return self._run(context)
        except CnncodesError as error:
            command = self.commands.get(context.invoked_subcommand or "", self)
            _fail(with_option_names(str(error), command))
        except KeyboardInterrupt as interrupt:
            _fail(f"interrupted; {interrupt}" if str(interrupt) else "interrupted")
        except MemoryError:
            _fail("not enough memory; use fewer images, --pool avg or a smaller --batch-size")
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            _fail(f"{type(error).__name__}: {error} (cnncodes --debug shows where)")

    def list_commands(self, context: click.Context) -> list[str]:
        """List the commands in the order in which they are used."""
        return list(self.commands)


def _fail(message: str) -> NoReturn:
    click.echo(f"Error: {shown(' '.join(message.split()))}", err=True)
    raise click.exceptions.Exit(1)


def _show_warning(stream: IO[str], message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"Warning: {shown(' '.join(str(message).split()))}", file=stream)


@click.group(
    cls=Program, commands=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="cnncodes")
@click.option("--debug", is_flag=True, help="Show the traceback of a failure.")
@click.option("--quiet", is_flag=True, help="Print no progress and no notes beside the result.")
def main(debug: bool, quiet: bool) -> None:
    """From a folder of photographs to an image classifier, on the CPU.

    The commands are listed in the order of their use; each has an example in its --help.
    """
