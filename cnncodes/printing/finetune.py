"""Results of `finetune`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cnncodes.printing.heads import print_evaluation
from cnncodes.text import counted, shown

if TYPE_CHECKING:
    from cnncodes.evaluate.metrics import Metrics
    from cnncodes.finetune.checkpoint import Epoch
    from cnncodes.finetune.result import FineTuning
    from cnncodes.progress import Progress


def print_tuned_epoch(epoch: Epoch, n_epochs: int, progress: Progress) -> None:
    """Print on standard error how an epoch ended, and the time that all others take."""
    validation = ""
    if epoch.validation_loss is not None:
        validation = (
            f"validation loss {epoch.validation_loss:.4f}  "
            f"accuracy {epoch.validation_accuracy:.1%}  "
        )
    if epoch.train_loss is None:
        progress.print_line(f"  start, a linear classifier    {validation}".rstrip())
        return
    minutes, seconds = divmod(round(epoch.seconds * (n_epochs - epoch.number)), 60)
    progress.print_line(
        f"  epoch {epoch.number:3}  train loss {epoch.train_loss:.4f}  {validation}"
        f"{epoch.seconds:.1f} s, at most {minutes}:{seconds:02} left"
    )


def print_fine_tuning(tuned: FineTuning) -> None:
    """Print the epochs, the metrics before and after, and the files written."""
    best, n_done = tuned.best_epoch, len(tuned.epochs) - 1
    click.echo(
        f"{shown(str(tuned.path))}: {tuned.network} fine-tuned above {tuned.from_layer} on "
        f"{counted(tuned.n_train, 'image')}, {tuned.n_validation} held out"
    )
    if best.validation_loss is None:
        click.echo(f"  weights of the last of {counted(best.number, 'epoch')}")
    elif best.number:
        click.echo(f"  epoch {best.number} of {n_done} had the lowest validation loss")
    else:
        click.echo(
            f"  no epoch of {n_done} had a lower validation loss than the linear classifier, "
            "which the app therefore has"
        )
    rows = [("linear classifier", tuned.before), ("fine-tuned", tuned.after.metrics)]
    if tuned.int8 is not None:
        rows.append(("fine-tuned, int8", tuned.int8.metrics))
    click.echo(f"  {'test images':18}  accuracy  balanced  log loss  calibration error")
    for name, figures in rows:
        click.echo(f"  {name:18}  {_figures(figures)}")
    click.echo(
        f"  {tuned.parity.n_equal} of {counted(tuned.parity.n_images, 'test image')} get the same "
        "label from Keras"
    )
    steps = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in tuned.seconds.items())
    click.echo(f"  time: {steps}")
    for note in tuned.notes:
        click.echo(f"  note: {shown(note)}")
    print_evaluation(tuned.after, None, None)
    if tuned.int8_path is not None:
        click.echo(f"{shown(str(tuned.int8_path))}: the same in int8")
    click.echo(f"{shown(str(tuned.work))}: what it was made from; delete it to free the disk")


def _figures(figures: Metrics) -> str:
    return (
        f"{figures.accuracy:8.1%}  {figures.balanced_accuracy:8.1%}  {figures.log_loss:8.4f}  "
        f"{figures.calibration_error:17.1%}"
    )
