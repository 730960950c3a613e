"""The file of a learning curve: what it holds, and which files are refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnncodes.errors import FileFormatError, OutputError
from cnncodes.evaluate.curve import (
    MAX_BYTES,
    CurvePoint,
    curves_to_json,
    read_curves,
    save_curves,
)
from tests.helpers import CURVES

VALID = curves_to_json(CURVES)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["format", "kind", "curves", "points", "accuracies", "C"]), inner
        )
    ),
    max_leaves=20,
)


def key_paths(value, at=()):
    """The path of keys to every value in a JSON value, the outermost first."""
    yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in inner if isinstance(value, dict | list | tuple) else ():
        if isinstance(each, dict | list | tuple):
            yield from key_paths(each, (*at, key))
        else:
            yield (*at, key)


KEYS = [keys for keys in key_paths(json.loads(json.dumps(VALID))) if keys]


def changed(keys, new):
    """A valid file's value with another one at `keys`; without it if that is `...`."""
    value = json.loads(json.dumps(VALID))
    inside = value
    for key in keys[:-1]:
        inside = inside[key]
    if new is ...:
        del inside[keys[-1]]
    else:
        inside[keys[-1]] = new
    return value


def refusal(path, content):
    path.write_bytes(content)
    with pytest.raises(FileFormatError) as caught:
        read_curves(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < len(str(path)) + 150
    return message.removeprefix(f"{path}: ")


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "curve.json"
    save_curves(CURVES, path, overwrite=False)
    assert read_curves(path) == CURVES
    with pytest.raises(OutputError, match="exists already"):
        save_curves(CURVES[:1], path, overwrite=False)
    assert read_curves(path) == CURVES


def test_file_reports_mean_and_deviation():
    first, second = VALID["curves"][0]["points"]
    assert first["mean"] == 0.625
    assert first["deviation"] == 0.125  # ((-1/8)² + (1/8)² + 0) / 2, of which the root
    assert second["mean"] == pytest.approx(0.85)
    assert second["deviation"] == pytest.approx(math.sqrt(0.015 / 2))
    assert VALID["curves"][1]["points"][0]["deviation"] == 0


@pytest.mark.parametrize(
    ("keys", "new", "expected"),
    [
        (("curves",), [], "curves must be a list that is not empty"),
        (("curves",), {}, "curves must be a list"),
        (("curves", 0), 7, "points must be a list"),
        (("curves", 0, "points"), [], "points must be a list that is not empty"),
        (("curves", 0, "points", 1, "per_class"), 5, "the points do not increase"),
        (("curves", 0, "points", 0, "per_class"), True, "per_class must be a whole number"),
        (("curves", 0, "points", 0, "per_class"), 0, "per_class must be from 1"),
        (("curves", 0, "points", 0, "per_class"), 5.0, "per_class must be a whole number"),
        (("curves", 0, "points", 0, "n_train"), 10**30, "n_train must be from 2"),
        (("curves", 0, "points", 0, "C"), 0, "C must be at least"),
        (("curves", 0, "points", 0, "C"), math.nan, "C must be at least"),
        (("curves", 0, "points", 0, "C"), math.inf, "C must be at least"),
        (("curves", 0, "points", 0, "C"), 10**400, "C must be at least"),
        (("curves", 0, "points", 0, "C"), "auto", "C must be a number"),
        (("curves", 0, "points", 0, "accuracies"), [], "accuracies must be a list"),
        (("curves", 0, "points", 0, "accuracies", 1), 1.5, "an accuracy must be at least 0"),
        (("curves", 0, "points", 0, "accuracies", 1), True, "an accuracy must be a number"),
        (("curves", 0, "n_classes"), 1, "n_classes must be from 2"),
        (("curves", 0, "n_test"), ..., "n_test must be a whole number"),
        (("curves", 0, "seed"), -1, "seed must be from 0"),
        (("curves", 0, "seed"), True, "seed must be a whole number"),
        (("curves", 0, "class_weight"), [], "class_weight must be"),
        (("curves", 0, "train_fraction"), 1, "train_fraction must be above 0 and below 1"),
        (("curves", 0, "split"), ..., "split must be a text"),
        (("curves", 0, "notes", 0), 5, "notes must be a list of texts"),
        (("curves", 0, "majority"), 1.5, "majority must be at least 0"),
        (("curves", 0, "majority"), "0.5", "majority must be a number"),
        (("curves", 0, "codes"), None, "codes must be a text"),
    ],
)
def test_damage_is_named(tmp_path, keys, new, expected):
    value = changed(keys, new)
    message = refusal(tmp_path / "curve.json", json.dumps(value).encode())
    assert message.startswith("is damaged (")
    assert expected in message
    assert message.endswith("; make one with: cnncodes curve")


def test_majority_and_summary_may_be_absent(tmp_path):
    value = json.loads(json.dumps(VALID))
    for curve in value["curves"]:
        del curve["majority"], curve["summary"]
    (tmp_path / "curve.json").write_text(json.dumps(value))
    assert read_curves(tmp_path / "curve.json") == CURVES


def test_a_point_may_be_a_single_fit(tmp_path):
    points = (*CURVES[0].points, CurvePoint(20, 55, 3.0, (0.875,)))
    curves = [replace(CURVES[0], points=points, majority=0.5)]
    save_curves(curves, tmp_path / "curve.json", overwrite=False)
    assert read_curves(tmp_path / "curve.json") == curves


def curve_of(*accuracies, n_test=1000, majority=None):
    """A curve of doubling sizes, from 10 images per class on, and two classes."""
    points = [
        CurvePoint(10 * 2**power, 20 * 2**power, 1.0, each) for power, each in enumerate(accuracies)
    ]
    return replace(CURVES[0], n_test=n_test, points=tuple(points), majority=majority)


@pytest.mark.parametrize(
    ("curve", "summary"),
    [
        (
            curve_of((0.5, 0.6), (0.68, 0.7, 0.69), (0.73, 0.735, 0.74)),
            "from 20 to 40 images per class (40 to 80 in all) the accuracy still rises by 4.5 "
            "points (± 1.3): more images are likely to help",
        ),
        (
            curve_of((0.70, 0.70, 0.71), (0.74,)),  # the spread of the draws is that of the fit too
            "from 10 to 20 images per class (20 to 40 in all) the accuracy still rises by 3.7 "
            "points (± 1.3): more images are likely to help",
        ),
        (
            curve_of((0.899, 0.9, 0.901), (0.902,)),
            "from 10 to 20 images per class (20 to 40 in all) the accuracy changes by +0.2 points "
            "(± 0.2): more images of this kind are unlikely to help much",
        ),
        (
            curve_of((0.9, 0.9, 0.9), (0.85, 0.85, 0.85)),
            "from 10 to 20 images per class (20 to 40 in all) the accuracy changes by -5.0 points "
            "(± 0.1): more images of this kind are unlikely to help much",
        ),
        (
            curve_of((0.6, 0.7, 0.8), (0.75,)),
            "from 10 to 20 images per class (20 to 40 in all) the accuracy changes by +5.0 points "
            "(± 23.1): too uncertain to say whether more images help",
        ),
        (
            curve_of((0.9, 0.9, 0.9), (0.9,), n_test=10),  # ten images do not show a point
            "from 10 to 20 images per class (20 to 40 in all) the accuracy changes by +0.0 points "
            "(± 10.0): too uncertain to say whether more images help",
        ),
        (
            curve_of((0.6,), (0.7,)),
            "one draw of the training images does not show how much the accuracy depends on "
            "chance, and so not whether more images help",
        ),
        (
            curve_of((0.6, 0.7)),
            "no size has about half the images of the largest, so the curve does not show whether "
            "more images help",
        ),
        (
            curve_of((0.6, 0.6), (0.65, 0.65), majority=0.65),
            "from 10 to 20 images per class (20 to 40 in all) the accuracy still rises by 5.0 "
            "points (± 0.1): more images are likely to help; the accuracy is not above that of "
            "always predicting the most common class (65.0%)",
        ),
    ],
)
def test_summary(curve, summary):
    assert curve.summary == summary
    assert curves_to_json([curve])["curves"][0]["summary"] == summary


def test_summary_leaves_out_a_majority_that_is_beaten():
    curve = curve_of((0.6, 0.6), (0.65, 0.65))
    assert replace(curve, majority=0.649).summary == curve.summary


def test_later_format(tmp_path):
    value = json.dumps(changed(("format",), "2")).encode()
    assert refusal(tmp_path / "curve.json", value) == (
        "is in format '2', this release reads format 1; install a newer cnncodes"
    )


TEXT = "is a text (no command takes it)"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is an empty file"),
        (b"\x89PNG", "cannot be read as JSON"),
        (b"[" * 100_000, f"{TEXT}, not a learning curve"),
        (b'{"kind": ' + b"9" * 5000 + b"}", f"{TEXT}, not a learning curve"),
        (b"[1, 2]", f"{TEXT}, not a learning curve"),
        (
            b'{"kind": "evaluation", "format": "1"}',
            "is the result of an evaluation (its report is the index.html beside it), not a "
            "learning curve",
        ),
        (b'{"kind": "curve"}' + b" " * MAX_BYTES, "is too large for a learning curve"),
    ],
    ids=lambda value: str(value[:12]),
)
def test_foreign_files(tmp_path, content, expected):
    message = refusal(tmp_path / "curve.json", content)
    assert message == f"{expected}; make one with: cnncodes curve"


def test_absent_file_and_folder(tmp_path):
    for path, expected in (
        (tmp_path / "absent.json", "no such file"),
        (tmp_path, "is a folder without images (no command takes it), not a learning curve"),
    ):
        with pytest.raises(FileFormatError) as caught:
            read_curves(path)
        assert str(caught.value) == f"{path}: {expected}; make one with: cnncodes curve"


def read_or_refuse(folder, value):
    """Read a file that holds a value; whatever is accepted must survive being written again."""
    path = folder / "wild.json"
    content = json.dumps(value).encode()
    path.write_bytes(content)
    try:
        curves = read_curves(path)
    except FileFormatError:
        refusal(path, content)
        return
    again = folder / "again.json"
    save_curves(curves, again, overwrite=True)
    assert read_curves(again) == curves


@settings(max_examples=80)
@given(value=JSON)
def test_any_json(tmp_path_factory, value):
    read_or_refuse(tmp_path_factory.getbasetemp(), value)


@settings(max_examples=120)
@given(keys=st.sampled_from(KEYS), new=JSON | st.just(...))
def test_valid_file_with_one_value_changed(tmp_path_factory, keys, new):
    read_or_refuse(tmp_path_factory.getbasetemp(), changed(keys, new))


@given(where=st.integers(0, 10**4), wild=st.binary(max_size=20))
def test_valid_file_with_wild_bytes(tmp_path_factory, where, wild):
    content = bytearray(json.dumps(VALID).encode())
    where %= len(content)
    content[where : where + len(wild)] = wild
    path = tmp_path_factory.getbasetemp() / "bytes.json"
    path.write_bytes(content)
    try:
        read_curves(path)
    except FileFormatError:
        refusal(path, bytes(content))
