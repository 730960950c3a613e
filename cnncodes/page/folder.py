"""An app as a folder of web pages, to put on any web space or to open from a disk.

A page that is opened from a disk may load scripts, but nothing else. So the network and the runtime
go into scripts too, as base64 in parts, which takes a third more than the files themselves.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cnncodes.app.explain import FEATURES, read_weights
from cnncodes.errors import FileFormatError, MissingDependencyError, OutputError
from cnncodes.files import exists, is_folder
from cnncodes.models.description import is_random
from cnncodes.models.metadata import HeadInfo
from cnncodes.models.session import fixed_batch, open_session
from cnncodes.output import FOLDER, check_output, new_folder
from cnncodes.page import ASSETS
from cnncodes.parameters import as_path
from cnncodes.text import first_line

RUNTIME = "onnxruntime-web"
RUNTIME_VERSION = "1.30.0"
PART_SIZE = 12 << 20  # bytes; a multiple of 3, so that only the last part is padded
DATA = "app-data.js"  # by which a folder is known to be one of these
_SCRIPT, _LOADER, _BINARY = (
    "ort.wasm.min.js",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
)
_PAGE = "index.html"
_COPIED = (
    *("style.css", "icon.svg", "app.js", "camera.js", "evidence.js"),
    *("local.js", "pixels.js"),
)
_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval' blob:; style-src 'self'; "
    "img-src 'self' blob:; connect-src data:; media-src blob:"
)


@dataclass(frozen=True)
class PageFolder:
    """A written folder.

    Attributes
    ----------
    path : Path
        The folder; `index.html` in it is the page.
    labels : tuple of str
        The classes.
    n_bytes : int
        Size of all files.
    has_several_labels : bool
        Whether an image may have several of the classes.
    """

    path: Path
    labels: tuple[str, ...]
    n_bytes: int
    has_several_labels: bool = False


def write_page(
    app: str | Path,
    output: str | Path,
    *,
    runtime: str | Path | None = None,
    overwrite: bool = False,
    on_note: Callable[[str], None] | None = None,
) -> PageFolder:
    """Write a folder that classifies images in a browser.

    Parameters
    ----------
    app : str or Path
        A file made by ``cnncodes bundle``.
    output : str or Path
        The folder to write.
    runtime : str or Path, optional
        The npm package onnxruntime-web, as a folder or as the ``.tgz`` that ``npm pack`` gets. By
        default npm is asked for version `RUNTIME_VERSION`.
    overwrite : bool
        Whether a folder at `output` may be replaced, if it was written by this function.
    on_note : callable, optional
        Called with a line before npm loads the package.

    Returns
    -------
    PageFolder

    Raises
    ------
    FileFormatError
        The file is not an app or takes a fixed batch of several images, or `runtime` is not that
        package.
    MissingDependencyError
        npm is not installed or cannot get the package.
    OutputError
        The folder cannot be written.
    """
    app, output = as_path(app, "app"), as_path(output, "output")
    _check_folder(output, overwrite=overwrite)
    session, metadata = open_session(app, "app")
    n_images = fixed_batch(session) or 1
    if n_images > 1:
        raise FileFormatError(
            f"{app}: takes batches of {n_images} images only, and a page classifies one image at a "
            "time; bundle it without a fixed batch"
        )
    has_features = FEATURES in [each.name for each in session.get_outputs()]
    del session
    info = HeadInfo.from_metadata(metadata, app)
    with _runtime_files(runtime, on_note) as dist, new_folder(output) as folder:
        for name in _COPIED:
            shutil.copy(ASSETS / name, folder / name)
        shutil.copy(dist / _SCRIPT, folder / _SCRIPT)
        page = (ASSETS / _PAGE).read_text("utf-8")
        (folder / _PAGE).write_text(_without_server(page), "utf-8")
        described = {
            "name": app.name,
            "labels": info.labels,
            "caution": "random weights, for trying out" if is_random(info.backbone.weights) else "",
            "input_size": info.backbone.input_size,
            "pool": info.backbone.pool,
            **({"thresholds": _rounded(info.thresholds)} if info.has_several_labels else {}),
            **({} if info.normalize == "none" else {"normalize": info.normalize}),
            "model": _write_parts(app, "model", folder),
            "runtime": _write_parts(dist / _BINARY, "runtime", folder),
            "loader": (dist / _LOADER).read_text("utf-8"),
            **(_head(app, len(info.labels)) if has_features else {}),
        }
        (folder / DATA).write_text(
            f'"use strict";\nglobalThis.cnncodes = {{ app: {json.dumps(described)} }};\n', "utf-8"
        )
    n_bytes = sum(each.stat().st_size for each in output.iterdir())
    return PageFolder(output, info.labels, n_bytes, info.has_several_labels)


def _head(app: Path, n_classes: int) -> dict[str, object]:
    """Return the weights of a linear head, which a browser's runtime does not give out."""
    parameters = read_weights(app, n_classes)
    if parameters is None:
        return {}
    weights, bias = parameters
    encoded = base64.b64encode(weights.astype("<f4").tobytes()).decode()
    return {"weights": encoded, "bias": bias.tolist()}


def _rounded(thresholds: Sequence[float]) -> list[float]:
    """Return thresholds in the precision of probabilities, so that both compare as elsewhere."""
    return [float(np.float32(each)) for each in thresholds]


def _without_server(page: str) -> str:
    """Return the page of `serve` with the scripts that answer without one."""
    backend = '<script src="backend.js" defer></script>'
    scripts = "\n".join(
        f'<script src="{name}" defer></script>' for name in (DATA, _SCRIPT, "pixels.js", "local.js")
    )
    policy = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    charset = '<meta charset="utf-8">'
    return page.replace(backend, scripts).replace(charset, f"{charset}\n{policy}")


def _write_parts(file: Path, name: str, folder: Path) -> tuple[int, int]:
    """Write a file as scripts that pass its parts on in base64; return its size, and how many."""
    size = number = 0
    with file.open("rb") as opened:
        while content := opened.read(PART_SIZE):
            text = base64.b64encode(content).decode()
            script = f'cnncodes.part("{name}", "{text}");\n'
            (folder / f"part-{name}-{number}.js").write_text(script, "ascii")
            size, number = size + len(content), number + 1
    return size, number


def _check_folder(output: Path, *, overwrite: bool) -> None:
    if not exists(output) and not output.is_symlink():
        check_output(output, overwrite=overwrite, endings=FOLDER)
    elif not is_folder(output):
        raise OutputError(f"{output}: is not a folder; choose another name")
    elif not overwrite:
        raise OutputError(f"{output}: exists already; choose another name or pass overwrite=True")
    elif not (output / DATA).is_file():
        raise OutputError(f"{output}: is not a folder of this command; choose another name")


@contextmanager
def _runtime_files(
    runtime: str | Path | None, on_note: Callable[[str], None] | None
) -> Iterator[Path]:
    """Yield the folder ``dist`` of the npm package."""
    with tempfile.TemporaryDirectory() as name:
        if runtime is None:
            if on_note is not None:
                on_note(f"getting {RUNTIME} {RUNTIME_VERSION} by npm, 30 MB")
            package = _packed_by_npm(Path(name))
        else:
            package = as_path(runtime, "runtime")
        if not is_folder(package):
            package = _unpacked(package, Path(name))
        dist = package / "dist"
        for needed in (_SCRIPT, _LOADER, _BINARY):
            if not (dist / needed).is_file():
                raise FileFormatError(
                    f"{package}: has no dist/{needed}; name the npm package {RUNTIME}, "
                    f"such as of version {RUNTIME_VERSION}"
                )
        yield dist


def _packed_by_npm(folder: Path) -> Path:
    npm = shutil.which("npm")
    remedy = f"or name the package by runtime='FILE' (npm pack {RUNTIME}@{RUNTIME_VERSION})"
    if npm is None:
        raise MissingDependencyError(
            f"a page needs {RUNTIME}, which npm gets; install npm, {remedy}"
        )
    done = subprocess.run(
        [npm, "pack", "--silent", f"{RUNTIME}@{RUNTIME_VERSION}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    packed = next(folder.glob("*.tgz"), None)
    if done.returncode or packed is None:
        reason = (done.stderr.split("\n")[0] or "it gives no reason").removeprefix("npm error ")
        raise MissingDependencyError(f"npm cannot get {RUNTIME} ({reason}); try again, {remedy}")
    return packed


def _unpacked(package: Path, folder: Path) -> Path:
    """Unpack what a page needs of a package; return its folder."""
    try:
        with tarfile.open(package) as archive:
            for name in (_SCRIPT, _LOADER, _BINARY):
                archive.extract(f"package/dist/{name}", folder, filter="data")
    except (OSError, tarfile.TarError, KeyError, EOFError) as error:
        raise FileFormatError(
            f"{package}: is not the npm package {RUNTIME} ({first_line(error)}); get it by "
            f"npm pack {RUNTIME}@{RUNTIME_VERSION}"
        ) from error
    return folder / "package"
