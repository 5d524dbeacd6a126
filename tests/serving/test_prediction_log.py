from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from data_schemas.errors import InputError
from data_schemas.features import MODALITIES
from evaluation.summaries import STATISTICS, series_summaries
from serving.log_settings import PredictionLogSettings, reference_key
from serving.patients import Patient, parse_patients
from serving.prediction_log import PredictionLog, read_log, reference_pseudonym
from serving.predictor import Predictor
from serving.server.app import build_app
from serving.server.follower import Follower
from serving.server.hooks import prediction_hooks
from serving.server.metrics import Metrics
from serving.settings import ServeSettings

KEY = b"a secret key of tests"
NOTE = "Jane Roe has a cough"
SETTINGS = PredictionLogSettings(flush_seconds=3600)


def reading(channel: str, time: str, value: float, unit: str) -> dict:
    return {"channel": channel, "time": f"2022-06-01T{time}+02:00", "value": value, "unit": unit, "device_id": "bed 12"}


PATIENT = {
    "reference": "record 4711",
    "observations": [
        reading("heart_rate", "10:00:00", 60, "/min"),
        reading("heart_rate", "10:30:00", 80, "bpm"),
        reading("heart_rate", "11:10:00", 100, "bpm"),
        reading("body_temperature", "10:05:00", 98.6, "degF"),
    ],
    "note": NOTE,
    "image": [[0.25, 0.5], [0.75, 1.0]],
    "sex": "female",
    "birth_date": "1960-03-04",
}


@pytest.fixture(scope="module")
def predictor(model_folder) -> Predictor:
    return Predictor.load(model_folder(*MODALITIES), name="hand made", version="7")


def patients(count: int = 1, **changes) -> list[Patient]:
    return parse_patients([PATIENT | changes] * count)


def log_of(folder: Path, predictor: Predictor, settings=SETTINGS, **options) -> PredictionLog:
    return PredictionLog(folder, settings, lambda: predictor.preparer, KEY, **options)


def wait_until(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_a_row_holds_the_answer_and_what_was_measured(tmp_path, predictor):
    asked = patients()
    answers = predictor.diagnose(asked)
    log = log_of(tmp_path, predictor)
    log.on_predictions(asked, answers, 0.025)
    log.close()
    (row,) = read_log(tmp_path).to_dict("records")
    (answer,) = answers
    # Two steps of an hour; the mean of 60 and 80, then 100; 98.6 degrees Fahrenheit.
    expected = {"last": 100, "mean": 85, "min": 70, "max": 100, "count": 2}
    assert {name: row[f"channel:heart_rate:{name}"] for name in STATISTICS} == pytest.approx(expected)
    assert row["channel:body_temperature:mean"] == pytest.approx(37.0)
    assert row["channel:body_temperature:count"] == 1
    assert {name: row[f"probability:{name}"] for name in answer.probabilities} == answer.probabilities
    assert {name: row[f"attention:{name}"] for name in MODALITIES} == answer.attention
    assert [row[f"has:{name}"] for name in MODALITIES] == [True, True, True]
    assert (row["model"], row["version"], row["latency_ms"]) == ("hand made", "7", 25.0)
    assert (row["sex"], row["age"], row["abstained"], row["diagnosis"]) == ("female", 62, False, answer.diagnosis)
    assert row["reference"] == reference_pseudonym("record 4711", KEY)
    assert abs(row["time"] - pd.Timestamp.now(tz="UTC")) < pd.Timedelta(minutes=1)


def test_nothing_of_the_patient_reaches_the_files(tmp_path, predictor):
    asked = patients()
    log = log_of(tmp_path, predictor)
    log.on_predictions(asked, predictor.diagnose(asked), 0.01)
    log.close()
    (path,) = tmp_path.rglob("*.parquet")
    table = pq.read_table(path)
    # Microseconds may show any digits.
    everything = path.read_bytes() + table.to_pandas().drop(columns="time").to_csv().encode()
    for secret in (b"4711", b"Jane", b"cough", b"bed 12", b"1960", KEY):
        assert secret not in everything


def test_without_a_key_the_reference_is_left_out(tmp_path, predictor, monkeypatch):
    asked = patients()
    log = PredictionLog(tmp_path, SETTINGS, lambda: predictor.preparer, None)
    log.on_predictions(asked, predictor.diagnose(asked), 0.01)
    log.close()
    assert read_log(tmp_path)["reference"].isna().all()
    monkeypatch.delenv(SETTINGS.key_environment, raising=False)
    assert reference_key(SETTINGS) is None
    monkeypatch.setenv(SETTINGS.key_environment, "short")
    with pytest.raises(InputError, match="too short"):
        reference_key(SETTINGS)


def test_an_absent_modality_is_null_and_not_zero(tmp_path, predictor):
    asked = patients(observations=[], sex=None, birth_date=None)
    log = log_of(tmp_path, predictor)
    log.on_predictions(asked, predictor.diagnose(asked), 0.01)
    log.close()
    (row,) = read_log(tmp_path).to_dict("records")
    assert not row["has:series"] and np.isnan(row["channel:heart_rate:mean"]) and row["channel:heart_rate:count"] == 0
    assert row["sex"] is None and np.isnan(row["age"])


def test_rows_are_written_when_there_are_enough_or_when_time_is_up(tmp_path, predictor):
    asked = patients(3)
    answers = predictor.diagnose(asked)
    enough = log_of(tmp_path / "rows", predictor, PredictionLogSettings(flush_seconds=3600, flush_rows=6))
    enough.on_predictions(asked, answers, 0.01)
    time.sleep(0.1)
    assert not list((tmp_path / "rows").rglob("*.parquet"))
    enough.on_predictions(asked, answers, 0.01)
    wait_until(lambda: list((tmp_path / "rows").rglob("part-*.parquet")))
    assert len(read_log(tmp_path / "rows")) == 6
    timed = log_of(tmp_path / "time", predictor, PredictionLogSettings(flush_seconds=0.05))
    timed.on_predictions(asked, answers, 0.01)
    wait_until(lambda: list((tmp_path / "time").rglob("part-*.parquet")))
    for log in (enough, timed):
        log.close()


def test_the_queue_is_bounded_and_drops_are_counted(tmp_path, predictor):
    dropped: list[int] = []
    log = log_of(tmp_path, predictor, PredictionLogSettings(flush_seconds=3600, max_rows=5), dropped=dropped.append)
    asked = patients(4)
    answers = predictor.diagnose(asked)
    log.on_predictions(asked, answers, 0.01)
    log.on_predictions(asked, answers, 0.01)
    log.close()
    log.on_predictions(asked, answers, 0.01)
    assert (len(read_log(tmp_path)), dropped) == (5, [3, 4])


def test_a_log_that_cannot_be_written_counts_and_goes_on(tmp_path, predictor, caplog):
    place = tmp_path / "log"
    place.write_text("a file where the folder should be")
    dropped: list[int] = []
    log = log_of(place, predictor, PredictionLogSettings(flush_seconds=0.01), dropped=dropped.append)
    asked = patients(2)
    log.on_predictions(asked, predictor.diagnose(asked), 0.01)
    wait_until(lambda: dropped == [2])
    place.unlink()
    log.on_predictions(asked, predictor.diagnose(asked), 0.01)
    log.close()
    assert len(read_log(place)) == 2
    assert "could not be logged" in caplog.text and "4711" not in caplog.text


def test_versions_with_other_channels_and_classes_lie_side_by_side(tmp_path, predictor, model_folder):
    series_only = Predictor.load(model_folder("series"), name="hand made", version="8")
    current = [predictor]
    log = PredictionLog(tmp_path, SETTINGS, lambda: current[0].preparer, KEY)
    log.on_predictions(patients(), predictor.diagnose(patients()), 0.01)
    current[0] = series_only
    log.on_predictions(patients(), series_only.diagnose(patients()), 0.01)
    log.close()
    assert sorted(read_log(tmp_path)["version"]) == ["7", "8"]


_WRITER = """
import sys
from pathlib import Path
from serving.log_settings import PredictionLogSettings
from serving.predictor import Predictor
from serving.prediction_log import PredictionLog
from tests.serving.test_prediction_log import patients
predictor = Predictor.load(Path(sys.argv[1]))
log = PredictionLog(Path(sys.argv[2]), PredictionLogSettings(flush_seconds=0.001), lambda: predictor.preparer, None)
asked = patients(20)
answers = predictor.diagnose(asked)
print("ready", flush=True)
while True:
    log.on_predictions(asked, answers, 0.01)
"""


@pytest.mark.slow
def test_a_killed_server_leaves_files_that_can_be_read(tmp_path, model_folder):
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(model_folder(*MODALITIES)), str(tmp_path / "log")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        wait_until(lambda: len(list((tmp_path / "log").rglob("part-*.parquet"))) >= 3, 30)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    found = read_log(tmp_path / "log")
    assert len(found) >= 60 and found["channel:heart_rate:mean"].eq(85).all()


def test_what_is_no_log_is_told(tmp_path):
    with pytest.raises(InputError, match="holds no prediction log"):
        read_log(tmp_path)
    folder = tmp_path / "date=2022-06-01"
    folder.mkdir()
    (folder / "part-000000-aaaa.parquet").write_bytes(b"no Parquet")
    with pytest.raises(InputError, match="can't be read"):
        read_log(tmp_path)
    pd.DataFrame({"time": [1]}).to_parquet(folder / "part-000000-aaaa.parquet")
    with pytest.raises(InputError, match="field reference"):
        read_log(tmp_path)


def test_several_threads_may_log_at_once(tmp_path, predictor):
    log = log_of(tmp_path, predictor, PredictionLogSettings(flush_seconds=0.01, flush_rows=7))
    asked = patients(5)
    answers = predictor.diagnose(asked)
    threads = [
        threading.Thread(target=lambda: [log.on_predictions(asked, answers, 0.01) for _ in range(10)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert len(read_log(tmp_path)) == 200


def test_summaries_look_at_what_was_measured_alone():
    series = np.array([[[1, 50], [3, 60], [9, 70]], [[np.nan, 5], [np.nan, 6], [np.nan, 7]]], dtype=np.float32)
    observed = np.array([[[1, 0], [1, 1], [0, 1]], [[0, 0], [0, 0], [0, 0]]], dtype=bool)
    found = series_summaries(series, observed)
    assert [found[name][0].tolist() for name in STATISTICS] == [[3, 70], [2, 65], [1, 60], [3, 70], [2, 2]]
    assert all(np.isnan(found[name][1]).all() for name in STATISTICS[:-1])
    assert found["count"][1].tolist() == [0, 0]


def test_the_server_logs_what_it_answers_when_it_is_told_to(tmp_path, model_folder, monkeypatch):
    monkeypatch.setenv("VITALFUSE_PREDICTION_KEY", KEY.decode())
    settings = ServeSettings(folder=model_folder(*MODALITIES), log={"folder": tmp_path / "log"})
    metrics = Metrics()
    follower = Follower("hand made", settings, tmp_path / "cache", metrics)
    hooks = prediction_hooks(settings, follower, metrics)
    with TestClient(build_app(settings, follower, metrics, hooks=hooks)) as client:
        wait_until(lambda: client.get("/v2/health/ready").status_code == 200)
        answer = client.post("/invocations", json={"instances": [PATIENT]})
        refused = client.post("/invocations", json={"instances": [{**PATIENT, "age": 3}]})
    assert (answer.status_code, refused.status_code) == (200, 400)
    (row,) = read_log(tmp_path / "log").to_dict("records")
    assert row["reference"] == reference_pseudonym("record 4711", KEY)
    assert row["diagnosis"] == answer.json()["predictions"][0]["diagnosis"] and row["latency_ms"] > 0
    assert prediction_hooks(ServeSettings(), follower, metrics) == []
