"""What is reported of images that cannot be used, beyond their reasons."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence

from cnncodes.errors import SourceWarning
from cnncodes.progress import Progress
from cnncodes.text import class_nouns, listed, shown

MANY_SKIPPED = 0.2  # of the images: more of them are worth a warning


def warn_of_skipped(skipped: Sequence[tuple[str, str]], n_images: int, progress: Progress) -> None:
    """Warn where so many images are unusable that the others may not stand for them.

    Parameters
    ----------
    skipped : sequence of (str, str)
        Path and reason of each of them.
    n_images : int
        Number of images, the skipped ones included.
    progress : Progress
        Cleared before the warning, which is of the caller's caller.
    """
    if len(skipped) <= MANY_SKIPPED * n_images:
        return
    path, reason = skipped[0]
    share = len(skipped) / n_images
    progress.clear()
    warnings.warn(
        f"{len(skipped)} of {n_images} image files ({share:.0%}) cannot be used, and what is made "
        f"of these codes knows the others only; the first, {path}: {reason}",
        SourceWarning,
        stacklevel=3,
    )


def notes_on_classes(
    names: Sequence[str],
    labels: Collection[int],
    counts: Mapping[int, int],
    *,
    several: bool,
) -> list[str]:
    """Return a note on the classes without codes.

    Parameters
    ----------
    names : sequence of str
        All classes.
    labels : collection of int
        Those of which there are images.
    counts : mapping of int to int
        Number of images with codes of each.
    several : bool
        Whether an image may have several of them.
    """
    unusable = [
        shown(name)
        for label, name in enumerate(names)
        if label in labels and not counts.get(label, 0)
    ]
    if not unusable:
        return []
    _, nouns = class_nouns(several=several)
    return [f"no usable image in {len(unusable)} of the {nouns}: {listed(unusable)}"]
