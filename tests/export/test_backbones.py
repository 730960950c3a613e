from __future__ import annotations

import json
from dataclasses import asdict

from cnncodes.export.backbones import BACKBONES
from tests.conftest import Run


def test_list_has_a_line_for_each_network(run: Run) -> None:
    header, *lines = run("export", "--list").stdout.splitlines()
    assert " ".join(header.split()) == "network codes parameters operations smallest input"
    assert [line.split()[0] for line in lines[: len(BACKBONES)]] == list(BACKBONES)
    line = " ".join(lines[0].split())
    assert line == "inception_v3 5 × 5 × 2048 = 51,200 21.8 M 2.8 G 75 pixels"


def test_weight_files_are_those_that_keras_downloads() -> None:
    network = BACKBONES["mobilenet_v2"]
    assert network.weights_file_for(160).endswith("_kernels_1.0_160_no_top.h5")
    assert network.weights_file_for(299) == network.weights_file_for(224) == network.weights_file
    assert BACKBONES["vgg16"].weights_file_for(160) == BACKBONES["vgg16"].weights_file


def test_json_has_all_of_each_network(run: Run) -> None:
    printed = json.loads(run("export", "--list", "--json").stdout)
    specs = [asdict(spec) for spec in BACKBONES.values()]
    assert printed == [{**spec, "code_shape": list(spec["code_shape"])} for spec in specs]
