"""The experiment on a small collection and networks of a line, through the command."""

from __future__ import annotations

import json
import re

import pytest
from PIL import Image

from cnncodes.errors import FileFormatError, OutputError, ParameterError, SourceError
from cnncodes.experiment.experiment import run_experiment
from cnncodes.progress import NoProgress
from tests.helpers import error_of, names_in, run_command, write_backbone, write_colours

SIZES = ("--per-class", "2,5")


@pytest.fixture
def photos(tmp_path):
    """Ten squares of each of three colours."""
    return write_colours(tmp_path / "photos")


@pytest.fixture
def networks(tmp_path):
    """One with pooled codes, and one with more codes than training images."""
    return [
        write_backbone(tmp_path / "small.onnx", factor=0.01),
        write_backbone(tmp_path / "large.onnx", factor=0.01, pooled=False),
    ]


def steps_in(folder):
    return json.loads((folder / "times.json").read_text("utf-8"))["steps"]


class InterruptedAt(NoProgress):
    """A progress during which Ctrl-C is pressed when a step is reported."""

    def __init__(self, step):
        super().__init__()
        self._step = step

    def print_line(self, line):
        if line.startswith(self._step):
            raise KeyboardInterrupt


def test_no_error_names_an_option_that_is_not_there(photos, networks, tmp_path):
    folder = tmp_path / "results"
    start = ("experiment", photos, networks[0], "-o", folder, *SIZES)
    assert "is what the result is made from" in error_of(*start[:4], photos, *SIZES)
    folder.mkdir()
    (folder / "index.html").write_text("mine")
    line = error_of(*start)
    assert "holds index.html but no times.json of an experiment; name another folder" in line
    assert (folder / "index.html").read_text() == "mine"
    (folder / "index.html").unlink()
    run_command("extract", networks[0], photos, "-o", folder / "small.h5")
    Image.new("RGB", (9, 9)).save(photos / "red" / "new.png")
    line = error_of(*start)
    assert "with other images (1 image new); pass --update to compute what is new, or dele" in line
    run_command("extract", networks[1], photos, "-o", folder / "small.h5", "--overwrite")
    assert "; delete it to compute all again" in error_of(*start)
    assert "overwrite" not in error_of(*start)
    (folder / "small.h5").write_bytes((folder / "small.h5").read_bytes()[:3000])
    assert "cannot be opened as HDF5" in error_of(*start)
    assert names_in(folder) == ["small.h5"]


@pytest.fixture
def progress_of():
    return InterruptedAt


def test_one_command_goes_from_images_to_page_and_figures(photos, networks, tmp_path, run):
    done = run("experiment", photos, *networks, "-o", tmp_path / "results", *SIZES)
    assert names_in(tmp_path / "results") == sorted(
        ["chart.svg", "experiment.json", "index.html", "times.json"]
        + [
            f"{name}{end}"
            for name in ("small", "large")
            for end in (".curve.json", ".head.onnx", ".h5")
        ]
    )
    result = json.loads((tmp_path / "results" / "experiment.json").read_text("utf-8"))
    assert (result["n_classes"], result["n_train"], result["n_test"]) == (3, 21, 9)
    for network, name in zip(result["networks"], ("small", "large"), strict=True):
        assert network["name"] == name
        points = network["points"]
        assert [point["per_class"] for point in points] == [2, 5, None]
        assert [point["n_train"] for point in points] == [6, 15, 21]
        assert points[-1]["logistic"] == 1
        assert network["published"] is None
    assert "seconds" not in json.dumps(result)
    page = (tmp_path / "results" / "index.html").read_text("utf-8")
    assert page.count("<table>") == 4  # for each network, of the durations, and published
    assert "<script" not in page
    assert "random weights" in page
    assert "the codes: small (to be computed), large (to be computed)" in done.stderr
    assert "for comparison, always predicting the most common class" in done.stdout
    assert (
        json.loads(
            run("experiment", photos, *networks, "-o", tmp_path / "again", *SIZES, "--json").stdout
        )
        == result
    )
    assert (tmp_path / "again" / "experiment.json").read_bytes() == (
        tmp_path / "results" / "experiment.json"
    ).read_bytes()


def test_head_of_all_images_is_that_of_train(photos, networks, tmp_path, run):
    run("experiment", photos, networks[1], "-o", tmp_path / "results", *SIZES)
    codes, head = tmp_path / "results" / "large.h5", tmp_path / "head.onnx"
    run("train", codes, "-o", head, "--split", "first", "--estimator", "logistic")
    assert head.read_bytes() == (tmp_path / "results" / "large.head.onnx").read_bytes()


def test_interrupted_experiment_goes_on(photos, networks, tmp_path, progress_of):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_experiment(photos, networks, whole, per_class=[2])
    for step in ("large: codes", "large: softmax, all"):
        with pytest.raises(KeyboardInterrupt):
            run_experiment(photos, networks, parts, per_class=[2], progress=progress_of(step))
        assert not (parts / "index.html").exists()
    finished = steps_in(parts)
    assert [step["name"] for step in finished][-1] == "large: softmax, at most 2 images per class"
    result = run_experiment(photos, networks, parts, per_class=[2])
    assert [step for step in steps_in(parts) if step in finished] == finished
    assert all(times.codes is not None for times in result.times)
    name = "experiment.json"
    assert (parts / name).read_bytes() == (whole / name).read_bytes()


def test_results_of_other_inputs_are_not_reused(photos, networks, tmp_path, run):
    command = ("experiment", photos, networks[0], "-o", tmp_path / "results", *SIZES)
    run(*command)
    before = steps_in(tmp_path / "results")
    run(*command)
    assert steps_in(tmp_path / "results") == before
    run(*command, "--seed", 1)
    (codes, *others) = steps_in(tmp_path / "results")
    assert codes == before[0]
    assert not {step["inputs"] for step in others} & {step["inputs"] for step in before}
    (tmp_path / "results" / "small.head.onnx").unlink()
    run(*command, "--seed", 1)
    assert (tmp_path / "results" / "small.head.onnx").exists()
    Image.new("RGB", (8, 8), "red").save(photos / "red" / "more.png")
    assert "--update" in error_of(*command)
    run(*command, "--update")
    result = json.loads((tmp_path / "results" / "experiment.json").read_text("utf-8"))
    assert (result["n_train"], result["n_test"]) == (21, 10)


def test_sizes_that_no_class_has_are_left_out(photos, networks, tmp_path):
    result = run_experiment(photos, networks[:1], tmp_path / "results", per_class=[7, 30])
    assert [point.per_class for point in result.networks[0].points] == [None]
    assert result.notes == ()


def test_files_of_others_are_kept(photos, networks, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "index.html").write_text("mine", "utf-8")
    with pytest.raises(OutputError, match=r"index\.html"):
        run_experiment(photos, networks, tmp_path / "results")
    assert names_in(tmp_path / "results") == ["index.html"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"kind": "experiment times", "format": "1"}'])
def test_times_of_others_are_refused(content, photos, networks, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "times.json").write_text(content, "utf-8")
    with pytest.raises(FileFormatError, match=r"times\.json.*remove it"):
        run_experiment(photos, networks, tmp_path / "results")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"accuracy"', '"acuracy"'),
        ('"n_images"', '"images"'),
        ('"notes"', '"note"'),
        (r'"C": [\d.]+', '"C": "high"'),
        (r'"C": [\d.]+', '"C": NaN'),
        (r'"seconds": [\d.]+\n', '"seconds": true\n'),
    ],
)
def test_results_changed_by_hand_are_computed_again(old, new, photos, networks, tmp_path):
    folder = tmp_path / "results"
    run_experiment(photos, networks[:1], folder, per_class=[2])
    figures = (folder / "experiment.json").read_bytes()
    times = (folder / "times.json").read_text("utf-8")
    changed = re.sub(old, new, times)
    assert changed != times
    (folder / "times.json").write_text(changed, "utf-8")
    run_experiment(photos, networks[:1], folder, per_class=[2])
    assert (folder / "experiment.json").read_bytes() == figures
    assert new not in (folder / "times.json").read_text("utf-8")


def test_what_cannot_be_measured_is_refused_before_any_work(photos, networks, tmp_path):
    folder = tmp_path / "results"
    (tmp_path / "other").mkdir()
    other = write_backbone(tmp_path / "other" / "small.onnx")
    with pytest.raises(ParameterError, match="rename one"):
        run_experiment(photos, [networks[0], other], folder)
    with pytest.raises(ParameterError, match="name one or more"):
        run_experiment(photos, [], folder)
    with pytest.raises(SourceError, match="none of its images has a label"):
        run_experiment(photos / "red", networks, folder)
    with pytest.raises(FileFormatError):
        run_experiment(photos, [networks[0], photos / "red" / "0.png"], folder)
    assert not folder.exists()
