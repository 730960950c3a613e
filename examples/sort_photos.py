"""Move photos into folders named by their labels, never over another file. Needs cnncodes.

python sort_photos.py app.onnx FOLDER            print what would be moved, and move nothing
python sort_photos.py app.onnx FOLDER --move     move, and list it in FOLDER/.sorted.jsonl
python sort_photos.py undo FOLDER                move all back that this list names
"""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

from cnncodes import Classifier

LEAST = 0.8  # a photo whose class is less probable stays where it is
UNDO_LIST = ".sorted.jsonl"


def check_name(name: str) -> None:
    """Refuse what is no name of a file or folder: an app of a stranger may name any path."""
    if name in ("", ".", "..") or Path(name).name != name:
        sys.exit(f"{name!r} cannot be the name of a file or folder")


def move(source: Path, target: Path) -> str:
    """Move a file to where there is none; return what prevents it, or an empty text."""
    try:
        target.parent.mkdir(exist_ok=True)
        target.open("xb").close()  # from here on no other program can create it
        try:
            source.replace(target)
        except OSError:
            target.unlink()
            raise
    except OSError as error:
        return f"{error.strerror}: {error.filename}"
    return ""


def sort(folder: Path, classifier: Classifier, is_dry: bool) -> None:
    """Print where each photo belongs; unless `is_dry`, move it there."""
    photos = filter(Path.is_file, sorted(folder.glob("[!.]*")))
    with (Path(os.devnull) if is_dry else folder / UNDO_LIST).open("a") as moves:
        for photo in classifier.predict_files(photos, top=1):
            name, problem = photo.path.name, photo.problem
            for best in photo.predictions:  # none where there is a problem
                check_name(best.label)
                target = folder / best.label / name
                if best.probability < LEAST:
                    problem = f"perhaps {best.label}, {best.probability:.0%}"
                elif target.exists():
                    problem = f"File exists: {target}"
                elif not is_dry:
                    print(json.dumps([best.label, name]), file=moves, flush=True)
                    os.fsync(moves.fileno())  # before the move, in case of a power cut
                    problem = move(photo.path, target)
            print(f"{name} stays ({problem})" if problem else f"{name} -> {best.label}")


def undo(folder: Path) -> None:
    """Move back what the list names, and remove folders that are empty then."""
    moves = [json.loads(line) for line in (folder / UNDO_LIST).read_text().splitlines()]
    for label, name in moves:
        check_name(label)
        check_name(name)
        if (folder / label / name).exists():
            print(f"{label}/{name}: {move(folder / label / name, folder / name) or 'is back'}")
        with suppress(OSError):  # other files are in it
            (folder / label).rmdir()
    left = [json.dumps(each) + "\n" for each in moves if folder.joinpath(*each).exists()]
    (folder / UNDO_LIST).write_text("".join(left))


len(sys.argv) > 2 or sys.exit(__doc__)
if sys.argv[1] == "undo":
    undo(Path(sys.argv[2]))
else:
    sort(Path(sys.argv[2]), Classifier(sys.argv[1]), is_dry="--move" not in sys.argv)
