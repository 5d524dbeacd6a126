"""How the server says no: one form of answer for every status."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from serving.patients import Fault, InvalidRequest


class FaultAnswer(BaseModel):
    """One thing that is wrong with a request."""

    field: str = Field(description="Path of the field", examples=["patients[0].observations[3].unit"])
    problem: str
    remedy: str


class ErrorAnswer(BaseModel):
    """Why a request was not answered; it repeats nothing that was sent."""

    error: str = Field(description="One line for people")
    faults: list[FaultAnswer] = Field(default=[], description="Every fault that was found, 100 at most a patient")


class Refusal(Exception):  # noqa: N818 - named as the answer is
    """A request that is not answered, for a reason that is not in its patients.

    Args:
        status: HTTP status.
        message: One line that repeats nothing of the request.
        retry_after: Seconds after which the client may come again.
    """

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after


def refusal_answer(refusal: Refusal) -> JSONResponse:
    """Return the answer to a refused request.

    Args:
        refusal: Why.

    Returns:
        The answer, with Retry-After where there is one.
    """
    headers = {} if refusal.retry_after is None else {"Retry-After": str(refusal.retry_after)}
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    content = ErrorAnswer(error=refusal.message).model_dump(exclude_defaults=True)
    return JSONResponse(content, refusal.status, headers)


def invalid_answer(error: InvalidRequest) -> JSONResponse:
    """Return the answer to a request that names each faulty field.

    Args:
        error: The faults.

    Returns:
        400 where the request is not of the documented form, else 422.
    """
    return faults_answer(error.faults, 400 if error.malformed else 422, str(error))


def faults_answer(faults: Sequence[Fault], status: int, message: str) -> JSONResponse:
    """Return an answer that lists faults.

    Args:
        faults: The faults.
        status: HTTP status.
        message: One line for people.

    Returns:
        The answer.
    """
    listed = [FaultAnswer(field=fault.field, problem=fault.problem, remedy=fault.remedy) for fault in faults]
    return JSONResponse(ErrorAnswer(error=message, faults=listed).model_dump(), status)
