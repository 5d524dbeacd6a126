"""The tasks of a run, from the compiled pipeline and its arguments."""

from pathlib import Path

import pytest
import yaml
from kfp import compiler, dsl

from pipelines.run_plan import plan_tasks

GOLDEN = Path(__file__).parent / "golden" / "default.yaml"
ITERATION = "root.exit-handler-1.for-loop-2.iteration-iterations({0}:{0}).iteration-item.cross-validate"


@dsl.component(base_image="python:3.12")
def shout(text: str) -> str:
    return text


@dsl.component(base_image="python:3.12")
def split(text: str) -> list:
    return [text]


def _spec(pipeline, folder):
    path = folder / "pipeline.yaml"
    compiler.Compiler().compile(pipeline, str(path))
    return next(yaml.safe_load_all(path.read_text()))


@pytest.fixture(scope="module")
def golden():
    return next(yaml.safe_load_all(GOLDEN.read_text()))


def test_the_steps_come_in_the_order_in_which_they_may_run(golden):
    names = [task.name for task in plan_tasks(golden, {"models": ["gru", "svm"]})]
    assert set(names) == {
        "open_run",
        "ingest",
        "validate",
        "preprocess",
        "embed_text",
        "train",
        "cross_validate[gru]",
        "cross_validate[svm]",
        "compare",
        "register",
        "record_run",
        "close_run",
    }
    before = [("open_run", "ingest"), ("ingest", "validate"), ("preprocess", "train"), ("train", "compare")]
    before += [("cross_validate[svm]", "compare"), ("compare", "register"), ("register", "record_run")]
    before += [("record_run", "close_run")]
    assert all(names.index(first) < names.index(then) for first, then in before)


def test_each_task_has_its_place_in_the_workflow(golden):
    paths = {task.name: task.path for task in plan_tasks(golden, {"models": ["gru", "svm"]})}
    assert paths["ingest"] == "root.exit-handler-1.ingest"
    assert paths["cross_validate[gru]"] == ITERATION.format(0)
    assert paths["cross_validate[svm]"] == ITERATION.format(1)
    assert paths["close_run"] == "root.exit-handler-1.onExit.close-run"


def test_ends_of_a_run_are_never_taken_from_the_cache(golden):
    cacheable = {task.key: task.cacheable for task in plan_tasks(golden, {"models": ["gru"]})}
    assert [key for key, value in cacheable.items() if not value] == ["open-run", "record-run", "close-run"]


def test_what_kfp_returns_for_a_version_is_understood(golden):
    wrapped = {"pipeline_spec": golden, "platform_spec": {}}
    assert plan_tasks(wrapped, {"models": ["gru"]}) == plan_tasks(golden, {"models": ["gru"]})


def test_constant_loops_default_arguments_and_nested_loops(tmp_path):
    @dsl.pipeline(name="loops")
    def loops(outer: list = ["a", "b"]):  # noqa: B006
        with dsl.ParallelFor(outer) as letter, dsl.ParallelFor(["1", "2"]) as number:
            shout(text=letter)
            shout(text=number)

    spec = _spec(loops, tmp_path)
    names = {task.name for task in plan_tasks(spec, {})}
    assert names == {f"{task}[{x},{y}]" for task in ("shout", "shout_2") for x in "ab" for y in "12"}
    assert {task.name for task in plan_tasks(spec, {"outer": ["z"]})} == {
        f"{task}[z,{y}]" for task in ("shout", "shout_2") for y in "12"
    }


def test_items_without_a_name_are_numbered(tmp_path):
    @dsl.pipeline(name="loops")
    def loops():
        with dsl.ParallelFor([{"a": "1"}, {"a": "2"}]) as item:
            shout(text=item.a)

    assert [task.name for task in plan_tasks(_spec(loops, tmp_path), {})] == ["shout[0]", "shout[1]"]


def test_a_loop_over_a_tasks_output_is_one_task_for_all_iterations(tmp_path):
    @dsl.pipeline(name="loops")
    def loops():
        with dsl.ParallelFor(split(text="x").output) as item:
            shout(text=item)

    tasks = {task.name: task for task in plan_tasks(_spec(loops, tmp_path), {})}
    assert set(tasks) == {"split", "shout"}
    assert tasks["shout"].path is None and tasks["shout"].iterated
