from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from evaluation.calibration import reliability
from evaluation.metrics import score
from evaluation.plots import INK, DotSeries, confusion_plot, dot_plot, reliability_plot, roc_plot, save_png, to_svg
from tests.evaluation.conftest import random_rows


def figures():
    rows = random_rows(60, 4, signal=1.0)
    names = ["one", "two", "a class with a very long name", "four"]
    scores = score(rows)
    yield dot_plot(names, [DotSeries("recall", scores.by_class["recall"])], label="Recall", highest=1.0)
    yield confusion_plot({"Test": scores.confusion}, names)
    yield roc_plot({"model": rows, "other": random_rows(60, 4, signal=0.2)}, names)
    yield reliability_plot({"Test": reliability(rows.labels, rows.probabilities)})


@pytest.mark.parametrize("figure", figures(), ids=["dots", "confusion", "roc", "reliability"])
def test_svg_is_well_formed_prefixed_and_takes_the_pages_ink(figure, tmp_path):
    svg = to_svg(figure, "own")
    ElementTree.fromstring(svg)
    assert all(name.startswith("own-") for name in re.findall(r'\bid="([^"]*)"', svg))
    references = re.findall(r'xlink:href="#([^"]*)"', svg) + re.findall(r"url\(#([^)]*)\)", svg)
    assert set(references) <= set(re.findall(r'\bid="([^"]*)"', svg))
    assert "currentColor" in svg
    assert INK not in svg
    save_png(figure, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000


def test_labels_stay_inside_the_figure():
    for figure in figures():
        figure.draw_without_rendering()
        inside = figure.bbox.padded(1)
        for axes in figure.axes:
            if not axes.get_visible():
                continue
            box = axes.get_tightbbox()
            assert inside.x0 <= box.x0 < box.x1 <= inside.x1
            assert inside.y0 <= box.y0 < box.y1 <= inside.y1


def test_roc_panels_are_the_classes_that_occur():
    rows = random_rows(60, 4)
    figure = roc_plot({"model": rows.select(rows.labels != 2)}, ["a", "b", "c", "d"])
    titles = [axes.get_title() for axes in figure.axes if axes.get_visible()]
    assert [title[0] for title in titles] == ["a", "b", "d"]
    two = random_rows(30, 2)
    assert len([axes for axes in roc_plot({"model": two}, ["no", "yes"]).axes if axes.get_visible()]) == 1


def test_dot_plot_draws_the_values_and_skips_undefined_ones():
    figure = dot_plot(["a", "b"], [DotSeries("x", np.array([0.5, np.nan]))], label="x")
    drawn = figure.axes[0].lines[0].get_xdata()
    np.testing.assert_array_equal(drawn, [0.5, np.nan])
