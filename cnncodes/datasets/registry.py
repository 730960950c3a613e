"""The data sets that `fetch` knows: a further one is a further row."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LABELS = "labels.csv"
_DEFECTIVE = 0.5  # the least probability of a defect that makes a cell defective


@dataclass(frozen=True)
class Archive:
    """A published archive.

    Attributes
    ----------
    name : str
        File name.
    size : int
        In bytes.
    checksum : str
        ``ALGORITHM:HEX``, as for `cnncodes.download.download`.
    address : str
        URL; empty where it is only accepted as a file.
    """

    name: str
    size: int
    checksum: str
    address: str = ""


@dataclass(frozen=True)
class Dataset:
    """A published data set.

    Attributes
    ----------
    name, title, homepage, citation : str
        What the command line calls it, its own title, its home, and how to cite it.
    licence, licence_url : str
        Name and address of the licence.
    n_images, n_classes : int
        Number of images and of classes in the archive.
    megabytes : int
        Size on disk; an archive that unpacks to more than twice as much is refused.
    members : re.Pattern
        Matches the names of the wanted archive members; its group ``path`` is the path below the
        folder of the data set. It must admit plain names only.
    archives : tuple of Archive
        The first is downloaded; each is accepted as a file. Empty if `content` checks the files.
    content : str
        SHA-256 of the output of ``sha256sum`` for all files, sorted by path; empty if the
        checksums of `archives` suffice.
    package : str
        The Python package that installs the files; empty if there is none.
    distribution : str
        Name by which pip installs `package`.
    inner : str
        Name of a tar.gz archive inside the zip archive which holds the files; empty if there is
        none.
    background : str
        The class that is none, and may be left out; empty if there is none.
    arrange : callable, optional
        Turns published labels into a CSV source; called with the folder, returns the file name.
    """

    name: str
    title: str
    homepage: str
    citation: str
    licence: str
    licence_url: str
    n_images: int
    n_classes: int
    megabytes: int
    members: re.Pattern[str]
    archives: tuple[Archive, ...] = ()
    content: str = ""
    package: str = ""
    distribution: str = ""
    inner: str = ""
    background: str = ""
    arrange: Callable[[Path], str] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return what the data set is, as JSON types."""
        names = ("name", "title", "homepage", "licence", "licence_url", "citation")
        counts = ("n_images", "n_classes", "megabytes")
        archives = [vars(each) for each in self.archives]
        return {**{each: getattr(self, each) for each in names + counts}, "archives": archives}


def arrange_cells(folder: Path) -> str:
    """Write the table of the solar cells as a CSV source in place of the published one.

    Parameters
    ----------
    folder : Path
        Holds the published ``labels.csv``, with path, probability and kind of cell between blanks.

    Returns
    -------
    str
        Name of the CSV file: path, label, probability of the label, probability of a defect as it
        was published, kind (mono or poly).
    """
    published = folder / _LABELS
    rows = [line.split() for line in published.read_text("utf-8").splitlines() if line.strip()]
    with (folder / "elpv.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "label", "probability", "defect", "kind"])
        for path, defect, kind in rows:
            is_defective = float(defect) >= _DEFECTIVE
            label = "defective" if is_defective else "sound"
            probability = float(defect) if is_defective else 1 - float(defect)
            writer.writerow([path, label, f"{probability:.10g}", defect, kind])
    published.unlink()
    return "elpv.csv"


# Size and SHA-256 of Caltech-101 are those of TensorFlow Datasets (caltech101/checksums.tsv).
# Those of ELPV were computed from release 1.0.0.post1 of its package, whose files are the same
# bytes as those of its repository.
_ALL = (
    Dataset(
        name="caltech101",
        title="Caltech-101: photographs of 101 kinds of objects, and a background class",
        homepage="https://data.caltech.edu/records/mzrjq-6wc02",
        citation="Li, F.-F., Andreeto, M., Ranzato, M., & Perona, P. (2022). Caltech 101 (1.0) "
        "[Data set]. CaltechDATA. https://doi.org/10.22002/D1.20086",
        licence="Creative Commons Attribution 4.0 International",
        licence_url="https://creativecommons.org/licenses/by/4.0/",
        n_images=9_144,
        n_classes=102,
        megabytes=140,
        members=re.compile(
            r"(?:[^/]+/)*101_ObjectCategories/(?P<path>\w+/image_\d{4}\.jpg)", re.ASCII
        ),
        archives=(
            Archive(
                name="caltech-101.zip",
                size=137_414_764,
                checksum="sha256:331234750fc7f77520e50d9565e8b6907b03565e30320da1401130db08c61f91",
                address="https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip"
                "?download=1",
            ),
            Archive(  # as its former home had it
                name="101_ObjectCategories.tar.gz",
                size=131_740_031,
                checksum="sha256:af6ece2f339791ca20f855943d8b55dd60892c0a25105fcd631ee3d6430f9926",
            ),
        ),
        inner="101_ObjectCategories.tar.gz",
        background="BACKGROUND_Google",
    ),
    Dataset(
        name="elpv",
        title="ELPV: electroluminescence images of solar cells, with the probability of a defect",
        homepage="https://github.com/zae-bayern/elpv-dataset",
        citation="Buerhop-Lutz, C.; Deitsch, S.; Maier, A.; Gallwitz, F.; Berger, S.; Doll, B.; "
        "Hauch, J.; Camus, C. & Brabec, C. J. A Benchmark for Visual Identification of Defective "
        "Solar Cells in Electroluminescence Imagery. EU PVSEC, 2018. "
        "https://doi.org/10.4229/35thEUPVSEC20182018-5CV.3.15",
        licence="Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International",
        licence_url="https://creativecommons.org/licenses/by-nc-sa/4.0/",
        n_images=2_624,
        n_classes=2,
        megabytes=91,
        members=re.compile(r"(?:[^/]+/)*(?P<path>images/cell\d{4}\.png|labels\.csv)", re.ASCII),
        content="cb0ac9151abad2e46fecfb4a01a6416f7417e32dd63333e41a4da1509c1a3c19",
        package="elpv_dataset",
        distribution="elpv-dataset",
        arrange=arrange_cells,
    ),
)
DATASETS = {each.name: each for each in _ALL}
