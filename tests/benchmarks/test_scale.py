"""The benchmark itself, on a cohort that is as small as its steps take."""

import json
import sys

import pytest

from benchmarks import scale
from benchmarks.processes import run_measured
from benchmarks.scale import Size, measure


def test_a_process_tells_its_own_memory_and_that_of_its_children(tmp_path):
    # 200 MiB in a child, held for so long that a busy machine sees them.
    child = "import time; held = bytearray(200 * 2**20); time.sleep(2)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    cost = run_measured([sys.executable, "-c", parent], {}, tmp_path / "log")
    assert 200 <= cost.memory_mb < 300
    # A process begins with the peak of the one that started it, by getrusage's word; not by this one's.
    assert cost.memory_mb <= cost.resident_mb < 400
    assert cost.wall_s >= 2
    assert cost.cpu_s > 0


def test_a_process_that_fails_tells_what_it_said(tmp_path):
    with pytest.raises(RuntimeError, match="ended with 3:\nalas"):
        run_measured([sys.executable, "-c", "print('alas'); raise SystemExit(3)"], {}, tmp_path / "log")


@pytest.mark.slow
def test_stages_are_measured_once_and_shards_give_equal_cohorts(tmp_path, monkeypatch):
    size = Size(tmp_path, 200)
    only = ["source", "shards-1", "shards-3"]
    found = measure(size, [1, 3], True, only)
    assert [entry["stage"] for entry in found] == only
    one, three = found[1:]
    assert [process["task"] for process in three["processes"]] == [
        *["ingest_shard"] * 3,
        "merge_cohort",
        *["preprocess_shard"] * 3,
        "merge_features",
    ]
    assert sum(process["own"] for process in three["processes"] if process["task"] == "ingest_shard") == 200
    for name in ("cohort", "features"):
        assert one[f"{name}_digest"] == three[f"{name}_digest"]
        assert (
            one[f"{name}_bytes"]
            == three[f"{name}_bytes"]
            == sum(path.stat().st_size for path in size.path(name).iterdir())
        )
    monkeypatch.setattr(Size, "run", None)
    assert measure(size, [1, 3], True, only) == json.loads(json.dumps(found))
    # Other code is measured again.
    monkeypatch.setattr(scale, "code_version", lambda step: f"another {step}")
    with pytest.raises(TypeError):
        measure(size, [1, 3], True, only)
