"""The state of each task, from the nodes of the workflow as KFP reports them."""

from pathlib import Path

import pytest
import yaml
from kfp_server_api import ApiClient

from pipelines.run_plan import PlannedTask, plan_tasks
from pipelines.run_states import duration, exit_code, node_id, step_states
from tests.kfp_server import scripts
from tests.kfp_server.workflow import Workflow, timestamp

SPEC = next(yaml.safe_load_all((Path(__file__).parent / "golden" / "default.yaml").read_text()))
MODELS = ["gru", "svm"]
TASKS = plan_tasks(SPEC, {"models": MODELS})
START = 1_700_000_000


class _Answer:
    """What the generated client reads."""

    def __init__(self, data):
        import json

        self.data = json.dumps(data)


def _run(workflow, state="RUNNING", history=(), **fields):
    data = {
        "run_id": "r",
        "state": state,
        "created_at": timestamp(START),
        "finished_at": "1970-01-01T00:00:00Z",
        "state_history": [{"state": word, "update_time": timestamp(START)} for word in history],
        "run_details": {"task_details": workflow.task_details("r")},
        **fields,
    }
    return ApiClient().deserialize(_Answer(data), "V2beta1Run")


def _play(events, seconds=10):
    """Play events into a workflow; each takes so many seconds."""
    workflow = Workflow("vitalfuse-diagnosis-x7k2p", SPEC, START)
    now = START
    for event in events:
        if not isinstance(event, dict):
            continue
        now += seconds
        scope = tuple((loop, index) for loop, index in event.get("scope", []))
        if event["kind"] == "started":
            workflow.start(event["task"], scope, now)
        elif event["kind"] == "cached":
            workflow.take_from_cache(event["task"], scope, now)
        elif event["kind"] == "attempt":
            workflow.attempt(event["task"], scope, event["attempt"], now)
        else:
            workflow.finish(event["task"], scope, event["succeeded"], now)
    return workflow, now


def _states(run, tasks=TASKS):
    return {state.name: state.state for state in step_states(run, tasks)}


def test_node_ids_are_those_of_argo():
    assert node_id("w", "root") == Workflow("w", SPEC, 0).node_id("w.root")
    # From FNV's published test vectors: the digest of "foo.bar" is none of them, that of its first letters is.
    digest = 0xA9F37ED7  # "foo"
    for byte in b".bar":
        digest = ((digest ^ byte) * 0x01000193) % 2**32
    assert node_id("foo", "bar") == f"foo-{digest}"


def test_before_anything_is_reported_all_tasks_wait():
    workflow = Workflow("w", SPEC, START)
    assert set(_states(_run(workflow)).values()) == {"waiting"}
    nothing = ApiClient().deserialize(_Answer({"run_id": "r", "state": "PENDING"}), "V2beta1Run")
    assert set(_states(nothing).values()) == {"waiting"}


def test_a_run_in_the_middle():
    done = scripts.happy(until="preprocess")[:-2]
    workflow, now = _play([*done, {"kind": "started", "task": "train"}])
    states = {state.name: state for state in step_states(_run(workflow), TASKS)}
    assert {name: state.state for name, state in states.items()} == {
        "open_run": "done",
        "ingest": "done",
        "validate": "done",
        "preprocess": "done",
        "embed_text": "waiting",
        "cross_validate[gru]": "waiting",
        "cross_validate[svm]": "waiting",
        "train": "running",
        "compare": "waiting",
        "register": "waiting",
        "record_run": "waiting",
        "close_run": "waiting",
    }
    assert states["ingest"].seconds == 10
    assert states["train"].started == now and states["train"].seconds is None


@pytest.mark.parametrize("first", [0, 1])
def test_iterations_of_a_loop_are_told_apart(first):
    """Also where the second one starts before the first."""
    loop = [[scripts.LOOP, first]]
    workflow, _ = _play([{"kind": "started", "task": "cross-validate", "scope": loop}])
    states = _states(_run(workflow))
    assert states[f"cross_validate[{MODELS[first]}]"] == "running"
    assert states[f"cross_validate[{MODELS[1 - first]}]"] == "waiting"
    workflow.finish("cross-validate", ((scripts.LOOP, first),), False, START + 50)
    workflow.start("cross-validate", ((scripts.LOOP, 1 - first),), START + 60)
    states = _states(_run(workflow))
    assert states[f"cross_validate[{MODELS[first]}]"] == "failed"
    assert states[f"cross_validate[{MODELS[1 - first]}]"] == "running"


def test_iterations_of_another_engine_count_in_the_order_in_which_they_started():
    workflow, _ = _play([{"kind": "started", "task": "cross-validate", "scope": [[scripts.LOOP, 1]]}])
    run = _run(workflow)
    for detail in run.run_details.task_details:
        for child in detail.child_tasks or []:
            child.pod_name = f"other-{child.pod_name}"
    states = _states(run)
    assert states["cross_validate[gru]"] == "running"
    assert states["cross_validate[svm]"] == "waiting"


def test_a_loop_over_an_output_is_summed_up():
    task = PlannedTask("cross_validate", "cross-validate", None, iterated=True)
    events = [{"kind": "started", "task": "cross-validate", "scope": [[scripts.LOOP, i]]} for i in range(3)]
    workflow, _ = _play(events)
    workflow.finish("cross-validate", ((scripts.LOOP, 0),), True, START + 90)
    (state,) = step_states(_run(workflow), [task])
    assert (state.state, state.text) == ("running", "1 done, 2 running")
    workflow.finish("cross-validate", ((scripts.LOOP, 1),), False, START + 90)
    assert step_states(_run(workflow), [task])[0].state == "failed"


def test_cached_tasks_are_told_from_those_that_ran():
    workflow, _ = _play(scripts.happy(cached=("ingest", "cross-validate")))
    states = _states(_run(workflow))
    cached = {name for name, state in states.items() if state == "cached"}
    assert cached == {"ingest", "cross_validate[gru]", "cross_validate[svm]"}
    assert {state for name, state in states.items() if name not in cached} == {"done"}


def test_quick_ends_of_a_run_are_not_taken_for_cached():
    workflow, _ = _play(scripts.happy(cached=scripts.STEPS[1:-1]), seconds=0)
    states = _states(_run(workflow))
    assert (states["open_run"], states["ingest"]) == ("done", "cached")
    assert (states["record_run"], states["close_run"]) == ("done", "done")


def test_a_failed_run():
    workflow, now = _play(scripts.failing("validate"))
    workflow.end(now, succeeded=False)
    run = _run(workflow, "FAILED", finished_at=timestamp(now))
    states = _states(run)
    assert states["ingest"] == "done" and states["validate"] == "failed" and states["close_run"] == "done"
    assert {states[name] for name in ("preprocess", "train", "cross_validate[gru]", "register")} == {"skipped"}
    assert exit_code(run) == 1
    assert duration(run) == now - START


def test_a_step_that_is_repeated_is_running_until_its_last_attempt_ends():
    events = [{"kind": "started", "task": "ingest"}, {"kind": "attempt", "task": "ingest", "attempt": 1}]
    workflow, _ = _play(events)
    assert _states(_run(workflow))["ingest"] == "running"
    workflow.finish("ingest", (), True, START + 90)
    assert _states(_run(workflow))["ingest"] == "done"


@pytest.mark.parametrize(("state", "history"), [("CANCELED", []), ("FAILED", ["RUNNING", "CANCELING", "FAILED"])])
def test_a_cancelled_run_however_kfp_calls_its_end(state, history):
    workflow, now = _play([*scripts.happy(until="ingest")[:-2], {"kind": "started", "task": "validate"}])
    workflow.end(now, succeeded=False, terminated=True)
    run = _run(workflow, state, history)
    assert exit_code(run) == 130
    states = _states(run)
    assert (states["ingest"], states["validate"], states["train"]) == ("done", "cancelled", "skipped")


def test_a_run_that_failed_after_an_earlier_cancelled_attempt_has_failed():
    workflow, _ = _play(scripts.failing("validate"))
    history = ["RUNNING", "CANCELING", "CANCELED", "PENDING", "RUNNING", "FAILED"]
    assert exit_code(_run(workflow, "FAILED", history)) == 1


def test_tasks_that_were_running_when_the_run_failed_count_as_failed():
    workflow, _ = _play([{"kind": "started", "task": "open-run"}])
    assert _states(_run(workflow, "FAILED"))["open_run"] == "failed"
