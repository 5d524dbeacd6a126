"""Clients that ask a server without a pause, and what it must answer."""

from __future__ import annotations

import threading

import httpx
import pytest

from serving.patients import parse_patients
from serving.predictor import Predictor
from tests.serving.server.conftest import patient


def is_ready(port):
    try:
        return httpx.get(f"http://127.0.0.1:{port}/v2/health/ready").status_code == 200
    except httpx.TransportError:
        return False


class Load:
    """Clients that ask without a pause, and keep every answer by its status and version."""

    def __init__(self, port: int, expected: dict[str, list[list[float]]]) -> None:
        self.port, self.expected = port, expected
        self.rates = [60 + 2 * n for n in range(8)]
        self.answers: list[tuple[int, str]] = []
        self.cut = 0
        self.wrong: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(8)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def count(self, version):
        return sum(1 for _, found in list(self.answers) if found == version)

    def _ask(self, number):
        with httpx.Client(timeout=30) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post(f"http://127.0.0.1:{self.port}/v1/diagnose", json=request(self.rates[number]))
                except httpx.TransportError:
                    self.cut += 1
                    self._stop.wait(0.05)
                    continue
                if answer.status_code != 200:
                    self.answers.append((answer.status_code, ""))
                    continue
                (diagnosis,) = answer.json()["diagnoses"]
                version = diagnosis["model"]["version"]
                self.answers.append((200, version))
                expected = self.expected[version][number]
                if list(diagnosis["probabilities"].values()) != pytest.approx(expected, abs=1e-6):
                    self.wrong.append(version)


def request(rate):
    reading = {"channel": "heart_rate", "time": "2022-06-01T10:00:00+02:00", "value": rate}
    return {"patients": [patient(observations=[reading])]}


def expected(folder):
    predictor = Predictor.load(folder)
    patients = parse_patients([request(60 + 2 * n)["patients"][0] for n in range(8)])
    return [list(answer.probabilities.values()) for answer in predictor.diagnose(patients)]
