from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cnncodes.errors import MissingDependencyError, OutputError, ParameterError
from cnncodes.evaluate.charts import (
    COLOURS,
    check_figure,
    confusion_figure,
    inline_svg,
    learning_curve_figure,
    reliability_figure,
    save_figure,
)
from cnncodes.evaluate.curve import CurvePoint
from cnncodes.evaluate.metrics import Bin
from tests.helpers import make_curve

SVG = "{http://www.w3.org/2000/svg}"


def line_of(axes, number):
    """The mean line of a curve: what matplotlib drew."""
    return axes.containers[number].lines[0]


def texts_of(svg):
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_learning_curve_shows_mean_and_deviation():
    figure = learning_curve_figure([make_curve()])
    (axes,) = figure.axes
    x, y = line_of(axes, 0).get_data()
    assert x.tolist() == [1, 2, 4, 8, 16, 32]
    assert y == pytest.approx([45, 50, 55, 60, 65, 70])
    (bar, *_) = axes.containers[0].lines[2][0].get_segments()
    deviation = 100 * np.std([0.4, 0.5], ddof=1)
    assert bar[:, 1] == pytest.approx([45 - deviation, 45 + deviation])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2", "4", "8", "16", "32"]
    assert axes.get_title(loc="left") == "10 classes: vgg16, imagenet weights"
    assert not figure.legends


def test_majority_is_a_line_and_a_single_fit_has_no_bar():
    curve = make_curve(n=3)
    points = (*curve.points, CurvePoint(8, 80, 1.0, (0.6,)))
    figure = learning_curve_figure([replace(curve, points=points, majority=0.36)])
    (axes,) = figure.axes
    (line,) = [each for each in axes.lines if each.get_linestyle() == "--"]
    assert list(line.get_ydata()) == pytest.approx([36, 36])
    assert axes.get_ylim()[0] < 36
    (text,) = figure.legends[0].get_texts()
    assert text.get_text() == "always predicting the most common class: 36.0% of the test images"
    bars = [each for each in axes.containers[0].lines[2][0].get_segments() if len(each)]
    assert sum(np.isfinite(bar).all() for bar in bars) == 3
    assert line_of(axes, 0).get_ydata()[-1] == pytest.approx(60)


def test_curves_of_the_same_images_share_the_line_of_the_majority():
    curves = [replace(make_curve(f"{name}.h5"), majority=0.3) for name in "ab"]
    for last, n_lines in ((0.3, 1), (0.25, 2), (None, 1)):
        figure = learning_curve_figure([curves[0], replace(curves[1], majority=last)])
        dashed = [each for each in figure.axes[0].lines if each.get_linestyle() == "--"]
        assert len(dashed) == n_lines
        assert len(figure.legends[0].get_texts()) == 2 + n_lines


def test_curves_of_several_networks_are_distinguished():
    curves = [make_curve(), make_curve(backbone="inception_v3", weights="random:0", shift=0.1)]
    figure = learning_curve_figure(curves)
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["vgg16, imagenet weights", "inception_v3, random weights"]
    lines = [line_of(figure.axes[0], number) for number in (0, 1)]
    assert lines[0].get_color() != lines[1].get_color()
    assert lines[0].get_marker() != lines[1].get_marker()


def test_int8_network_is_distinguished_from_its_float32_file():
    curves = [replace(make_curve(), precision=precision) for precision in ("float32", "int8")]
    (legend,) = learning_curve_figure(curves).legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["vgg16, imagenet weights", "vgg16 int8, imagenet weights"]


def test_weight_files_are_named_with_8_digits():
    files = [(f"{name}.weights.h5", f"file:{name * 64}") for name in "ab"]
    curves = [replace(make_curve(weights=sha), weights_file=name) for name, sha in files]
    (legend,) = learning_curve_figure(curves).legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "vgg16, weights of a.weights.h5 (aaaaaaaa)",
        "vgg16, weights of b.weights.h5 (bbbbbbbb)",
    ]


@pytest.mark.parametrize(
    "name", ["inception_v3_notop.weights.h5", "of me, from my photographs of 2025.h5"]
)
def test_title_of_one_curve_has_the_whole_name_of_the_weight_file(name):
    curve = replace(make_curve(weights=f"file:{'a' * 64}"), weights_file=name)
    figure = learning_curve_figure([replace(curve, backbone="inception_v3")])
    title = f"10 classes: inception_v3, weights of {name} (aaaaaaaa)"
    assert figure.axes[0].get_title(loc="left").replace("\n", " ") == title
    figure.draw_without_rendering()
    drawn = figure.axes[0]._left_title.get_window_extent()  # matplotlib has no public way to it
    assert drawn.x1 <= figure.get_size_inches()[0] * figure.dpi


def test_curves_of_one_network_are_distinguished_by_their_files():
    figure = learning_curve_figure([make_curve("a/one.h5"), make_curve("a/two.h5")])
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["one.h5", "two.h5"]
    assert figure.axes[0].get_title(loc="left") == "10 classes: vgg16, imagenet weights"


def test_curves_are_distinguished_by_both_where_need_be():
    curves = [make_curve("one.h5"), make_curve("two.h5"), make_curve("three.h5", "vgg19")]
    figure = learning_curve_figure(curves)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "vgg16, imagenet weights\n(one.h5)",
        "vgg16, imagenet weights\n(two.h5)",
        "vgg19, imagenet weights\n(three.h5)",
    ]


def test_more_curves_than_colours_are_all_drawn():
    figure = learning_curve_figure([make_curve(f"{number}.h5") for number in range(13)])
    assert len(figure.axes[0].containers) == 13


def test_one_point_makes_a_chart(tmp_path):
    save_figure(learning_curve_figure([make_curve(n=1)]), tmp_path / "one.svg")
    assert "1" in texts_of((tmp_path / "one.svg").read_bytes())


def test_crowded_ticks_are_thinned_and_the_largest_kept():
    points = tuple(CurvePoint(number, number, 1.0, (0.5,)) for number in range(1, 51))
    (axes,) = learning_curve_figure([replace(make_curve(), points=points)]).axes
    ticks = [int(tick.get_text()) for tick in axes.get_xticklabels()]
    assert ticks[-1] == 50
    assert {1, 2, 3} <= set(ticks)
    assert len(ticks) < 20


def test_png_has_150_dots_an_inch(tmp_path):
    figure = learning_curve_figure([make_curve()])
    save_figure(figure, tmp_path / "curve.PNG")
    with Image.open(tmp_path / "curve.PNG") as image:
        assert image.format == "PNG"
        assert image.size == tuple(round(150 * length) for length in figure.get_size_inches())
        assert image.convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)


def test_same_curve_gives_the_same_bytes(tmp_path):
    for suffix in ("svg", "png"):
        for name in "ab":
            figure = learning_curve_figure([make_curve()])
            save_figure(figure, tmp_path / f"{name}.{suffix}")
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    assert b"<dc:date>" not in (tmp_path / "a.svg").read_bytes()


@pytest.mark.parametrize("name", ["curve", "curve.pdf", "curve.svg.jpg"])
def test_other_endings_are_refused(tmp_path, name):
    with pytest.raises(ParameterError, match=r"is a \.png or \.svg file; name it so"):
        save_figure(learning_curve_figure([make_curve()]), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_existing_chart_is_kept_unless_overwritten(tmp_path):
    path = tmp_path / "curve.svg"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        save_figure(learning_curve_figure([make_curve()]), path)
    assert path.read_text() == "mine"
    save_figure(learning_curve_figure([make_curve()]), path, overwrite=True)
    assert "<svg" in path.read_text()


def test_nothing_global_changes(tmp_path):
    before = dict(matplotlib.rcParams)
    save_figure(learning_curve_figure([make_curve()]), tmp_path / "curve.svg")
    assert dict(matplotlib.rcParams) == before
    assert (
        "matplotlib.pyplot"
        not in subprocess.run(
            [sys.executable, "-c", "import sys, cnncodes.evaluate.charts; print(*sys.modules)"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
    )


HOSTILE = ["$x^2$ and $y", "<b>bold</b> & co", "line\nbreak\x1b[31m", "日本 \u202eevil", "\udcff"]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_come_out_as_text(tmp_path, name):
    save_figure(learning_curve_figure([make_curve(backbone=name)]), tmp_path / "curve.svg")
    text = " ".join(texts_of((tmp_path / "curve.svg").read_bytes()))
    visible = {"$x^2$ and $y": "$x^2$ and $y", "<b>bold</b> & co": "<b>bold</b> & co"}
    assert visible.get(name, "10 classes: ") in text
    assert not re.search("[\x00-\x1f\u202e]", text)


@pytest.mark.parametrize("weights", ["file:" + "0" * 64, "x" * 200])
def test_long_names_stay_inside_the_chart(tmp_path, weights):
    curves = [
        make_curve("w" * 200, "m" * 300, weights),
        make_curve("w" * 100, "m" * 300, weights),
        make_curve("w" * 200, "n" * 300, weights),
    ]
    figure = learning_curve_figure(curves)
    save_figure(figure, tmp_path / "curve.png")
    width = figure.get_size_inches()[0] * figure.dpi
    assert figure.legends[0].get_window_extent().x1 <= width
    assert figure.axes[0].get_position().height > 0.5


def test_missing_matplotlib_is_reported(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError) as caught:
        check_figure(tmp_path / "curve.svg", overwrite=False)
    assert str(caught.value) == "a chart needs matplotlib; pip install 'cnncodes[report]'"
    with pytest.raises(MissingDependencyError):
        learning_curve_figure([make_curve()])


def test_reliability_diagram_shows_bins_and_counts():
    bins = [Bin(0, 0.5, 0, None, None), Bin(0.5, 1, 12, 0.8, 0.75)]
    figure = reliability_figure(bins)
    upper, lower = figure.axes
    (bar,) = upper.patches
    assert bar.get_height() == 0.75
    assert bar.get_x() + bar.get_width() / 2 == pytest.approx(0.75)
    assert [patch.get_height() for patch in lower.patches] == [12]
    assert "12" in texts_of(inline_svg(figure, "reliability", "a chart"))


def test_bin_without_a_right_prediction_is_seen():
    upper, _ = reliability_figure([Bin(0, 0.5, 3, 0.4, 0.0), Bin(0.5, 1, 9, 0.8, 1.0)]).axes
    (dots,) = [each for each in upper.lines if each.get_marker() == "o"]
    assert dots.get_xydata().tolist() == [[0.25, 0], [0.75, 1]]
    assert not dots.get_clip_on(), "half of it would be cut off"


@pytest.mark.parametrize("majority", [0.0, 0.687, 1.0])
def test_reliability_diagram_shows_the_majority(majority):
    bins = [Bin(0.5, 1, 12, 0.8, 0.75)]
    upper, _ = reliability_figure(bins, majority).axes
    (line,) = [each for each in upper.lines if each.get_linestyle() == ":"]
    assert list(line.get_ydata()) == [majority, majority]
    svg = inline_svg(reliability_figure(bins, majority), "reliability", "a chart")
    assert f"always predicting the most common class: {majority:.1%}" in texts_of(svg)
    assert not [
        each for each in reliability_figure(bins).axes[0].lines if each.get_linestyle() == ":"
    ]


def test_heat_map_has_a_square_for_each_cell_with_images():
    matrix = np.zeros((50, 50), np.int64)
    matrix[3, 3], matrix[3, 7], matrix[8, 2] = 3, 1, 5
    figure = confusion_figure(matrix, [f"class {number}" for number in range(50)])
    (axes,) = figure.axes
    (squares,) = axes.collections
    corners = [tuple(path.vertices.min(axis=0).astype(int)) for path in squares.get_paths()]
    assert corners == [(3, 3), (7, 3), (2, 8)], "x is the predicted class, y the true one"
    depths = squares.get_facecolors()[:, 3]
    assert depths[1] < depths[0] < depths[2]
    assert "1" in [tick.get_text() for tick in axes.get_xticklabels()]


def test_heat_map_of_fewer_classes_is_named():
    labels = ["$a$", "b" * 300, *map(str, range(18))]
    svg = inline_svg(confusion_figure(np.eye(20, dtype=np.int64), labels), "confusion", "a chart")
    texts = texts_of(svg)
    assert texts.count("$a$") == 2
    assert max(map(len, texts)) <= 20


@settings(max_examples=20)
@given(description=st.text(max_size=50))
def test_inline_chart_has_the_colours_of_the_page(description):
    svg = inline_svg(reliability_figure([Bin(0, 1, 3, 0.5, 0.5)]), "chart", description)
    assert ElementTree.fromstring(svg).get("role") == "img"
    assert "<script" not in svg
    for colour in COLOURS.values():
        assert colour not in svg
    assert "var(--accent)" in svg
    assert not re.search(r'<g id=|width="[\d.]+pt"', svg)
    assert "DejaVu" not in svg
