"""A codes file that is there already: its codes are reused, or it is kept as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cnncodes.errors import FileFormatError, OutputError
from cnncodes.extract.store import CodeStore
from cnncodes.extract.writing import WEIGHTING, CodesInfo
from cnncodes.files import exists, is_folder, is_url, readable_sha256
from cnncodes.images.sources import Source
from cnncodes.images.urls import load_location
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
        For each digest the first row of its image in the codes file.
    paths : list of str
        Of its images.
    n_groups : int
        Number of groups of its images.
    weighting : list of str
        Which of the columns of `WEIGHTING` it has.
    n_reused : int
        Number of images read so far.
    """

    def __init__(self, store: CodeStore | None = None) -> None:
        self._store = store
        self.paths = [] if store is None else store.of_images(store.paths)
        self.n_groups = 0 if store is None else len({*store.groups} - {""})
        self.weighting = [] if store is None else [n for n in WEIGHTING if len(getattr(store, n))]
        self._n_views = 1 if store is None else store.n_views
        digests = [] if store is None else store.digests[:: self._n_views]
        self.rows = {digest: image * self._n_views for image, digest in enumerate(digests)}
        self.n_reused = 0

    def chunks(self, digest: str) -> list[bytes]:
        """Return the codes of an image, compressed, a chunk for each view."""
        assert self._store is not None
        self.n_reused += 1
        row = self.rows[digest]
        return [self._store.chunk(row + view) for view in range(self._n_views)]

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

    The images are compared by path, label, group, weight, probability of the label and the SHA-256
    of their files. Those that were skipped are decoded again: what is installed may have changed,
    or the file.
    All codes are read, to find damaged ones: 3,000 rows of 51,200 numbers in float16 take 1.6 s.

    Raises
    ------
    OutputError
        It is of another network, other settings or other images, or some of its codes are damaged.
    """
    with CodeStore.open(output) as store:
        if difference := _difference(store, info):
            raise OutputError(
                f"{output}: exists already, made with {difference}; choose another name or pass "
                "overwrite=True"
            )
        if store.groups and not images.groups:
            remedy = (
                "pass group_by='folder' as before"
                if is_folder(Path(info.source))
                else "add the column group again"
            )
            raise OutputError(
                f"{output}: exists already, with groups of images, which are missing now; "
                f"{remedy}, or pass update=True for codes without groups"
            )
        if changes := _changes(store, info, images, progress):
            raise OutputError(
                f"{output}: exists already, with other images ({', '.join(changes)}); pass "
                "update=True to compute what is new, or overwrite=True to compute all again"
            )
        _refuse_damaged(store, progress)
        yield store


def _refuse_damaged(store: CodeStore, progress: Progress) -> None:
    progress.begin(len(store), unit="codes checked")
    for row, path in enumerate(store.paths):
        try:
            store.chunk(row)
        except FileFormatError as error:
            raise OutputError(
                f"{store.path}: exists already, but its codes of {path} are damaged "
                f"({error.__cause__}); pass overwrite=True to compute all again"
            ) from error
        progress.advance(1)


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
        ("augment", store.augment, info.augment),
        ("part", str(store.part or "all"), str(info.part or "all")),
    ):
        if old != new:
            return f"another {parameter} ({old}, not {new})"
    return ""


def _changes(store: CodeStore, info: CodesInfo, images: Source, progress: Progress) -> list[str]:
    """Count what differs between the images of a codes file and those of a source."""
    skipped = {path for path, _ in store.skipped}
    own = slice(None, None, store.n_views)  # the rows of the images themselves
    stored = _counted(
        store.paths[own],
        (),
        label=store.label_texts,
        group=store.groups[own],
        weight=store.weights[own].tolist(),
        probability=store.probabilities[own].tolist(),
    )
    current = _counted(
        images.paths,
        skipped,
        label=images.label_texts,
        group=images.groups,
        weight=images.weights,
        probability=images.probabilities,
    )
    new = {*images.paths} - {*store.paths} - skipped
    gone = ({*store.paths} | skipped) - {*images.paths}
    counts = {"new": len(new), "gone": len(gone)}
    for what, before in stored.items():
        now = current[what]
        differing = {path for path, _ in (before - now) + (now - before)}
        counts[f"of another {what}"] = len(differing - new - gone)
    if not any(counts.values()):  # else it is changed anyhow, and not worth the reading
        digests = dict(zip(store.paths, store.digests, strict=True))
        progress.begin(len(digests) + len(skipped), unit="images compared")
        counts["changed"] = counts["skipped before and usable now"] = 0
        for path, digest in digests.items():
            counts["changed"] += _digest(images.root, path, digest, info) != digest
            progress.advance(1)
        size = info.backbone.input_size
        for path in skipped:
            location = path if is_url(path) else str(images.root / path)
            image, _ = load_location(0, location, size, info.max_pixels, white=info.white)
            counts["skipped before and usable now"] += not image.problem
            progress.advance(1)
    changes = [f"{counted(n, 'image')} {what}" for what, n in counts.items() if n]
    if store.part != info.part and not changes:
        changes = ["in other parts of the source"]
    return changes


def _counted(
    paths: Sequence[str], left_out: Container[str], **columns: Sequence[Any]
) -> dict[str, Counter[tuple[str, Any]]]:
    """Count for each column the values of each path, which a CSV file may repeat.

    A column that is absent, and empty, is one of its defaults.
    """
    counts: dict[str, Counter[tuple[str, Any]]] = {}
    for name, values in columns.items():
        default = "" if name == "group" else 1.0
        pairs = zip(paths, values or [default] * len(paths), strict=True)
        counts[name] = Counter((path, value) for path, value in pairs if path not in left_out)
    return counts


def _digest(root: Path, path: str, expected: str, info: CodesInfo) -> str:
    """Return the SHA-256 of an image; "" where it cannot be read."""
    if not is_url(path):
        return readable_sha256(root / path)
    size = info.backbone.input_size
    return load_location(0, path, size, info.max_pixels, (expected,), white=info.white)[0].digest
