"""Classes that are renamed, merged or left out by a table."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tests.helpers import error_of, info_of, run_command, train_json, write_labelled_codes

X, Y = load_digits(n_class=4, return_X_y=True)


@pytest.fixture
def codes(tmp_path):
    return write_labelled_codes(tmp_path / "codes.h5", X[:100], Y[:100].tolist(), list("0123"))


@pytest.fixture
def table(tmp_path):
    def write(*rows, header="from,to"):
        path = tmp_path / "map.csv"
        path.write_text("\n".join([header, *rows]) + "\n", "utf-8")
        return path

    return write


def test_head_is_evaluated_on_the_old_names(codes, table, tmp_path):
    head = tmp_path / "head.onnx"
    arguments = (codes, "-o", head, "--C", 1)
    result = train_json(
        run_command, *arguments, "--classes", table("0,round", "3,round", "1,one", "2,")
    )
    assert result["labels"] == ["round", "one"]
    assert "classes merged by map.csv: 0 and 3 to round" in result["notes"]
    assert "classes renamed by map.csv: 1 to one" in result["notes"]
    left_out = "classes left out by map.csv, whose images count as without a label: 2"
    assert left_out in result["notes"]
    assert info_of(head).training["classes"] == {"0": "round", "3": "round", "1": "one", "2": ""}
    lines = run_command("evaluate", head, codes).stdout
    assert f"evaluated on {result['test']['n_images']} images" in lines
    assert f"accuracy           {result['test']['accuracy']:.1%}" in lines
    assert "that the model does not know: 2" in lines
    renamed = "classes renamed as in the model's training: 0 to round, 1 to one, 3 to round"
    assert f"  note: {renamed}" in lines.splitlines()


def test_merged_class_that_the_head_does_not_know_is_named_once(codes, table, tmp_path):
    head = tmp_path / "head.onnx"
    renames = ("--classes", table("2,other", "3,other"))
    run_command(*("train", codes, "-o", head, "--C", 1, *renames, "--unknown", "--none=other"))
    lines = run_command("evaluate", head, codes).stdout.splitlines()
    (note,) = (line for line in lines if "that the model does not know" in line)
    assert note.endswith("know: other")


@pytest.mark.parametrize("delimiter", [";", "\t"])
@pytest.mark.parametrize("empty", [(), ("", "")])
def test_table_is_read_as_spreadsheets_write_it(codes, tmp_path, delimiter, empty):
    rows = [
        ("From", "To"),
        ("0", "round, closed"),
        ("3", "three"),
        ("1", "one"),
        ("2", ""),
        ("", ""),
        (" ", ""),
    ]
    lines = [delimiter.join([*row, *empty]) for row in rows]
    path = tmp_path / "map.csv"
    path.write_bytes(("\ufeff" + "\r\n".join([*lines, ""])).encode())
    result = train_json(run_command, codes, "-o", tmp_path / "head.onnx", "--classes", path)
    assert result["labels"] == ["round, closed", "one", "three"]


def test_evaluate_renames_the_classes_of_the_images(codes, table, tmp_path):
    named = write_labelled_codes(
        tmp_path / "named.h5", X[:100], Y[:100].tolist(), ["a", "b", "c", "d"]
    )
    run_command("train", named, "-o", tmp_path / "head.onnx", "--C", 1)
    arguments = ("evaluate", tmp_path / "head.onnx", codes)
    assert "are not those of the model" in error_of(*arguments)
    lines = run_command(*arguments, "--classes", table("0,a", "1,b", "2,c", "3,d")).stdout
    assert "classes renamed by map.csv: 0 to a, 1 to b, 2 to c" in lines


def test_curve_is_of_the_new_classes(codes, table, tmp_path):
    arguments = ("curve", codes, "-o", tmp_path / "curve.json", "--seeds", 1, "--C", 1)
    lines = run_command(*arguments, "--classes", table("2,3")).stdout
    assert "3 classes" in lines
    assert "classes merged by map.csv: 2 and 3 to 3" in lines


def test_names_of_an_earlier_head_stay_beside_new_ones(codes, table, tmp_path):
    old, new = tmp_path / "old.onnx", tmp_path / "new.onnx"
    run_command("train", codes, "-o", old, "--C", 1, "--classes", table("0,round", "3,round"))
    arguments = (codes, "-o", new, "--from", old, "--classes", table("1,one"))
    result = train_json(run_command, *arguments)
    assert result["labels"] == ["round", "one", "2"]
    assert "classes merged by map.csv and old.onnx: 0 and 3 to round" in result["notes"]
    assert info_of(new).training["classes"] == {"0": "round", "3": "round", "1": "one"}
    assert not any(note.startswith("new: ") for note in result["notes"])


def test_training_from_a_head_keeps_its_names(codes, table, tmp_path):
    run_command(
        *("train", codes, "-o", tmp_path / "old.onnx", "--C", 1, "--classes", table("0,round"))
    )
    result = train_json(
        run_command, codes, "-o", tmp_path / "new.onnx", "--from", tmp_path / "old.onnx"
    )
    assert result["labels"] == ["round", "1", "2", "3"]
    again = train_json(
        *(run_command, codes, "-o", tmp_path / "third.onnx", "--from", tmp_path / "old.onnx"),
        *("--classes", table("0,round", "3,round")),
    )
    assert again["labels"] == ["round", "1", "2"]
    assert not np.isnan([each["before"] for each in again["growth"]["classes"]]).any()


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (["9,nine"], "lists 9, but the classes are 0, 1, 2"),
        (["0,1", "1,0"], "renames 0 to 1, which it renames too"),
        (["0,1", "1,x"], "renames 0 to 1, which it renames too"),
        (["0,1", "0,2"], "lists 0 twice"),
        (["0,Round", "3,round"], "makes the classes Round and round, which differ only in case"),
        (["0"], "row 2 is not the name of a class and its new one"),
        ([], "lists no class, so leave --classes FILE out"),
    ],
)
def test_a_table_that_is_wrong_is_refused(codes, table, tmp_path, rows, reason):
    arguments = ("train", codes, "-o", tmp_path / "head.onnx", "--classes", table(*rows))
    assert reason in error_of(*arguments)


def test_a_header_is_required(codes, table, tmp_path):
    arguments = ("train", codes, "-o", tmp_path / "head.onnx", "--classes")
    wrong = table("0,1", header="old,new")
    assert "does not begin with the columns from,to" in error_of(*arguments, wrong)
    wrong.write_bytes(b"from,to\n\xff,x\n")
    assert "is not a text file in UTF-8" in error_of(*arguments, wrong)
