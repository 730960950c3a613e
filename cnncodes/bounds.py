"""Limits of what a file holds, checked when it is written and when it is read.

A file may come from a stranger, so what is read of it is bounded. What is written is checked
against the same limits, where possible before the work: no head is written that cannot be opened.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cnncodes.text import shown

# No folder of classes has more labels, or longer ones.
MAX_LABELS, MAX_LABEL_LENGTH = 100_000, 4096
MAX_LABELS_BYTES = 8_000_000  # of all labels, as JSON
MAX_TRAINING_IMAGES = 2_500_000  # in a head's metadata, 6 bytes each
MAX_ENTRY_BYTES = 1_000_000  # of any other entry of a model's metadata
MAX_ENTRIES_BYTES = 32_000_000  # of all: 8 MB of labels, 20 MB of images in base64, and the rest
MAX_DEPTH = 20  # of JSON in JSON
MAX_MODEL_BYTES = 2**31 - 1  # what protobuf can hold
MAX_PATH_LENGTH = 32_767  # the longest that any operating system allows
MAX_ROW_BYTES = 64 * 2**20  # of the codes of an image; a worker holds a batch of them
MAX_GROUP_LENGTH = 4096
MAX_WEIGHT = 1_000_000  # of an image in training
MAX_TEXT_BYTES = 2**16  # of a path, a group or a reason in a codes file
MAX_REASON_LENGTH = 1000  # of why an image was skipped
NORMALIZATIONS = ("none", "sqrt", "length", "sqrt+length")  # of codes, by a head
SMALLEST_LENGTH = 1e-12  # of codes, when these are divided by it: zeros stay zeros
LARGE_ENTRIES = {
    "labels": MAX_LABELS_BYTES,
    "thresholds": MAX_LABELS_BYTES,
    "training_images": 8 * MAX_TRAINING_IMAGES + 8,
    "measured_images": 8 * MAX_TRAINING_IMAGES + 8,
}


def fault_of_labels(labels: Sequence[str]) -> str:
    """Return why labels cannot be stored, or an empty string.

    Parameters
    ----------
    labels : sequence of str
        The names of the classes.

    Returns
    -------
    str
        The reason.
    """
    if len(labels) > MAX_LABELS:
        return f"there are {len(labels):,} labels, and at most {MAX_LABELS:,} can be used"
    longest = max(labels, key=len, default="")
    if len(longest) > MAX_LABEL_LENGTH:
        return (
            f"a label has {len(longest):,} characters, and at most {MAX_LABEL_LENGTH:,} can be "
            f"used (it begins {shown(longest[:40])})"
        )
    n_bytes = len(json.dumps(labels))
    if n_bytes > MAX_LABELS_BYTES:
        return (
            f"all labels together take {n_bytes / 1e6:.1f} MB, and at most "
            f"{MAX_LABELS_BYTES / 1e6:.0f} MB can be used"
        )
    return ""


def fault_of_thresholds(thresholds: Any, n_labels: int) -> str:
    """Return why the thresholds of a head, of any JSON type, cannot be used, or an empty string.

    Parameters
    ----------
    thresholds : JSON type
        Probabilities; an empty list for a head whose images have one class.
    n_labels : int
        Number of labels, each of which has a threshold.

    Returns
    -------
    str
        The reason.
    """
    if not isinstance(thresholds, list) or len(thresholds) not in (0, n_labels):
        return "the thresholds are not a list of a number for each label"
    for each in thresholds:
        if isinstance(each, bool) or not isinstance(each, int | float) or not 0 <= each <= 1:
            return f"a threshold is no probability: {each!r:.40}"
    return ""


def fault_of_text(text: str, what: str, most: int) -> str:
    """Return why a text cannot be stored in a codes file, or an empty string.

    Parameters
    ----------
    text : str
        A path or a group.
    what : str
        What it is, such as ``"a path"``.
    most : int
        Largest number of characters.

    Returns
    -------
    str
        The reason.
    """
    if len(text) > most:
        fault = f"{what} has {len(text):,} characters, and at most {most:,} can be used"
    elif len(text) > MAX_TEXT_BYTES // 4 and _stored_bytes(text) > MAX_TEXT_BYTES:
        fault = f"{what} has {_stored_bytes(text):,} bytes, and at most {MAX_TEXT_BYTES:,} can be "
        fault += "used"
    else:
        return ""
    return f"{fault} (it begins {shown(text[:40])})"


def fault_of_metadata(metadata: Mapping[str, str], prefix: str) -> str:
    """Return which entry of a model's metadata is too large, or an empty string.

    Parameters
    ----------
    metadata : mapping of str to str
        The ``metadata_props``.
    prefix : str
        Prefix of our keys.

    Returns
    -------
    str
        The reason.
    """
    for key, value in metadata.items():
        name = key.removeprefix(prefix)
        most = LARGE_ENTRIES.get(name, MAX_ENTRY_BYTES)
        n_bytes = _n_bytes(value)
        if n_bytes > most:
            return f"{name} takes {n_bytes / 1e6:.1f} MB, and at most {most / 1e6:.0f} MB are read"
    return ""


def is_nested_deeply(value: Any) -> bool:
    """Return whether a JSON value is nested deeper than `MAX_DEPTH`."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return bool(level)


def _stored_bytes(text: str) -> int:
    return _n_bytes(text) + text.count("\0")  # which is written in two letters


def _n_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
