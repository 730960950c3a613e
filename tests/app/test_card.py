from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cnncodes.app.card import write_card
from cnncodes.errors import ParameterError
from cnncodes.export.backbones import BACKBONES, licence_of
from tests.helpers import EVALUATED_BACKBONE, VGG16_INFO, error_of, run_command

LIMITS = "Deciding about people.\nOther cameras."


def test_info_prints_the_card(small_backbone, head, tmp_path):
    app = tmp_path / "app.onnx"
    options = ("--limits", LIMITS, "--date", "2025-01-31", "--batch", "1")
    run_command("bundle", small_backbone, head, "-o", app, *options)
    rows = run_command("info", app).stdout.splitlines()
    shown = {line[:17].strip(): line[17:].strip() for line in rows}
    assert shown["limits"] == "Deciding about people. Other cameras."
    assert shown["made on"] == "2025-01-31"
    assert shown["licence"] == "none: the weights are random numbers"
    assert shown["batch"] == "1 image at a time, neither more nor fewer"
    assert shown["data"] == "digits"
    assert "test part" in shown
    described = json.loads(run_command("info", app, "--json").stdout)
    assert described["training"]["data"] == "digits"
    assert described["card"] == {
        "limits": LIMITS,
        "licence": "none: the weights are random numbers",
        "date": "2025-01-31",
        "batch": 1,
    }


def test_no_date_unless_one_is_given(monkeypatch):
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    assert set(write_card([VGG16_INFO], limits=None, day=None)) == {"licence"}
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert write_card([VGG16_INFO], limits=None, day=None)["date"] == "2023-11-14"
    assert write_card([VGG16_INFO], limits=None, day="2025-01-31")["date"] == "2025-01-31"


@pytest.mark.parametrize("seconds", ["", "now", "1e9", "9" * 30])
def test_date_of_the_environment_that_is_none(monkeypatch, seconds):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", seconds)
    with pytest.raises(ParameterError, match="SOURCE_DATE_EPOCH must be a number of seconds"):
        write_card([VGG16_INFO], limits=None, day=None)


@pytest.mark.parametrize("day", ["today", "31.1.2025", "2025-02-30", "", 20250131])
def test_day_that_is_none(day):
    with pytest.raises(ParameterError, match="date must be a day such as 2025-01-31"):
        write_card([VGG16_INFO], limits=None, day=day)


@pytest.mark.parametrize("limits", ["", " ", "x" * 4097, 3])
def test_limits_that_are_no_text(limits):
    with pytest.raises(ParameterError, match="limits must be a text of 1 to 4,096 characters"):
        write_card([VGG16_INFO], limits=limits, day=None)


def test_wrong_card_leaves_nothing(small_backbone, head, tmp_path):
    app = tmp_path / "app.onnx"
    message = error_of("bundle", small_backbone, head, "-o", app, "--date", "yesterday")
    assert message == "Error: date must be a day such as 2025-01-31, not 'yesterday'"
    assert not app.exists()


def test_licence_is_what_is_known():
    assert licence_of(EVALUATED_BACKBONE).startswith("Creative Commons Attribution 4.0, by VGG")
    assert licence_of(VGG16_INFO) == "none: the weights are random numbers"
    tuned = replace(
        EVALUATED_BACKBONE, weights="file:ab", finetuned=json.dumps({"from": "imagenet"})
    )
    assert licence_of(tuned) == (
        f"{licence_of(EVALUATED_BACKBONE)}; then fine-tuned on images of whoever made it"
    )
    assert {name for name, spec in BACKBONES.items() if not spec.weights_licence} == {
        "efficientnet_v2_b0"
    }
