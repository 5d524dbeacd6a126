"""What the server bears: tokens, rates, sizes, queues, times; and that neither logs nor errors tell of a patient."""

import asyncio
import base64
import io
import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from data_schemas.errors import InputError
from serving.patients import Diagnosis, InvalidRequest, parse_patients
from serving.server.batching import Batcher
from serving.server.bearer_token import read_token
from serving.server.errors import Refusal
from serving.server.metrics import Metrics
from serving.settings import ServeSettings
from tests.serving.server.conftest import patient, wait_until

TOKEN = "a token of enough length"
SECRET = "Zebulon Quixote-Farnsworth"
ONE = {"patients": [patient()]}


def test_everything_that_tells_of_patients_or_model_needs_the_token(start):
    client = start(token=TOKEN)
    paths = client.get("/openapi.json").json()["paths"]
    guarded = [(method, path) for path, methods in paths.items() for method in methods if "/health/" not in path]
    assert len(guarded) > 8
    for method, path in [*guarded, ("get", "/page/model")]:
        for headers in (
            {},
            {"Authorization": f"Bearer {TOKEN}x"},
            {"Authorization": f"Basic {TOKEN}"},
            {"X-Vitalfuse-Token": f"{TOKEN}x"},
            {"X-Vitalfuse-Token": "", "Authorization": f"Basic {TOKEN}"},
        ):
            answer = client.request(method, path, headers=headers)
            assert answer.status_code == 401, path
            assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert client.post("/v1/diagnose", json=ONE, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert all("security" in operation for path in ("/v1/diagnose",) for operation in paths[path].values())


@pytest.mark.parametrize("authorization", [{}, {"Authorization": "Bearer the gateway's own"}])
def test_behind_a_gateway_that_takes_the_authorization_the_token_comes_in_another_header(start, authorization):
    client = start(token=TOKEN)
    headers = authorization | {"X-Vitalfuse-Token": TOKEN}
    assert client.post("/v1/diagnose", json=ONE, headers=headers).status_code == 200
    document = client.get("/openapi.json").json()
    named = document["components"]["securitySchemes"]["token_header"]
    assert named == {"type": "apiKey", "in": "header", "name": "X-Vitalfuse-Token"}
    assert {"token_header": []} in document["paths"]["/v1/diagnose"]["post"]["security"]


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready", "/metrics", "/docs", "/openapi.json", "/"])
def test_health_metrics_and_pages_need_none(start, path):
    assert start(token=TOKEN).get(path).status_code == 200


def test_the_token_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("VITALFUSE_SERVE_TOKEN", raising=False)
    assert read_token(ServeSettings()) is None
    monkeypatch.setenv("VITALFUSE_SERVE_TOKEN", TOKEN)
    assert read_token(ServeSettings()) == TOKEN
    (tmp_path / "token").write_text("another one, from a file\n")
    assert read_token(ServeSettings(token_file=tmp_path / "token")) == "another one, from a file"
    (tmp_path / "token").write_text("")
    with pytest.raises(InputError, match="shorter than 16"):
        read_token(ServeSettings(token_file=tmp_path / "token"))
    with pytest.raises(InputError, match="can't be read"):
        read_token(ServeSettings(token_file=tmp_path / "absent"))


def test_rate(start, monkeypatch):
    # A minute that ends meanwhile would let more through.
    monkeypatch.setattr(time, "time", lambda: 1_800_000_000.0)
    client = start(rate_limit="3/minute")
    answers = [client.post("/v1/diagnose", json=ONE) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert 0 < int(answers[-1].headers["Retry-After"]) <= 61
    assert client.get("/v2/health/live").status_code == 200


def test_a_rate_that_is_none_is_refused():
    with pytest.raises(ValueError, match="rate_limit"):
        ServeSettings(rate_limit="many")


def test_size_by_its_header_and_by_its_bytes(start):
    client = start(max_request_mb=0.01)
    body = json.dumps({"patients": [patient(note="cough " * 3000)]}).encode()
    assert client.post("/v1/diagnose", content=body).status_code == 413
    # In pieces no header says how long it will be.
    answer = client.post("/v1/diagnose", content=iter([body[:8000], body[8000:]]))
    assert answer.status_code == 413
    assert "0.01 MB" in answer.json()["error"]
    assert client.post("/v1/diagnose", json=ONE).status_code == 200


def test_an_image_of_50_mb_is_refused(start):
    client = start()
    body = b'{"patients": [{"image": "' + b"A" * 67_000_000 + b'"}]}'
    assert client.post("/v1/diagnose", content=body).status_code == 413


def test_a_decompression_bomb_is_refused(start, monkeypatch):
    buffer = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(buffer, "PNG")
    bomb = base64.b64encode(buffer.getvalue()).decode()
    assert len(bomb) < 1_000_000
    client = start()
    monkeypatch.setattr(Image.Image, "load", None)  # Its pixels are never asked for.
    answer = client.post("/v1/diagnose", json={"patients": [patient(image=bomb)]})
    assert answer.status_code == 422
    assert "patients[0].image" in answer.json()["error"]


def test_patients_a_request(start):
    answer = start(max_patients=2).post("/v1/diagnose", json={"patients": [patient()] * 3})
    assert answer.status_code == 422
    assert "more than 2 patients" in answer.json()["error"]


def test_bytes_that_are_held(start):
    client = start(max_buffered_mb=0.001)
    answer = client.post("/v1/diagnose", json={"patients": [patient(note="cough " * 300)]})
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    # What was refused is no longer held.
    assert client.post("/v1/diagnose", json={"patients": [{"note": "Fever."}]}).status_code == 200


class _Slow:
    """A predictor that waits until it is let go, and remembers its batches."""

    def __init__(self, go: bool = False) -> None:
        self.go = threading.Event()
        self.batches: list[int] = []
        if go:
            self.go.set()

    def diagnose_each(self, patients):
        self.batches.append(len(patients))
        self.go.wait(10)
        return [InvalidRequest([]) if one.note == "bad" else _answer(one.note) for one in patients]


def _answer(text):
    return Diagnosis(
        diagnosis=text or "none",
        probabilities={},
        conformal_set=None,
        attention={},
        modalities=[],
        model={"name": "slow", "version": "1", "cohort_digest": "0"},
        warnings=[],
    )


def patients(*notes):
    return parse_patients([{"note": note} for note in notes])


def run(predictor, steps, **settings):
    async def main():
        # In a thread, since these predictors wait for what the test does meanwhile.
        batcher = Batcher(
            lambda: predictor,
            ServeSettings(at_once_mb=0).model_copy(update=settings),
            Metrics(),
        )
        batcher.start()
        try:
            return await steps(batcher)
        finally:
            predictor.go.set()
            await batcher.stop()

    return asyncio.run(main())


def test_patients_of_many_requests_share_batches_and_get_their_own_answers():
    slow = _Slow()

    async def steps(batcher):
        asked = [asyncio.create_task(batcher.submit(patients(f"{n}a", f"{n}b"))) for n in range(10)]
        await asyncio.sleep(0.1)
        slow.go.set()
        return await asyncio.gather(*asked)

    answers = run(slow, steps, threads=1, max_batch=8)
    assert [[item.diagnosis for item in one] for one in answers] == [[f"{n}a", f"{n}b"] for n in range(10)]
    assert max(slow.batches) == 8
    assert len(slow.batches) < 6


def test_a_delay_lets_patients_gather_before_an_idle_model():
    slow = _Slow(go=True)

    async def steps(batcher):
        asked = [asyncio.create_task(batcher.submit(patients("one")))]
        await asyncio.sleep(0.01)
        asked.append(asyncio.create_task(batcher.submit(patients("two"))))
        return await asyncio.gather(*asked)

    run(slow, steps, max_delay_ms=60_000, max_batch=2)
    assert slow.batches == [2]


def test_a_full_queue_says_when_to_come_again():
    slow = _Slow()

    async def steps(batcher):
        asked = [asyncio.create_task(batcher.submit(patients("x"))) for _ in range(7)]
        await asyncio.sleep(0.1)
        slow.go.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = run(slow, steps, threads=1, max_batch=1, max_queue=3)
    refused = [answer for answer in answers if isinstance(answer, Refusal)]
    assert len(answers) - len(refused) >= 3
    assert refused
    assert all(refusal.status == 503 and refusal.retry_after >= 1 for refusal in refused)


def test_time_runs_out_and_what_waited_is_not_computed():
    slow = _Slow()

    async def steps(batcher):
        first = asyncio.create_task(batcher.submit(patients("first")))
        while not slow.batches:
            await asyncio.sleep(0.01)
        with pytest.raises(Refusal) as refusal:
            await batcher.submit(patients("second"))
        slow.go.set()
        await asyncio.gather(first, return_exceptions=True)
        return refusal.value

    assert run(slow, steps, threads=1, request_seconds=0.2).status == 504
    assert slow.batches == [1]


def test_large_batches_are_computed_in_a_thread_so_that_the_server_answers_meanwhile():
    where = []

    class Quick(_Slow):
        def diagnose_each(self, patients):
            where.append(threading.current_thread() is threading.main_thread())
            return [_answer("") for _ in patients]

    reading = {"channel": "heart_rate", "time": "2022-06-01T10:00:00+02:00", "value": 80}
    sent = [{"observations": [reading] * 10}, {"observations": [reading] * 100}]
    sent += [{"note": "x" * 9_000}, {"note": "x" * 11_000}, {"note": [{"text": "x" * 6_000}] * 2}]
    sent += [{"image": "x" * 11_000}, {"image": [[0.5]]}]

    async def steps(batcher):
        for one in sent:
            await batcher.submit(parse_patients([one]))

    run(Quick(), steps, at_once_mb=0.01)
    assert where == [True, True, True, False, False, False, False]


def test_one_request_does_not_spoil_the_others_of_its_batch():
    class Fragile(_Slow):
        def diagnose_each(self, patients):
            answers = super().diagnose_each(patients)
            if any(one.note == "poison" for one in patients):
                raise RuntimeError(SECRET)
            return answers

    fragile = Fragile()

    async def steps(batcher):
        asked = [asyncio.create_task(batcher.submit(patients(note))) for note in ("first", "good", "poison", "fine")]
        await asyncio.sleep(0.1)
        fragile.go.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = run(fragile, steps, threads=1)
    assert [isinstance(answer, RuntimeError) for answer in answers] == [False, False, True, False]


def test_what_was_accepted_is_ended_before_the_batcher_stops():
    slow = _Slow()

    async def main():
        batcher = Batcher(lambda: slow, ServeSettings(threads=1, max_batch=1, at_once_mb=0), Metrics())
        batcher.start()
        asked = [asyncio.create_task(batcher.submit(patients("x"))) for _ in range(5)]
        await asyncio.sleep(0.05)
        stopping = asyncio.create_task(batcher.stop())
        await asyncio.sleep(0.05)
        assert not stopping.done()
        slow.go.set()
        await stopping
        return await asyncio.gather(*asked)

    assert len(asyncio.run(main())) == 5


def test_hooks_are_told_off_the_path_and_may_fail(start, caplog):
    told, seen = threading.Event(), []

    class Hook:
        def on_predictions(self, patients, diagnoses, latency):
            seen.append((patients[0].note, diagnoses[0].diagnosis, latency))
            told.set()
            raise RuntimeError(SECRET)

        def close(self):
            seen.append("closed")

    client = start(hooks=[Hook()])
    answer = client.post("/v1/diagnose", json=ONE).json()
    assert told.wait(120)
    assert seen[0][:2] == ("Fever. Cough.", answer["diagnoses"][0]["diagnosis"])
    assert seen[0][2] > 0
    wait_until(lambda: "a hook failed" in caplog.text)
    assert SECRET not in caplog.text


def test_nothing_of_a_patient_is_in_logs_or_errors(start, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG)
    client = start(token=TOKEN)
    headers = {"Authorization": f"Bearer {TOKEN}", "X-Request-ID": SECRET}
    reading = {"channel": "heart_rate", "time": "2022-06-01T10:00:00Z", "value": 80}
    bad = [
        {"patients": [patient(note=SECRET)]},
        {"patients": [patient(note=[SECRET])]},
        {"patients": [{SECRET: SECRET}]},
        {"patients": SECRET},
        {SECRET: SECRET},
        {"patients": [{"observations": [reading | {"unit": SECRET}]}]},
        {"patients": [{"observations": [reading | {"channel": SECRET}]}]},
        {"patients": [{"observations": [reading | {"time": SECRET}]}]},
        {"patients": [{"image": SECRET, "birth_date": SECRET, "sex": SECRET}]},
        {"dataframe_records": [{"note": [SECRET]}]},
        {"dataframe_split": {"columns": [SECRET], "data": [[SECRET]]}},
        {"inputs": [{"name": SECRET, "datatype": SECRET, "shape": [1], "data": [SECRET]}]},
        {"inputs": [{"name": "patients", "datatype": "BYTES", "shape": [1], "data": [SECRET]}]},
        {"inputs": SECRET},
    ]
    texts = []
    for content in bad:
        for path in ("/v1/diagnose", "/v2/models/tests-diagnosis/infer", "/invocations", f"/v2/models/{SECRET}/infer"):
            texts.append(client.post(path, json=content, headers=headers).text)
            texts.append(client.post(path, content=json.dumps(content)[:-3], headers=headers).text)
    client.get(f"/{SECRET}?name={SECRET}", headers=headers)
    # A failure of our own, whose message holds what was sent.
    monkeypatch.setattr("serving.predictor.Predictor.diagnose_each", lambda *_: 1 / int(SECRET))
    answer = client.post("/v1/diagnose", json={"patients": [patient(note=SECRET)]}, headers=headers)
    assert answer.status_code == 500
    assert "ValueError at" in caplog.text
    texts.append(answer.text)
    for part in SECRET.split():
        # uvicorn and starlette log below warnings at no time when the server is started by `vitalfuse serve`.
        assert part not in "\n".join(record.getMessage() for record in caplog.records if record.name != "httpx")
        assert not [text for text in texts if part in text]
    assert part not in client.get("/metrics").text


def test_many_clients_at_once_get_their_own_answers(start):
    client = start(max_delay_ms=5)
    alone = {n: client.post("/v1/diagnose", json=_with_rate(n)).json() for n in range(40, 60)}
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda n: client.post("/v1/diagnose", json=_with_rate(n)).json(), list(alone) * 3))
    for n, answer in zip(list(alone) * 3, together, strict=True):
        expected = alone[n]["diagnoses"][0]["probabilities"]
        assert answer["diagnoses"][0]["probabilities"] == pytest.approx(expected, abs=1e-6)
    assert len({json.dumps(answer) for answer in alone.values()}) == len(alone)


def _with_rate(value):
    reading = {"channel": "heart_rate", "time": "2022-06-01T10:00:00+02:00", "value": value}
    return {"patients": [{"observations": [reading]}]}
