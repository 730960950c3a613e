"""A codes file that is there already: its codes are reused, or it is kept as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cnncodes.errors import OutputError
from cnncodes.extract.store import CodesInfo, CodeStore
from cnncodes.files import exists, readable_sha256
from cnncodes.images.sources import Source
from cnncodes.models.kinds import find_kind
from cnncodes.models.metadata import networks_text
from cnncodes.progress import Progress
from cnncodes.text import counted


class Earlier:
    """The codes of an earlier extraction, by the digests of their images.

    Parameters
    ----------
    store : CodeStore, optional
        The codes; none by default.

    Attributes
    ----------
    rows : dict of str to int
        For each digest its row in the codes file.
    n_reused : int
        Number of chunks read so far.
    """

    def __init__(self, store: CodeStore | None = None) -> None:
        self._store = store
        digests = [] if store is None else store.digests
        self.rows = {digest: row for row, digest in enumerate(digests)}
        self.n_reused = 0

    def chunk(self, digest: str) -> bytes:
        """Return the codes of an image, compressed."""
        assert self._store is not None
        self.n_reused += 1
        return self._store.chunk(self.rows[digest])

    def close(self) -> None:
        """Close the codes file."""
        if self._store is not None:
            self._store.close()


@contextmanager
def open_earlier(output: Path, info: CodesInfo, *, update: bool) -> Iterator[Earlier]:
    """Open the file that is updated, if there is one.

    Raises
    ------
    OutputError
        Its codes differ from new ones by network or settings.
    """
    if not (update and exists(output)):
        yield Earlier()
        return
    with CodeStore.open(output) as store:
        if difference := _difference(store, info):
            raise OutputError(
                f"{output}: was made with {difference}; pass the same, or overwrite=True instead "
                "of update=True"
            )
        yield Earlier(store)


def is_codes_file(output: Path) -> bool:
    """Return whether a codes file, be it damaged, is where another is to be written."""
    kind = find_kind(output)
    return kind is not None and kind.name == "codes"


@contextmanager
def open_unchanged(
    output: Path, info: CodesInfo, images: Source, progress: Progress
) -> Iterator[CodeStore]:
    """Open a codes file that would come out the same again.

    The images are compared by path, label, group and the SHA-256 of their files; those that
    were skipped by their paths alone.

    Raises
    ------
    OutputError
        It is of another network, other settings or other images.
    """
    with CodeStore.open(output) as store:
        if difference := _difference(store, info):
            raise OutputError(
                f"{output}: exists already, made with {difference}; choose another name or pass "
                "overwrite=True"
            )
        if changes := _changes(store, images, progress):
            raise OutputError(
                f"{output}: exists already, with other images ({', '.join(changes)}); pass "
                "update=True to compute what is new, or overwrite=True to compute all again"
            )
        yield store


def _difference(store: CodeStore, info: CodesInfo) -> str:
    """Return the first setting by which codes differ from those in a file; "" for none."""
    if store.backbone_sha256 != info.backbone_sha256:
        networks = networks_text(
            store.backbone, store.backbone_sha256, info.backbone, info.backbone_sha256
        )
        return f"another backbone ({networks})"
    for parameter, old, new in (
        ("dtype", store.codes.dtype.name, info.dtype),
        ("max_pixels", store.max_pixels, info.max_pixels),
        ("white", store.white or "guessed", info.white or "guessed"),
    ):
        if old != new:
            return f"another {parameter} ({old}, not {new})"
    return ""


def _changes(store: CodeStore, images: Source, progress: Progress) -> list[str]:
    """Count what differs between the images of a codes file and those of a source."""
    skipped = {path for path, _ in store.skipped}
    stored = Counter(_rows(store.paths, store.labels.tolist(), store.class_names, store.groups))
    current = Counter(
        row
        for row in _rows(images.paths, images.labels, images.class_names, images.groups)
        if row[0] not in skipped
    )
    new = {*images.paths} - {*store.paths} - skipped
    gone = ({*store.paths} | skipped) - {*images.paths}
    kept = {path for path, *_ in (stored - current) + (current - stored)} - new - gone
    counts = {"new": len(new), "gone": len(gone), "of another label or group": len(kept)}
    if not any(counts.values()):  # else it is changed anyhow, and not worth the reading
        digests = dict(zip(store.paths, store.digests, strict=True))
        progress.begin(len(digests), unit="images compared")
        counts["changed"] = 0
        for path, digest in digests.items():
            counts["changed"] += readable_sha256(images.root / path) != digest
            progress.advance(1)
    return [f"{counted(n, 'image')} {what}" for what, n in counts.items() if n]


def _rows(
    paths: Sequence[str], labels: Sequence[int], names: Sequence[str], groups: Sequence[str]
) -> Iterator[tuple[str, str, str]]:
    """Yield path, label and group of each image."""
    with_none = (*names, "")  # label -1 means none
    for path, label, group in zip(paths, labels, groups or [""] * len(paths), strict=True):
        yield path, with_none[label], group
