"""What a person sees of a run, on a terminal and elsewhere."""

import time
from io import StringIO

import pytest
from rich.console import Console

from pipelines.display import _fitting, result_table, show_steps, steps_table
from pipelines.local import StepState
from training.names import MODEL_NAMES

# Eight models and three shards.
STEPS = ["open_run", *(f"ingest_shard[{i}-of-3]" for i in (1, 2, 3)), "merge_cohort", "validate"]
STEPS += [*(f"preprocess_shard[{i}-of-3]" for i in (1, 2, 3)), "merge_features", "embed_text", "train"]
STEPS += [*(f"cross_validate[{model}]" for model in MODEL_NAMES), "compare", "register", "record_run", "close_run"]
SIZES = [(80, 24), (60, 20)]


def _lines(shown, width, height=100):
    console = Console(file=StringIO(), force_terminal=True, width=width, height=height, color_system=None)
    console.print(shown)
    return console.file.getvalue().splitlines()


def _during(step):
    """All steps while one and the next are running, with a long text each."""
    text = "fold 3 of 5, epoch 17 of 40: " + "and so on " * 30
    states = [StepState(name, "done", seconds=1234.5) for name in STEPS[:step]]
    states += [StepState(name, "running", started=time.time() - 1234, text=text) for name in STEPS[step : step + 2]]
    return states + [StepState(name) for name in STEPS[step + 2 :]]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("step", [0, 6, 12, len(STEPS) - 2])
def test_a_small_terminal_shows_every_state_however_long_the_texts(width, height, step):
    lines = _lines(steps_table(_fitting(_during(step), height - 1), width), width)
    # Live draws over its own lines, so there may never be more of them than the terminal has.
    assert len(lines) < height
    assert max(map(len, lines)) <= width
    rows = {line.split()[1]: line.split() for line in lines}
    for name in STEPS[step : step + 2]:
        assert rows[name][0] == "▶" and rows[name][2] == "running" and rows[name][4] == "s"
    told = sum(int(row[1]) - 1 for row in map(str.split, lines) if row[2:4] == ["steps", "more"])
    assert len(lines) + told == len(STEPS)


def test_the_text_takes_what_room_is_left():
    (line,) = _lines(steps_table([StepState("train", "running", text="epoch 17 of 40 and so on")], 40), 40)
    assert line.split("running")[1].strip() == "epoch 17 of 40 a…"
    (line,) = _lines(steps_table([StepState("train", "running", text="epoch 17 of 40 and so on")], 80), 80)
    assert line.split("running")[1].strip() == "epoch 17 of 40 and so on"
    # No room: the name and the state stay.
    (line,) = _lines(steps_table([StepState("train", "running", text="epoch 17")], 22), 22)
    assert line.split() == ["▶", "train", "running"]


@pytest.mark.parametrize("width", [80, 60])
def test_the_table_of_results_shows_each_figure_whole(width):
    scores = dict.fromkeys(("macro_auc", "accuracy", "macro_precision", "kappa", "mcc"), 0.8125)
    lines = _lines(result_table([{"model": model, **scores} for model in MODEL_NAMES], width), width)
    assert max(map(len, lines)) <= width
    for model in MODEL_NAMES:
        (line,) = [line for line in lines if f" {model} " in f" {line}"]
        assert line.count("0.812") == 5
    assert "…" not in "".join(lines)


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
