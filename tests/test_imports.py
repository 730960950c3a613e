"""Which module may import what: start-up stays quick, and small programs stay small."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("click", "h5py", "jinja2", "keras", "matplotlib", "numpy", "onnx", "onnxruntime", "PIL")
HEAVY += ("dask", "distributed", "fsspec", "scipy", "skl2onnx", "sklearn", "tensorflow", "tf2onnx")

# What importing a module may bring in, of the packages above.
ALLOWED = {
    "cnncodes": set(),
    "cnncodes.cli": {"click"},
    "cnncodes.export": set(),
    "cnncodes.export.backbones": set(),
    "cnncodes.export.simplify": {"numpy", "onnx"},
    "cnncodes.quantize.quantize": {"numpy", "onnx", "onnxruntime", "PIL"},
    "cnncodes.export.architectures": set(),
    "cnncodes.export.direct": {"numpy", "onnx"},
    "cnncodes.export.export": {"numpy"},
    "cnncodes.export.keras_onnx": {"numpy"},
    "cnncodes.export.keras_settings": {"numpy"},
    "cnncodes.export.keras_weights": {"numpy"},
    "cnncodes.export.weights": {"numpy"},
    "cnncodes.download": set(),
    "cnncodes.datasets.archives": set(),
    "cnncodes.datasets.fetch": set(),
    "cnncodes.datasets.registry": set(),
    "cnncodes.extract": set(),
    "cnncodes.extract.backbone": {"numpy", "PIL"},
    "cnncodes.inspect.bench": {"numpy"},
    "cnncodes.images.decoding": {"numpy", "PIL"},
    "cnncodes.images.folders": set(),
    "cnncodes.image_formats": set(),
    "cnncodes.images.limits": {"numpy"},
    "cnncodes.images.jpeg": {"numpy", "PIL"},
    "cnncodes.images.pixels": {"numpy", "PIL"},
    "cnncodes.images.sources": set(),
    "cnncodes.images.tables": set(),
    "cnncodes.images.views": {"numpy"},
    "cnncodes.extract.store": {"numpy", "h5py"},
    "cnncodes.extract.convert": {"numpy", "h5py"},
    "cnncodes.extract.workers": {"numpy", "PIL"},
    "cnncodes.extract.cluster": {"numpy", "PIL"},
    "cnncodes.extract.dispatch": {"numpy", "PIL"},
    "cnncodes.extract.remote": {"numpy", "PIL"},
    "cnncodes.images.urls": {"numpy", "PIL"},
    "cnncodes.extract.pipeline": {"numpy", "PIL", "h5py"},
    "cnncodes.finetune": set(),
    "cnncodes.finetune.cuts": {"numpy"},
    "cnncodes.finetune.recipe": set(),
    "cnncodes.head": set(),
    "cnncodes.app.classifier": {"numpy", "PIL"},
    "cnncodes.app.inputs": {"numpy", "PIL"},
    "cnncodes.evaluate.curve": {"numpy"},
    "cnncodes.evaluate.learning_curve": {"numpy", "PIL", "h5py", "onnx", "sklearn", "scipy"},
    "cnncodes.head.split": {"numpy"},
    "cnncodes.app.bundle": {"numpy", "onnx", "PIL"},
    "cnncodes.app.card": set(),
    "cnncodes.app.golden": {"numpy", "PIL"},
    "cnncodes.app.variants": {"numpy", "onnx"},
    "cnncodes.head.estimators": {"numpy", "h5py", "onnx", "sklearn", "scipy"},
    "cnncodes.head.train": {"numpy", "PIL", "h5py", "onnx", "sklearn", "scipy"},
    "cnncodes.evaluate.charts": {"numpy"},
    "cnncodes.evaluate.metrics": {"numpy", "sklearn", "scipy"},
    "cnncodes.evaluate.evaluation": {"numpy", "sklearn", "scipy"},
    "cnncodes.evaluate.evaluate": {"numpy", "PIL", "h5py", "sklearn", "scipy"},
    "cnncodes.inspect.info": {"numpy", "PIL"},
    "cnncodes.machine": set(),
    "cnncodes.models.safety": set(),
    "cnncodes.models.checksum": set(),
    "cnncodes.models.kinds": set(),
    "cnncodes.models.metadata": set(),
    "cnncodes.models.session": set(),
    "cnncodes.overlap": set(),
    "cnncodes.overlap.search": {"numpy", "PIL", "scipy"},
    "cnncodes.parameters": set(),
    "cnncodes.commands": set(),
    "cnncodes.printing": set(),
    "cnncodes.printing.heads": {"click"},
    "cnncodes.progress": set(),
    "cnncodes.serve.api": {"numpy", "PIL"},
    "cnncodes.serve.batching": {"numpy", "PIL"},
    "cnncodes.serve.guard": set(),
    "cnncodes.serve.server": {"numpy", "PIL", "click"},
    "cnncodes.streams": set(),
    "cnncodes.inspect.verify": {"numpy", "PIL"},
}


# Modules and folders of the package; each imports from those before it only.
LAYERS = (
    *("_version", "errors", "text", "files", "output", "bounds", "hdf5", "parameters", "machine"),
    "image_formats",
    "concurrency",
    *(
        "progress",
        "download",
        "streams",
        "interrupts",
        "models",
        "images",
        "export",
        "extract",
        "quantize",
    ),
    *(
        "head",
        "app",
        "evaluate",
        "experiment",
        "overlap",
        "inspect",
        "finetune",
        "page",
        "serve",
        "datasets",
        "printing",
        "cli_options",
        "demo",
        "commands",
        "cli",
        "__main__",
    ),
)


def imported_by(code: str, *arguments: object) -> set[str]:
    """Run code in a fresh interpreter; return the heavy packages that it imported."""
    code += (
        "\nimport json, sys\nsys.stderr.write(json.dumps("
        "sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stderr.splitlines()[-1])) & set(HEAVY)


WRONG_COMMANDS = {
    "train absent.h5 -o absent/head.onnx": "the folder absent does not exist",
    "train absent.h5 -o head.onnx --estimator sgd --C 3": "--C is for --estimator logistic or",
    "train absent.h5 -o head.onnx --train-fraction 2": "--train-fraction",
    "curve absent.h5 -o absent/curve.json": "the folder absent does not exist",
    "curve absent.h5 --plot absent/chart.png": "the folder absent does not exist",
    "curve absent.h5 --plot chart.jpg": "a chart is a .png or .svg file",
    "evaluate absent.onnx absent.h5 --images photos": "give --report too",
    "extract absent.onnx absent -o absent/codes.h5": "the folder absent does not exist",
    "extract absent.onnx absent -o codes/": "names a folder",
    "quantize absent.onnx --images absent -o absent/b.onnx": "the folder absent does not exist",
    "export vgg16 -o absent/vgg16.onnx": "the folder absent does not exist",
    "export vgg17": "vgg17",
    "finetune absent vgg16 -o absent/app.onnx": "the folder absent does not exist",
    "finetune absent vgg17 -o app.onnx": "did you mean vgg1",
    "bundle absent.onnx absent.onnx -o absent/app.onnx": "the folder absent does not exist",
    "bundle absent.onnx absent.onnx -o .": "is a folder; name a file inside it",
    "predict absent.onnx absent.jpg --top 0": "--top",
    "bench absent.onnx --batch-sizes 0": "--batch-sizes",
    "serve absent.onnx --port 65536": "--port",
    "demo absent --nothing": "--nothing",
}


@pytest.mark.parametrize("command", WRONG_COMMANDS)
def test_wrong_options_are_reported_before_anything_heavy_is_imported(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one of the files is there, so the options are looked at first, too."""
    monkeypatch.chdir(tmp_path)
    code = """
import sys
from cnncodes.cli import main
sys.stderr = open("stderr", "w")
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert end.code in (1, 2)
sys.stderr.close()
sys.stderr = sys.__stderr__
"""
    allowed = {"click", "numpy"} if "--plot" in command else {"click"}
    assert imported_by(code, *command.split()) <= allowed
    assert WRONG_COMMANDS[command] in (tmp_path / "stderr").read_text()


@pytest.mark.parametrize("module", ALLOWED)
def test_module_imports_no_more_than_it_may(module: str) -> None:
    assert imported_by(f"import {module}") <= ALLOWED[module]


def test_imports_go_one_way() -> None:
    """For annotations only, too: a reader can start at the first layer."""
    package = Path(__file__).parent.parent / "cnncodes"
    upward = []
    for path in package.rglob("*.py"):
        importer = path.relative_to(package).parts[0].removesuffix(".py")
        if importer in ("__init__", "__pyinstaller"):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cnncodes."):
                imported = (node.module or "").split(".")[1]
                if imported != importer and LAYERS.index(imported) > LAYERS.index(importer):
                    upward.append(f"{path.relative_to(package)}:{node.lineno} imports {imported}")
    assert not upward


def test_package_imports_nothing_before_signals_are_handled() -> None:
    """Ctrl-C in that time would end in a traceback."""
    code = """
import sys
before = {*sys.modules}
import cnncodes
print(*sorted({*sys.modules} - before))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["cnncodes"]


def test_list_of_networks_needs_nothing() -> None:
    code = "from cnncodes.cli import main\nmain.main(['export', '--list'], standalone_mode=False)"
    assert imported_by(code) == {"click"}


def test_command_that_predicts_imports_no_more_than_it_needs(app: Path, photos: Path) -> None:
    image = next(photos.rglob("*.png"))
    code = (
        "import sys\nfrom cnncodes.cli import main\n"
        "main.main(['predict', *sys.argv[1:]], standalone_mode=False)"
    )
    modules = imported_by(code, app, image)
    assert modules == {"click", "numpy", "onnxruntime", "PIL"}


def test_chain_leaves_tensorflow_alone(
    small_backbone: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it load what draws, in an environment that has all of it."""
    monkeypatch.chdir(tmp_path)
    code = """
import sys
from cnncodes.cli import main
backbone, photos = sys.argv[1:]
for words in (
    ["extract", backbone, photos, "-o", "codes.h5"],
    ["train", "codes.h5", "-o", "head.onnx"],
    ["evaluate", "head.onnx", "codes.h5"],
    ["bundle", backbone, "head.onnx", "-o", "app.onnx"],
    ["predict", "app.onnx", photos],
    ["verify", "codes.h5", "--source", photos, "--backbone", backbone],
    ["info", "app.onnx"],
):
    main.main(words, standalone_mode=False)
"""
    unneeded = {"jinja2", "keras", "matplotlib", "skl2onnx", "tensorflow", "tf2onnx"}
    unneeded |= {"dask", "distributed", "fsspec"}
    assert imported_by(code, small_backbone, photos) == set(HEAVY) - unneeded


def test_classifier_imports_no_more_than_a_small_program_has(app: Path, photos: Path) -> None:
    image = next(photos.rglob("*.png"))
    code = (
        "import sys\nfrom cnncodes import Classifier\nClassifier(sys.argv[1]).predict(sys.argv[2])"
    )
    assert imported_by(code, app, image) == {"numpy", "onnxruntime", "PIL"}


def test_tensorflow_is_named_in_two_modules_only() -> None:
    package = Path(__file__).parent.parent / "cnncodes"
    naming = {
        path.name
        for path in package.rglob("*.py")
        for line in path.read_text("utf-8").splitlines()
        if re.match(r"\s*(import|from) (tensorflow|keras|tf2onnx)\b", line)
    }
    assert naming == {"keras_onnx.py", "keras_settings.py"}


def test_public_names_are_there() -> None:
    import cnncodes

    for name in cnncodes.__all__:
        assert getattr(cnncodes, name) is not None
    assert set(cnncodes.__all__) == set(dir(cnncodes))
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = cnncodes.Nonsense


def test_onnxruntime_leaves_no_identifier_behind(
    small_backbone: Path, photos: Path, tmp_path: Path
) -> None:
    """It would send usage data otherwise, and writes to the home folder what it sends."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-m", "cnncodes", "extract", small_backbone, photos]
    subprocess.run([*map(str, command), "-o", tmp_path / "c.h5"], check=True, env=environment)
    assert list(home.rglob("*")) == []
