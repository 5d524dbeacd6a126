"""What every protocol of the server calls: patients in, diagnoses of one version out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from serving.patients import Diagnosis, Fault, InvalidRequest, Patient
from serving.server.batching import Batcher
from serving.server.follower import Follower
from serving.server.hooks import Hooks
from serving.server.metrics import Metrics
from serving.settings import ServeSettings

# Larger requests are parsed in a thread, so that the others' answers don't wait for it.
_PARSED_AT_ONCE = 200_000


class DiagnosisService:
    """Checks patients, sends them through the batcher, and counts.

    Args:
        follower: Holds the version.
        batcher: Runs it.
        hooks: Told of the answers.
        metrics: Told of outcomes.
        settings: Limits.
    """

    def __init__(
        self, follower: Follower, batcher: Batcher, hooks: Hooks, metrics: Metrics, settings: ServeSettings
    ) -> None:
        self.follower, self.batcher, self.metrics, self.settings = follower, batcher, metrics, settings
        self._hooks = hooks

    async def parse(self, parser: Callable[[], list[Patient]], size: int) -> list[Patient]:
        """Parse a request: at once where it is small, in a thread where it is large.

        Args:
            parser: Returns the patients.
            size: Bytes of the request.

        Returns:
            The patients.

        Raises:
            InvalidRequest: They are none.
        """
        return parser() if size <= _PARSED_AT_ONCE else await asyncio.to_thread(parser)

    async def diagnose(self, patients: list[Patient], place: str = "patients") -> list[Diagnosis]:
        """Diagnose the patients of one request, all or none.

        Args:
            patients: The patients.
            place: What the list is called in messages.

        Returns:
            One diagnosis a patient, all of one version.

        Raises:
            InvalidRequest: A patient cannot be diagnosed.
            Refusal: The server is busy, or has no version yet.
        """
        most = self.settings.max_patients
        if len(patients) > most:
            raise InvalidRequest([Fault(place, f"has more than {most} patients", "Send them in several requests")])
        if not patients:
            raise InvalidRequest([Fault(place, "has no patient", "Send one at least", malformed=True)])
        started = time.perf_counter()
        answers = await self.batcher.submit(patients)
        diagnoses = [answer for answer in answers if isinstance(answer, Diagnosis)]
        invalid = len(answers) - len(diagnoses)
        if invalid:
            self.metrics.patients.labels("invalid").inc(invalid)
            raise InvalidRequest(
                fault
                for number, answer in enumerate(answers)
                if isinstance(answer, InvalidRequest)
                for fault in answer.at(f"{place}[{number}]").faults
            )
        self.metrics.patients.labels("diagnosed").inc(len(diagnoses))
        self._hooks.tell(patients, diagnoses, time.perf_counter() - started)
        return diagnoses
