"""What the model card of an app has beside the other metadata: licence, date, limits.

`cnncodes info` prints the whole card: network, data, counts and accuracy are in the metadata of
every head.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import date, datetime, timezone
from typing import Any

from cnncodes.errors import ParameterError
from cnncodes.export.backbones import licence_of
from cnncodes.models.metadata import BackboneInfo

EPOCH = "SOURCE_DATE_EPOCH"  # of reproducible-builds.org: seconds since 1970
MAX_LIMITS = 4096  # characters


def write_card(
    networks: Sequence[BackboneInfo], *, limits: str | None, day: str | None
) -> dict[str, Any]:
    """Return the entries of `HeadInfo.card`.

    There is a date only where `day` or the environment gives one: an app made again from the same
    files is the same, byte for byte.

    Parameters
    ----------
    networks : sequence of BackboneInfo
        The networks of the app.
    limits : str, optional
        What the app must not be used for.
    day : str, optional
        Its date, as ``2025-01-31``; by default that of the environment variable
        ``SOURCE_DATE_EPOCH``, if it is set.

    Returns
    -------
    dict of str to JSON types
        What is not given is absent.

    Raises
    ------
    ParameterError
        `limits` is empty or too long, or a date is none.
    """
    written = _day(day)
    return {
        **({} if limits is None else {"limits": _checked(limits)}),
        "licence": "; ".join(dict.fromkeys(map(licence_of, networks))),
        **({} if written is None else {"date": written}),
    }


def _checked(limits: str) -> str:
    if not isinstance(limits, str) or not 0 < len(limits.strip()) <= MAX_LIMITS:
        raise ParameterError(f"limits must be a text of 1 to {MAX_LIMITS:,} characters")
    return limits.strip()


def _day(day: str | None) -> str | None:
    if day is not None:
        try:
            return date.fromisoformat(day).isoformat()
        except (TypeError, ValueError) as error:
            raise ParameterError(f"date must be a day such as 2025-01-31, not {day!r}") from error
    seconds = os.environ.get(EPOCH)
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(int(seconds), timezone.utc).date().isoformat()
    except (ValueError, OverflowError, OSError) as error:
        raise ParameterError(
            f"the environment variable {EPOCH} must be a number of seconds, not {seconds!r}"
        ) from error
