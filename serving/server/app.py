"""The app: protocols, metrics, status, the OpenAPI page, and the page for people where there is one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, cast

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException

from serving.page_routes import PageModel, page_model, page_router
from serving.patients import Diagnosis, Fault, InvalidRequest, Patient, faults_of
from serving.server.batching import Batcher
from serving.server.errors import ErrorAnswer, Refusal, faults_answer, invalid_answer, refusal_answer
from serving.server.follower import Follower
from serving.server.gate import PROTECTED, TOKEN_HEADER, Gate
from serving.server.hooks import Hooks, PredictionHook
from serving.server.metrics import Metrics
from serving.server.mlflow_protocol import mlflow_router
from serving.server.open_inference import EXAMPLE, InvalidInput, ModelNotFound, open_inference_router
from serving.server.rates import SharedStorage
from serving.server.service import DiagnosisService
from serving.settings import ServeSettings

_DESCRIPTION = """Diagnoses patients from raw vital signs, an image and a note.

For research and evaluation. Not a medical device; not for clinical use."""
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text}
    for status, text in {
        400: "The request is not of the documented form",
        401: "The token is missing or wrong",
        404: "This model, or this version of it, is not served",
        408: "The request was not received in time",
        413: "The request is too large",
        422: "The request is of the documented form, and can't be used",
        429: "Too many requests from this address",
        503: "Too busy, or no version is loaded yet",
        504: "No answer in time",
    }.items()
}


class DiagnoseRequest(BaseModel):
    """Patients to diagnose."""

    model_config = {"extra": "forbid"}

    patients: Annotated[list[Patient], Field(min_length=1)]


class DiagnoseAnswer(BaseModel):
    """One diagnosis a patient, in order, all of one version."""

    diagnoses: list[Diagnosis]


class StatusAnswer(BaseModel):
    """What is served."""

    source: str = Field(description="What is followed")
    name: str
    version: str | None = Field(description="The version that answers; null while none is loaded")
    digest: str | None = Field(description="SHA-256 of its files")
    contract: dict[str, Any] | None = Field(description="Classes, channels with units and ranges, modalities")
    detail: str | None = Field(description="What is amiss, such as a version that is not taken and why")
    waiting: int = Field(description="Patients that wait for the model")


_FIRST_LOOK_SECONDS = 30
_REMEDY = 'Send {"patients": [...]}, and nothing beside it'
_REQUEST = TypeAdapter(DiagnoseRequest)


def build_app(
    settings: ServeSettings,
    follower: Follower,
    metrics: Metrics,
    *,
    hooks: Sequence[PredictionHook] = (),
    token: str | None = None,
    counters: Path | None = None,
) -> Gate:
    """Put the server together.

    Args:
        settings: Section ``serve``.
        follower: Holds the version that is served; started and stopped with the app.
        metrics: The same as the follower's.
        hooks: Told of every request that was answered, off its path.
        token: Bearer token; None lets anybody in.
        counters: Where the workers of one server count requests together; None where there is one process.

    Returns:
        The ASGI app.
    """
    batcher = Batcher(lambda: follower.current, settings, metrics)
    telling = Hooks(hooks, metrics)
    service = DiagnosisService(follower, batcher, telling, metrics, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        telling.start()
        follower.start()
        if settings.workers > 1:
            # The others answer meanwhile: a worker that has nothing to serve yet would refuse what they need not.
            await asyncio.to_thread(follower.looked.wait, _FIRST_LOOK_SECONDS)
        yield
        follower.stop()
        await batcher.stop()
        telling.stop()

    app = FastAPI(title="vitalfuse", description=_DESCRIPTION, lifespan=lifespan, responses=_REFUSALS, redoc_url=None)
    _handle_errors(app)
    # First, since routes are tried one after the other, and the protocols have many.
    _add_own(app, service)
    app.include_router(open_inference_router(service))
    app.include_router(mlflow_router(service))
    # The gate guards what the page asks for.
    app.include_router(page_router(lambda: _page_model(follower)))
    app.openapi = _openapi(app, follower.name, token is not None)  # type: ignore[method-assign]
    return Gate(app, settings, metrics, token, SharedStorage(counters) if counters else None)


def _page_model(follower: Follower) -> PageModel | None:
    current = follower.current
    return page_model(current.name, current.version, current.predictor.contract) if current else None


def _add_own(app: FastAPI, service: DiagnosisService) -> None:
    async def diagnose(request: Request) -> Response:
        """Diagnose patients, all or none."""
        body = await request.body()
        patients = await service.parse(lambda: parse_request(body), len(body))
        diagnoses = await service.diagnose(patients)
        return Response(DiagnoseAnswer(diagnoses=diagnoses).model_dump_json(), media_type="application/json")

    async def status() -> StatusAnswer:
        """Say what is served, by which contract, and what is amiss."""
        current = service.follower.current
        return StatusAnswer(
            source=service.follower.source,
            name=service.follower.name,
            version=current.version if current else None,
            digest=current.digest if current else None,
            contract=current.predictor.contract if current else None,
            detail=service.follower.detail,
            waiting=service.batcher.waiting,
        )

    async def metrics() -> Response:
        """Return the metrics, for Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    schema = {"$ref": "#/components/schemas/DiagnoseRequest"}
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    app.add_api_route(
        "/v1/diagnose",
        diagnose,
        methods=["POST"],
        response_model=DiagnoseAnswer,
        openapi_extra={"requestBody": body},
        tags=["vitalfuse"],
    )
    app.add_api_route("/v1/status", status, response_model=StatusAnswer, tags=["vitalfuse"])
    app.add_api_route("/metrics", metrics, response_model=None, include_in_schema=False)


def parse_request(body: bytes) -> list[Patient]:
    """Parse the body of ``/v1/diagnose``, straight from JSON.

    Args:
        body: The body.

    Returns:
        The patients.

    Raises:
        InvalidRequest: It is not of the documented form.
    """
    try:
        return _REQUEST.validate_json(body).patients
    except ValidationError as error:
        raise InvalidRequest(_named(error.errors(include_url=False))) from None


def _named(errors: Sequence[ErrorDetails]) -> list[Fault]:
    """Return faults, with the parts of the request that are no part of a patient named as well."""
    faults = []
    for error in errors:
        location = error["loc"]
        if (location[:1] == ("patients",) and error["type"] not in ("missing", "extra_forbidden")) or len(location) > 1:
            faults += faults_of([cast(ErrorDetails, {**error, "loc": location[1:]})], "patients")
        elif error["type"] == "json_invalid":
            faults += faults_of([error], "body")
        else:
            faults.append(Fault("body", "is not an object with the one field patients", _REMEDY, malformed=True))
    return list({fault.field: fault for fault in faults}.values())[:100]


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(InvalidRequest)
    async def invalid(request: Request, error: InvalidRequest) -> Response:
        return invalid_answer(error)

    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> Response:
        return refusal_answer(error)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        """Answer for the endpoints that KServe has typed; its messages would repeat what was sent."""
        places = [".".join(str(part) for part in item["loc"] if isinstance(part, str | int)) for item in error.errors()]
        faults = [
            fault
            for place, item in zip(places, error.errors(), strict=True)
            for fault in faults_of([cast(ErrorDetails, {**item, "loc": ()})], place[:100] or "body")
        ]
        unique = list({fault.field: fault for fault in faults}.values())[:100]
        return faults_answer(unique, 400, str(unique[0]))

    @app.exception_handler(InvalidInput)
    async def invalid_input(request: Request, error: InvalidInput) -> Response:
        return refusal_answer(Refusal(400, "the request is not of the Open Inference Protocol v2"))

    @app.exception_handler(ModelNotFound)
    async def not_found(request: Request, error: ModelNotFound) -> Response:
        return refusal_answer(Refusal(404, "this model, or this version of it, is not served; see /v1/status"))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        """Answer; the gate logs it."""
        return refusal_answer(Refusal(500, "the server failed; its log has more under the answer's X-Request-ID"))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        answer = refusal_answer(Refusal(error.status_code, str(error.detail)))
        answer.headers.update(error.headers or {})
        return answer


def _openapi(app: FastAPI, model_name: str, with_token: bool) -> Callable[[], dict[str, Any]]:
    """Return what describes the app: FastAPI's own, the request that it does not parse itself, and the token."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            request = DiagnoseRequest.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas = document["components"]["schemas"]
            schemas |= request.pop("$defs") | {"DiagnoseRequest": request}
            schemas["InferenceRequest"]["example"] = EXAMPLE
            for path, operations in document["paths"].items():
                for operation in operations.values() if "{model_name}" in path else ():
                    for parameter in operation["parameters"]:
                        if parameter["name"] == "model_name":
                            parameter["schema"]["enum"] = [model_name]
            if with_token:
                document["components"]["securitySchemes"] = {
                    "token": {"type": "http", "scheme": "bearer"},
                    "token_header": {"type": "apiKey", "in": "header", "name": TOKEN_HEADER},
                }
                for path, operations in document["paths"].items():
                    if path.startswith(PROTECTED) and not path.startswith("/v2/health"):
                        for operation in operations.values():
                            operation["security"] = [{"token": []}, {"token_header": []}]
            app.openapi_schema = json.loads(json.dumps(document))
        return app.openapi_schema

    return describe
