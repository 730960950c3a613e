"""The pairs of an overlap as ``overlap.csv`` and as a page with both images side by side."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from cnncodes._version import __version__
from cnncodes.evaluate.charts import require
from cnncodes.evaluate.page import Picture, draw_picture, page_template
from cnncodes.output import FOLDER, check_folder, filled_folder, replacing
from cnncodes.overlap.overlap import SAME, Overlap
from cnncodes.parameters import as_path
from cnncodes.text import counted, csv_cell

PAGE, TABLE = "index.html", "overlap.csv"
MAX_SHOWN = 200  # pairs on the page


class OverlapFolder:
    """A folder for the pairs; it is checked before the images are compared.

    Parameters
    ----------
    folder : str or Path
        Where to write; created if absent.
    overwrite : bool
        Whether existing files of an earlier overlap may be replaced.
    inputs : iterable of str or Path
        The collections, which are never replaced.

    Raises
    ------
    MissingDependencyError
        jinja2 is not installed.
    OutputError
        The files cannot be written.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        overwrite: bool = False,
        inputs: Iterable[str | Path] = (),
    ) -> None:
        require("a page of pairs", "jinja2")
        self.folder = folder = as_path(folder, "output")
        self._overwrite = overwrite
        check_folder(
            folder,
            (PAGE, TABLE),
            purpose="the pairs",
            overwrite=overwrite,
            inputs=inputs,
            endings=FOLDER,
        )

    def write(self, overlap: Overlap) -> list[str]:
        """Write the page and the table; return notes on pairs that the page does not show.

        Raises
        ------
        OutputError
            They cannot be written; the folder is then as before.
        """
        page = _render(overlap)
        with (
            filled_folder(self.folder),
            replacing(self.folder / TABLE, overwrite=self._overwrite) as first,
            replacing(self.folder / PAGE, overwrite=self._overwrite) as second,
        ):
            _write_table(overlap, first)
            second.write_text(page, "utf-8")
        if len(overlap.pairs) <= MAX_SHOWN:
            return []
        return [
            f"{PAGE} shows the first {MAX_SHOWN} of {counted(len(overlap.pairs), 'pair')}; "
            f"{TABLE} has all"
        ]


def _write_table(overlap: Overlap, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["a", "b", "kind", "score"])
        for pair in overlap.pairs:
            names = csv_cell(overlap.a.paths[pair.a]), csv_cell(overlap.b.paths[pair.b])
            writer.writerow([*names, pair.kind, f"{pair.score:.4f}"])


def _render(overlap: Overlap) -> str:
    """Return the page: HTML without scripts or external resources, all text escaped."""
    one, two = overlap.a, overlap.b
    pictures: dict[Path, Picture] = {}

    def draw(path: Path, digest: str) -> Picture:
        if path not in pictures:
            pictures[path] = draw_picture(path, digest)
        return pictures[path]

    shown = []
    for pair in overlap.pairs[:MAX_SHOWN]:
        sides = [
            (each.paths[index], draw(each.root / each.paths[index], each.digests[index]))
            for each, index in ((one, pair.a), (two, pair.b))
        ]
        shown.append((pair, sides))
    return page_template("cnncodes.overlap", "overlap.html").render(
        overlap=overlap,
        notes=overlap.notes,
        is_within=one is two,
        names=(Path(one.name).name, Path(two.name).name),
        n_same=sum(pair.kind == SAME for pair in overlap.pairs),
        n_images=(len(one.paths), len(two.paths)),
        pairs=shown,
        version=__version__,
    )
