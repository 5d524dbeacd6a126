"""MLflow's scoring protocol, by MLflow's own codecs: /invocations, /ping, /version."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import pandas as pd
from fastapi import APIRouter, Request, Response
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import AnyType
from mlflow.version import VERSION
from pydantic_core import from_json

from serving.patients import Fault, InvalidRequest, Patient, parse_patients
from serving.server.errors import ErrorAnswer, Refusal
from serving.server.service import DiagnosisService
from serving.table import patients_of

_REMEDY = "Send dataframe_records or dataframe_split with the columns of a patient, or instances with patients"
_EXAMPLE = {"dataframe_records": [{"note": "Fever and cough.", "age": 61}]}


class _Received:
    """Stands where MLflow's codec calls a model, and keeps what it has decoded."""

    metadata = None
    data: Any = None

    def predict(self, data: Any, params: dict | None = None) -> list:
        self.data = data
        return []


def decode(body: bytes, content_type: str) -> tuple[list[Patient], str]:
    """Decode a request as MLflow's scoring server does.

    Args:
        body: JSON, CSV or Parquet.
        content_type: Which.

    Returns:
        The patients, and what their list is called in messages.

    Raises:
        InvalidRequest: It is not of MLflow's form, or the rows are no patients.
        Refusal: The content type is unknown.
    """
    if listed := _listed(body, content_type):
        name, rows = listed
        return parse_patients(rows, place=name), name
    schema = Schema([ColSpec(AnyType(), name, required=False) for name in Patient.model_fields])
    received = _Received()
    try:
        answer = scoring_server.invocations(body, content_type, received, schema)
    except InvalidRequest:
        raise
    except Exception as error:
        # MLflow's messages repeat the data; whatever its codec stumbles over came with the request.
        known = isinstance(error, MlflowException)
        problem = "is not a request of MLflow's scoring protocol" if known else "can't be read as a table"
        raise InvalidRequest([Fault("body", problem, _REMEDY, malformed=True)]) from None
    if answer.status != 200:
        raise Refusal(answer.status, "the content type is not one of MLflow's: application/json, text/csv")
    if not isinstance(received.data, pd.DataFrame):
        raise InvalidRequest([Fault("body", "holds no rows of a table", _REMEDY, malformed=True)])
    return patients_of(received.data), "patients"


def _listed(body: bytes, content_type: str) -> tuple[str, list[Any]] | None:
    """Return the rows of ``inputs`` and ``instances``.

    MLflow's codec would turn the latter into columns, for which every patient needs the same fields.
    """
    if content_type.partition(";")[0].strip() != "application/json":
        return None
    try:
        content = from_json(body)
    except ValueError:
        return None
    for name in ("inputs", "instances"):
        if isinstance(content, dict) and list(content) == [name] and isinstance(content[name], list):
            return name, content[name]
    return None


def mlflow_router(service: DiagnosisService) -> APIRouter:
    """Return the endpoints of MLflow's scoring server.

    Args:
        service: Diagnoses.

    Returns:
        The router.
    """
    router = APIRouter(tags=["MLflow"])

    async def invocations(request: Request) -> Response:
        """Diagnose the rows of a table: `dataframe_records`, `dataframe_split`, `inputs` or `instances`."""
        body = await request.body()
        content_type = request.headers.get("content-type") or "application/json"
        # A table is slower to decode than JSON: always in a thread.
        patients, place = await asyncio.to_thread(decode, body, content_type)
        diagnoses = await service.diagnose(patients, place)
        text = io.StringIO()
        scoring_server.predictions_to_json([diagnosis.model_dump() for diagnosis in diagnoses], text)
        return Response(text.getvalue(), media_type="application/json")

    async def ping() -> Response:
        """Say whether a version is served."""
        return Response("\n", 200 if service.follower.current else 503, media_type="application/json")

    async def version() -> Response:
        """Return MLflow's version."""
        return Response(VERSION, media_type="text/plain")

    body = {"required": True, "content": {"application/json": {"schema": {"type": "object", "example": _EXAMPLE}}}}
    answer = {"description": "One diagnosis a row", "content": {"application/json": {"schema": {"type": "object"}}}}
    router.add_api_route(
        "/invocations",
        invocations,
        methods=["POST"],
        response_model=None,
        openapi_extra={"requestBody": body},
        responses={200: answer, 415: {"model": ErrorAnswer}},
    )
    router.add_api_route("/ping", ping, response_model=None, include_in_schema=False)
    router.add_api_route("/health", ping, response_model=None, include_in_schema=False)
    router.add_api_route("/version", version, response_model=None, include_in_schema=False)
    return router
