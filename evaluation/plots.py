"""The report's figures, drawn with Matplotlib's object interface: no display, no global state.

Text and axes are drawn in one ink colour on a transparent ground. ``to_svg`` turns the ink into ``currentColor``,
so that the same figure reads on a light and on a dark page; ``save_png`` puts it on white. Data colours are Okabe
and Ito's, which stay apart for colour-blind readers, and each series has its own marker or dash as well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from evaluation.calibration import Reliability
from evaluation.rows import PredictedRows

INK = "#1a1c20"
RULE = "#8a8f98"
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a8f98", "#a39a00")
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 2, 1, 2)), (0, (3, 1)), (0, (8, 2)), (0, (2, 2)), (0, (4, 1, 1, 1)))
_CELL = "#0b5394"
_STYLE: dict[Any, Any] = {
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "path",
}
_PNG_DPI = 150
_PIXELS_PER_INCH = 100


@dataclass(frozen=True)
class DotSeries:
    """One series of a dot plot: a value for each group, with an optional interval.

    Attributes:
        name: Name in the legend.
        values: float ``[groups]``; NaN draws nothing.
        low: float ``[groups]`` lower bounds, or None.
        high: float ``[groups]`` upper bounds, or None.
    """

    name: str
    values: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


def dot_plot(
    groups: list[str],
    series: list[DotSeries],
    *,
    label: str,
    logarithmic: bool = False,
    highest: float | None = None,
    emphasis: int | None = None,
) -> Figure:
    """Draw values with intervals, a line for each group.

    Args:
        groups: Names on the vertical axis, the first on top.
        series: Series, drawn side by side within a group.
        label: Label of the horizontal axis, with the unit.
        logarithmic: Whether the horizontal axis is logarithmic.
        highest: Upper end of the axis where the metric has one, such as 1.
        emphasis: Index of a group whose name is set in bold.

    Returns:
        The figure.
    """
    with mpl.rc_context(_STYLE):
        height = 1.1 + len(groups) * max(0.34, 0.2 * len(series))
        figure = Figure(figsize=(7.2, height), layout="constrained")
        axes = figure.add_subplot()
        centre = np.arange(len(groups), dtype=np.float64)
        offsets = (np.arange(len(series)) - (len(series) - 1) / 2) * min(0.22, 0.7 / len(series))
        for i, (entry, offset) in enumerate(zip(series, offsets, strict=True)):
            colour = PALETTE[i % len(PALETTE)]
            if entry.low is not None and entry.high is not None:
                axes.hlines(centre + offset, entry.low, entry.high, color=colour, linewidth=2, alpha=0.75)
            marker = _MARKERS[i % len(_MARKERS)]
            axes.plot(entry.values, centre + offset, marker, color=colour, markersize=6, label=entry.name)
        axes.set_yticks(centre, groups)
        axes.set_ylim(len(groups) - 0.4, -0.6)
        axes.set_xlabel(label)
        if logarithmic:
            axes.set_xscale("log")
        elif highest is not None:
            axes.set_xlim(right=highest + 0.02 * (highest - axes.get_xlim()[0]))
        axes.grid(axis="x", color=RULE, alpha=0.3, linewidth=0.6)
        axes.tick_params(axis="y", length=0)
        if emphasis is not None:
            axes.get_yticklabels()[emphasis].set_fontweight("bold")
        if len(series) > 1:
            figure.legend(loc="outside upper left", ncols=len(series), frameon=False)
    return figure


def confusion_plot(confusions: dict[str, np.ndarray], classes: list[str]) -> Figure:
    """Draw confusion matrices side by side: counts, shaded by the share of the true class (Fig. 4).

    Args:
        confusions: Title to int ``[classes, classes]``, true class by row.
        classes: Class names.

    Returns:
        The figure.
    """
    with mpl.rc_context(_STYLE):
        side = max(3.0, 0.62 * len(classes))
        longest = max(len(name) for name in classes)
        figure = Figure(
            figsize=(side * len(confusions) + 0.08 * longest + 0.9, side + 0.075 * longest + 0.9), layout="constrained"
        )
        panels = figure.subplots(1, len(confusions), squeeze=False, sharey=True)[0]
        for axes, (title, confusion) in zip(panels, confusions.items(), strict=True):
            _draw_confusion(axes, confusion)
            axes.set_title(title)
            axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right", rotation_mode="anchor")
            axes.set_xlabel("Predicted")
        panels[0].set_yticks(range(len(classes)), classes)
        panels[0].set_ylabel("True")
    return figure


def _draw_confusion(axes: Axes, confusion: np.ndarray) -> None:
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    colours = np.zeros((*confusion.shape, 4))
    colours[..., :3] = mpl.colors.to_rgb(_CELL)
    colours[..., 3] = share
    # Opacity instead of a colour map: an empty cell shows the page, light or dark.
    edges = np.arange(len(confusion) + 1) - 0.5
    axes.pcolormesh(edges, edges, colours, edgecolors=(*mpl.colors.to_rgb(RULE), 0.4), linewidth=0.5)
    for (i, j), count in np.ndenumerate(confusion):
        shade = "white" if share[i, j] > 0.5 else INK
        axes.text(j, i, str(int(count)), ha="center", va="center", color=shade, fontsize=9)
    axes.set_ylim(len(confusion) - 0.5, -0.5)
    axes.set_aspect("equal")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def roc_plot(models: dict[str, PredictedRows], classes: list[str]) -> Figure:
    """Draw the one-vs-rest ROC curves of all models, a panel for each class that occurs among the rows.

    Args:
        models: Rows by model name, the first drawn strongest.
        classes: Class names.

    Returns:
        The figure.
    """
    some = next(iter(models.values()))
    counts = np.bincount(some.labels, minlength=len(classes))
    shown = [k for k in range(len(classes)) if 0 < counts[k] < len(some)]
    # With two classes the second panel mirrors the first.
    shown = shown[1:] if len(classes) == 2 else shown
    columns = min(3, max(1, len(shown)))
    lines = -(-len(shown) // columns) if shown else 1
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(max(5.0, 3.0 * columns), 3.0 * lines + 0.9), layout="constrained")
        panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for axes, k in zip(panels, shown, strict=False):
            axes.plot([0, 1], [0, 1], color=RULE, linewidth=0.8, alpha=0.6)
            for i, (name, predicted) in reversed(list(enumerate(models.items()))):
                false_alarms, hits, _ = roc_curve(predicted.labels == k, predicted.probabilities[:, k])
                style = {"linestyle": _DASHES[i % len(_DASHES)], "color": PALETTE[i % len(PALETTE)]}
                axes.plot(false_alarms, hits, label=name, linewidth=2.4 if i == 0 else 1.3, **style)
            axes.set_title(f"{classes[k]} (n = {counts[k]})")
            axes.set_aspect("equal")
        for axes in panels[len(shown) :]:
            axes.set_visible(False)
        figure.supxlabel("False positive rate (1 - specificity)", fontsize=10)
        figure.supylabel("True positive rate", fontsize=10)
        if shown:
            handles, names = panels[0].get_legend_handles_labels()
            figure.legend(
                handles[::-1],
                names[::-1],
                loc="outside upper left",
                ncols=min(4, len(models)) if columns > 1 else 2,
                frameon=False,
                handlelength=3,
            )
    return figure


def reliability_plot(curves: dict[str, Reliability]) -> Figure:
    """Draw reliability curves: share right against stated probability; the diagonal is perfect.

    Args:
        curves: Curve by model name.

    Returns:
        The figure.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5.2, 4.8), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=RULE, linewidth=0.8)
        for i, (name, curve) in enumerate(curves.items()):
            colour = PALETTE[i % len(PALETTE)]
            axes.plot(curve.confidence, curve.accuracy, color=colour, linestyle=_DASHES[i % len(_DASHES)])
            size = 25 + 250 * curve.count / curve.count.sum()
            marker = _MARKERS[i % len(_MARKERS)]
            axes.scatter(curve.confidence, curve.accuracy, s=size, color=colour, marker=marker, alpha=0.8, label=name)
        axes.set(xlim=(0, 1.04), ylim=(-0.04, 1.04), aspect="equal")
        axes.set_xlabel("Probability of the predicted class")
        axes.set_ylabel("Share of predictions that are right")
        axes.grid(color=RULE, alpha=0.3, linewidth=0.6)
        axes.legend(loc="upper left", frameon=False)
    return figure


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG on white.

    Args:
        figure: The figure.
        path: File to write.
    """
    figure.savefig(path, dpi=_PNG_DPI, facecolor="white", metadata={"Software": None})


def to_svg(figure: Figure, prefix: str) -> str:
    """Return a figure as SVG to stand inside an HTML page.

    Args:
        figure: The figure.
        prefix: Put before every id, so that several figures can share a page.

    Returns:
        An ``<svg>`` element without prolog, fixed size or background, its ink the page's text colour; the CSS variable
        ``--natural`` holds the width at which its type has the size of the page's.
    """
    text = StringIO()
    with mpl.rc_context(_STYLE | {"svg.hashsalt": prefix}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg [^>]*?)width="[^"]*" height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace(INK, "currentColor")
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    natural = f"--natural: {figure.get_figwidth() * _PIXELS_PER_INCH:.0f}px"
    return svg.replace("<svg ", f'<svg aria-hidden="true" focusable="false" style="{natural}" ', 1)
