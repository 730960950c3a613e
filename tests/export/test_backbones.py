from __future__ import annotations

import json
from dataclasses import asdict

from cnncodes.export.backbones import BACKBONES
from tests.conftest import Run


def test_list_has_a_line_for_each_network(run: Run) -> None:
    header, *lines = run("export", "--list").stdout.splitlines()
    assert " ".join(header.split()) == "network codes parameters operations smallest input"
    assert [line.split()[0] for line in lines[: len(BACKBONES)]] == list(BACKBONES)
    told = " ".join(lines[0].split())
    assert told == "inception_v3 5 × 5 × 2048 = 51,200 21.8 M 2.8 G 75 pixels"


def test_json_tells_all_of_each_network(run: Run) -> None:
    told = json.loads(run("export", "--list", "--json").stdout)
    specs = [asdict(spec) for spec in BACKBONES.values()]
    assert told == [{**spec, "code_shape": list(spec["code_shape"])} for spec in specs]
