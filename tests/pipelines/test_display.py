"""What a person sees of a run, on a terminal and elsewhere."""

from io import StringIO

from rich.console import Console

from pipelines.display import show_steps
from pipelines.local import StepState


def _shown(steps, *, terminal):
    console = Console(file=StringIO(), force_terminal=terminal, width=100, color_system=None)
    with show_steps(console) as display:
        display(steps)
    return console.file.getvalue()


def test_a_terminal_shows_which_model_a_step_is_for():
    steps = [StepState("cross_validate[random_forest]", "running"), StepState("cross_validate[svm]")]
    shown = _shown(steps, terminal=True)
    assert "cross_validate[random_forest]" in shown
    assert "cross_validate[svm]" in shown


def test_elsewhere_each_change_is_one_plain_line():
    steps = [StepState("ingest", "cached"), StepState("cross_validate[svm]", "running"), StepState("compare")]
    assert _shown(steps, terminal=False).splitlines() == ["ingest: cached", "cross_validate[svm]: running"]
