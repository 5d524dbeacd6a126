from __future__ import annotations

import math

import pytest

from evaluation.report import Cell, Report, Section, Table, interval, number, p_value, readable, render_html


def page(**changes) -> str:
    table = Table("Caption", ["Model", "AUC"], [[Cell("<i>m</i>"), Cell("0.9", "0.8 to 1.0", "0.98")]], folded=True)
    content = {
        "title": "Title & more",
        "notices": ["Notice"],
        "verdict": ["First.", "Second."],
        "facts": [("Cohort", "demo")],
        "sections": [Section("data", "Data", items=["one item"], blocks=[table])],
    }
    return render_html(Report(**(content | changes)))


def test_text_is_escaped_and_cells_carry_interval_and_paper():
    html = page()
    assert "Title &amp; more" in html
    assert "&lt;i&gt;m&lt;/i&gt;" in html
    assert "<small>0.8 to 1.0</small>" in html
    assert "<small>paper 0.98</small>" in html
    assert "<details><summary>Caption</summary>" in html
    assert '<th scope="col">AUC</th>' in html
    assert "<li>one item</li>" in html


def test_the_verdict_comes_before_any_section():
    html = page()
    assert html.index("First.") < html.index("Second.") < html.index("<main>")


def test_both_colour_schemes_and_narrow_screens_are_provided_for():
    html = page()
    assert "prefers-color-scheme: dark" in html
    assert "width=device-width" in html


@pytest.mark.parametrize(("value", "text"), [(0.12345, "0.123"), (-0.5, "−0.500"), (math.nan, "–"), (1.0, "1.000")])
def test_numbers(value, text):
    assert number(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.0004, "p < 0.001"), (0.0314, "p = 0.031"), (math.nan, "–")])
def test_p_values(value, text):
    assert p_value(value) == text


def test_intervals_and_names():
    assert interval(0.1, 0.25, 2) == "0.10 to 0.25"
    assert interval(math.nan, 1.0) == ""
    assert readable("chronic_kidney_disease") == "chronic kidney disease"
