"""What a person sees of a run, on a terminal and elsewhere."""

from io import StringIO

from rich.console import Console

from pipelines.display import _fitting, show_steps
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


def test_a_terminal_with_fewer_lines_than_steps_shows_what_goes_on_and_in_the_end_everything():
    steps = [StepState(f"step {i}", "done") for i in range(20)]
    steps += [StepState("now", "running"), *[StepState(f"later {i}") for i in range(5)]]
    console = Console(file=StringIO(), force_terminal=True, width=100, height=12, color_system=None)
    with show_steps(console) as display:
        display(steps)
        during = _fitting(steps, 11)
    assert [state.name for state in during][:2] == ["16 steps more", "step 16"]
    assert len(during) == 11
    assert [state.name for state in during][-6:] == ["now", *[f"later {i}" for i in range(5)]]
    after = console.file.getvalue()
    assert all(f"step {i} " in after for i in range(20))


def test_steps_that_go_on_are_never_left_out():
    steps = [StepState(f"step {i}", "running") for i in range(20)]
    assert _fitting(steps, 5) == steps
    assert _fitting(steps[:5], 5) == steps[:5]


def test_elsewhere_each_change_is_one_plain_line():
    steps = [StepState("ingest", "cached"), StepState("cross_validate[svm]", "running"), StepState("compare")]
    assert _shown(steps, terminal=False).splitlines() == ["ingest: cached", "cross_validate[svm]: running"]
