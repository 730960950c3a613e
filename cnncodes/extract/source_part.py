"""Parts of a source: each is extracted by itself, and `merge` makes the file of all of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cnncodes.errors import SourceError
from cnncodes.parameters import check_part
from cnncodes.text import counted

if TYPE_CHECKING:
    from cnncodes.images.sources import Source


@dataclass(frozen=True)
class SourcePart:
    """One of the parts of a source.

    Attributes
    ----------
    number, count : int
        Which part it is, from 1, and how many there are.
    part_of : str
        SHA-256, hexadecimal, of the list of all images with their labels, groups and weights.
    """

    number: int
    count: int
    part_of: str

    @classmethod
    def of(cls, images: Source, part: tuple[int, int]) -> SourcePart:
        """Return a part of a source."""
        digest = hashlib.sha256(json.dumps(images.class_names).encode())
        groups = images.groups or [""] * len(images.paths)
        others = [each for each in (images.weights, images.probabilities, images.flags) if each]
        for each in zip(images.paths, images.labels, groups, *others, strict=True):
            digest.update(json.dumps(each).encode())
        return cls(*part, digest.hexdigest())

    @classmethod
    def parse(cls, text: str, part_of: str) -> SourcePart:
        """Return the part of the attributes of a codes file.

        Raises
        ------
        ValueError
            They are of no part.
        """
        try:
            number, count = check_part(json.loads(text))
        except (RecursionError, TypeError) as error:
            raise ValueError("its part is no pair of numbers") from error
        return cls(number, count, part_of)

    def to_json(self) -> dict[str, str]:
        """Return the attributes of a codes file."""
        return {"part": json.dumps([self.number, self.count]), "part_of": self.part_of}

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def text(self) -> str:
        """In words which part it is, and what to do with it."""
        return (
            f"part {self.number} of {self.count}: cnncodes merge joins all parts into the codes of "
            "all images"
        )


def divide(
    images: Source, source: Path, part: tuple[int, int] | None
) -> tuple[SourcePart | None, Source]:
    """Return a part of a source, and a source of its images only, with a note on which these are.

    Its classes are those of the whole source, and so are groups: images have a group each, though
    it may be empty, where any image of the source has one.

    Raises
    ------
    SourceError
        There are fewer images than parts.
    """
    if part is None:
        return None, images
    number, count = part
    n_images = len(images.paths)
    if n_images < count:
        remedy = f"make at most {n_images} parts" if n_images > 1 else "leave part out"
        raise SourceError(
            f"{source}: has {counted(n_images, 'image')}, too few for {count} parts; {remedy}"
        )
    start, stop = n_images * (number - 1) // count, n_images * number // count
    of_part = replace(
        images,
        paths=images.paths[start:stop],
        labels=images.labels[start:stop],
        groups=images.groups[start:stop],
        weights=images.weights[start:stop],
        probabilities=images.probabilities[start:stop],
        flags=images.flags[start:stop],
        notes=(*images.notes, f"part {number} of {count}: images {start + 1} to {stop} of them"),
    )
    return SourcePart.of(images, part), of_part
