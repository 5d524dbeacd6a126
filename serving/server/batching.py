"""Patients of several requests go through the model together, a bounded number of them waiting."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from serving.patients import Diagnosis, InvalidRequest, Patient
from serving.server.errors import Refusal
from serving.server.metrics import Metrics
from serving.settings import ServeSettings

_MEGABYTE = 1_000_000
_READING_BYTES = 100
Answers = list[Diagnosis | InvalidRequest]


class Diagnoses(Protocol):
    """What the batcher needs of a predictor."""

    def diagnose_each(self, patients: Sequence[Patient]) -> Answers:
        """Diagnose patients of several callers in one batch."""
        ...


@dataclass
class _Waiting:
    patients: list[Patient]
    answer: asyncio.Future[Answers]
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Gathers the patients of waiting requests into batches.

    While a batch is computed, patients gather by themselves; then what there is goes on together, once there are
    ``max_batch`` patients or ``max_delay_ms`` have passed. The patients of one request stay together, so that one
    version answers all of them.

    Args:
        predictor: Returns what diagnoses now; asked once a batch, so that a batch in flight ends on the version on
            which it began. None where no version is loaded.
        settings: Sizes.
        metrics: Told of sizes and times.
    """

    def __init__(self, predictor: Callable[[], Diagnoses | None], settings: ServeSettings, metrics: Metrics) -> None:
        self._predictor, self._settings, self._metrics = predictor, settings, metrics
        self._waiting: deque[_Waiting] = deque()
        self._count = 0
        self._arrived = asyncio.Event()
        self._full = asyncio.Event()
        self._threads = ThreadPoolExecutor(settings.threads, thread_name_prefix="diagnose")
        self._free = asyncio.Semaphore(settings.threads)
        self._running: set[asyncio.Task] = set()
        self._seconds_a_patient = 0.01
        self._gatherer: asyncio.Task | None = None

    def start(self) -> None:
        """Begin to take batches, on the running event loop."""
        self._gatherer = asyncio.create_task(self._gather())

    async def stop(self) -> None:
        """End what was accepted, then release the threads."""
        while self._waiting or self._running:
            await asyncio.sleep(0.01)
        if self._gatherer:
            self._gatherer.cancel()
        self._threads.shutdown()

    @property
    def waiting(self) -> int:
        """Patients that wait for the model."""
        return self._count

    async def submit(self, patients: list[Patient]) -> Answers:
        """Diagnose the patients of one request.

        Args:
            patients: As many as one request may have.

        Returns:
            One answer a patient, in order.

        Raises:
            Refusal: Too many wait already, none can be diagnosed yet, or it took too long.
        """
        if not patients:
            return []
        # A request larger than the queue is taken when nothing else waits.
        if self._count and self._count + len(patients) > self._settings.max_queue:
            self._metrics.refused.labels("queue").inc()
            raise Refusal(503, "the server is busy: too many patients wait for the model", self._drain_seconds())
        waiting = _Waiting(patients, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._changed(len(patients))
        self._arrived.set()
        try:
            async with asyncio.timeout(self._settings.request_seconds):
                return await waiting.answer
        except TimeoutError:
            self._metrics.refused.labels("time").inc()
            seconds = self._settings.request_seconds
            raise Refusal(504, f"no answer within {seconds:g} seconds", self._drain_seconds()) from None

    def _drain_seconds(self) -> int:
        return max(1, math.ceil(self._count * self._seconds_a_patient))

    def _changed(self, by: int) -> None:
        self._count += by
        self._metrics.queue.set(self._count)
        if self._count >= self._settings.max_batch:
            self._full.set()
        else:
            self._full.clear()

    async def _gather(self) -> None:
        while True:
            await self._arrived.wait()
            if self._settings.max_delay_ms:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.max_delay_ms / 1000):
                        await self._full.wait()
            await self._free.acquire()
            batch = self._take()
            if not batch:
                self._free.release()
                continue
            task = asyncio.create_task(self._run(batch))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    def _take(self) -> list[_Waiting]:
        """Take whole requests off the queue, as many as fit; those that gave up are left out."""
        batch: list[_Waiting] = []
        size = 0
        while self._waiting and (not batch or size + len(self._waiting[0].patients) <= self._settings.max_batch):
            waiting = self._waiting.popleft()
            self._changed(-len(waiting.patients))
            if not waiting.answer.done():
                batch.append(waiting)
                size += len(waiting.patients)
        if not self._waiting:
            self._arrived.clear()
        return batch

    async def _run(self, batch: list[_Waiting]) -> None:
        try:
            predictor = self._predictor()
            if predictor is None:
                raise Refusal(503, "no model version is loaded yet", retry_after=5)
            try:
                await self._answer(batch, predictor)
            except Exception:
                if len(batch) == 1:
                    raise
                # One request must not spoil the others': each is tried alone.
                for waiting in batch:
                    await self._answer_alone(waiting, predictor)
        except Exception as error:
            for waiting in batch:
                _fail(waiting, error)
        finally:
            self._free.release()

    async def _answer(self, batch: list[_Waiting], predictor: Diagnoses) -> None:
        patients = [patient for waiting in batch for patient in waiting.patients]
        if sum(map(_size, patients)) <= self._settings.at_once_mb * _MEGABYTE:
            answers = self._diagnose(predictor, patients)
        else:
            loop = asyncio.get_running_loop()
            answers = await loop.run_in_executor(self._threads, self._diagnose, predictor, patients)
        for waiting in batch:
            own, answers = answers[: len(waiting.patients)], answers[len(waiting.patients) :]
            if not waiting.answer.done():
                waiting.answer.set_result(own)

    async def _answer_alone(self, waiting: _Waiting, predictor: Diagnoses) -> None:
        try:
            await self._answer([waiting], predictor)
        except Exception as error:
            _fail(waiting, error)

    def _diagnose(self, predictor: Diagnoses, patients: list[Patient]) -> Answers:
        started = time.perf_counter()
        answers = predictor.diagnose_each(patients)
        seconds = time.perf_counter() - started
        self._seconds_a_patient += 0.1 * (seconds / len(patients) - self._seconds_a_patient)
        self._metrics.batch_patients.observe(len(patients))
        self._metrics.batch_seconds.observe(seconds)
        return answers


def _size(patient: Patient) -> float:
    """Return about how many bytes a patient has as JSON; an image as pixels is slow to read, and counts as large."""
    if isinstance(patient.image, list):
        return math.inf
    notes = [patient.note or ""] if not isinstance(patient.note, list) else [note.text for note in patient.note]
    return _READING_BYTES * len(patient.observations) + len(patient.image or "") + sum(map(len, notes))


def _fail(waiting: _Waiting, error: Exception) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)
