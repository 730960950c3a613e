"""The page of an experiment on the published data set, beside the published figures."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cnncodes.experiment.page import write_result
from cnncodes.experiment.published import is_caltech101
from cnncodes.experiment.result import Experiment, NetworkResult, Point, Times

SIZES = (5, 10, 15, 20, 25, 30, None)


def network(name, backbone):
    points = tuple(
        Point(size, 102 * (size or 63), {5: 0.5, 25: 0.6}, 0.7 + 0.01 * number, 1.0)
        for number, size in enumerate(SIZES)
    )
    return NetworkResult(name, backbone, "imagenet", "", "float32", "0" * 64, (5, 5, 2048), points)


@pytest.fixture
def experiment():
    times = Times(3600.0, 9144, {5: 100.0, 25: 500.0}, 60.0)
    return Experiment(
        source="<caltech101>",
        images_sha256="1" * 64,
        n_classes=102,
        n_train=6353,
        n_test=2791,
        majority=0.086,
        seed=0,
        is_caltech101=True,
        networks=(network("inception_v3", "inception_v3"), network("vgg19", "vgg19")),
        notes=(),
        created_with="a test",
        times=(times, times),
    )


def test_published_figures_stand_beside_those_of_the_same_data_set(experiment, tmp_path):
    write_result(experiment, tmp_path)
    page = (tmp_path / "index.html").read_text("utf-8")
    assert page.count("90.79") == page.count("79.08") == 2
    assert "129 s" in page
    assert "≈ 88.8%" in page  # 30 images per class
    assert "&lt;caltech101&gt;" in page
    assert "do not compare" not in page
    assert "published" in (tmp_path / "chart.svg").read_text("utf-8")
    result = json.loads((tmp_path / "experiment.json").read_text("utf-8"))
    assert [each["published"]["seconds"] for each in result["networks"]] == [129, 328]


def test_published_figures_stand_apart_from_those_of_another(experiment, tmp_path):
    write_result(replace(experiment, is_caltech101=False), tmp_path)
    page = (tmp_path / "index.html").read_text("utf-8")
    assert page.count("90.79%") == 1
    assert "do not compare" in page


def test_networks_of_one_kind_are_told_apart(experiment, tmp_path):
    networks = (network("mine", "vgg19"), network("keras", "vgg19"), network("other", "other"))
    times = (*experiment.times, experiment.times[0])
    write_result(replace(experiment, networks=networks, times=times), tmp_path)
    page = (tmp_path / "index.html").read_text("utf-8")
    assert "VGG19 (mine)" in page
    assert "VGG19 (keras)" in page
    assert "other (other)" not in page


def test_data_set_is_known_by_its_classes():
    names = {"accordion", "airplanes", "watch", "wrench", "yin_yang"}
    assert is_caltech101([*names, *map(str, range(97))])
    assert is_caltech101([*names, *map(str, range(96))])
    assert not is_caltech101(names)
    assert not is_caltech101([str(number) for number in range(102)])
