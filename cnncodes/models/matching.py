"""Which of some files is of which network of a head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cnncodes.errors import FileFormatError
from cnncodes.models.metadata import BackboneInfo, HeadInfo, Part, check_same_network


def match_networks(
    path: Path,
    head: HeadInfo,
    others: Sequence[tuple[Path, BackboneInfo, str]],
    *,
    allow_mixed: bool = False,
) -> list[int]:
    """Return the index among `others` of each network of a head, as by `check_same_network`.

    Parameters
    ----------
    path : Path
        The head.
    head : HeadInfo
        Its metadata.
    others : sequence of (Path, BackboneInfo, str)
        Backbone files or codes files with the network and its SHA-256, in any order.
    allow_mixed : bool
        As for `check_same_network`.

    Raises
    ------
    FileFormatError
        They are more or fewer than the networks of the head, or others.
    """
    parts = head.parts or (Part(head.backbone, head.backbone_sha256, 0),)
    if len(others) != len(parts):
        names = ", ".join(part.backbone.backbone for part in parts)
        count = "1 network" if len(parts) == 1 else f"{len(parts)} networks side by side"
        raise FileFormatError(
            f"{path}: was trained on codes of {count} ({names}); name one file for each, not "
            f"{len(others)}"
        )
    # The very file of a network first: with `allow_mixed` another may do for it too.
    exact = {
        part.sha256: index
        for part in parts
        for index, (_, _, sha256) in reversed(list(enumerate(others)))
        if sha256 == part.sha256
    }
    matched: list[int] = []
    for part in parts:
        if part.sha256 in exact and exact[part.sha256] not in matched:
            matched.append(exact[part.sha256])
            continue
        own = replace(head, backbone=part.backbone, backbone_sha256=part.sha256)
        failure: FileFormatError | None = None
        for index, other in enumerate(others):
            if index in matched or index in exact.values():
                continue
            try:
                check_same_network(path, own, *other, allow_mixed=allow_mixed)
            except FileFormatError as error:
                failure = failure or error
            else:
                matched.append(index)
                break
        else:
            assert failure is not None  # there is one file for each part
            raise failure
    return matched
