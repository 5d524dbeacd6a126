"""The Open Inference Protocol v2, by KServe's own endpoints, models and codecs.

A patient is nested, and a tensor is not: so a request has one tensor of type BYTES, named ``patients``, of shape [n];
each element is one patient as JSON text. The answer has the tensors ``diagnosis``, ``probabilities``, ``attention`` and
``answer``; the last has each whole diagnosis as JSON text.
"""

from __future__ import annotations

import sys
import uuid
from typing import Any

from fastapi import APIRouter, Request, Response

from data_schemas.features import MODALITIES
from serving.patients import Diagnosis, Fault, InvalidRequest, Patient, parse_patients_json
from serving.server.errors import Refusal
from serving.server.service import DiagnosisService

# KServe reads the command line of the process as its own when it is imported.
_arguments, sys.argv = sys.argv, sys.argv[:1]
try:
    from kserve.constants.constants import INFERENCE_CONTENT_LENGTH_HEADER
    from kserve.errors import InvalidInput, ModelNotFound
    from kserve.model import InferenceModel, InferenceVerb
    from kserve.model_repository import ModelRepository
    from kserve.protocol.dataplane import DataPlane
    from kserve.protocol.infer_type import InferOutput, InferRequest, InferResponse
    from kserve.protocol.rest.v2_datamodels import (
        InferenceRequest,
        InferenceResponse,
        ListModelsResponse,
        ModelMetadataResponse,
        ModelReadyResponse,
        ServerLiveResponse,
        ServerMetadataResponse,
        ServerReadyResponse,
    )
    from kserve.protocol.rest.v2_endpoints import V2Endpoints
finally:
    sys.argv = _arguments

INPUT = "patients"
_REMEDY = f"Send one tensor named {INPUT}, datatype BYTES, shape [n], with n patients as JSON texts"
EXAMPLE = {
    "inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [1], "data": ['{"note": "Fever and cough.", "age": 61}']}]
}


class ReadyAnswer(ServerReadyResponse):
    """Whether a version is served, and what is amiss with the next one."""

    detail: str | None = None


class _DiagnosisModel(InferenceModel):
    """The served version as KServe's repository knows it; which version that is may change between two requests."""

    def __init__(self, service: DiagnosisService) -> None:
        super().__init__(service.follower.name)
        self._service = service

    async def healthy(self) -> bool:
        return self._service.follower.current is not None

    def get_input_types(self) -> list[dict]:
        return [{"name": INPUT, "datatype": "BYTES", "shape": [-1]}]

    def get_output_types(self) -> list[dict]:
        current = self._service.follower.current
        classes = len(current.predictor.classes) if current else -1
        return [
            {"name": "diagnosis", "datatype": "BYTES", "shape": [-1]},
            {"name": "probabilities", "datatype": "FP64", "shape": [-1, classes]},
            {"name": "attention", "datatype": "FP64", "shape": [-1, len(MODALITIES)]},
            {"name": "answer", "datatype": "BYTES", "shape": [-1]},
        ]

    async def __call__(
        self, body: InferRequest, headers: dict[str, str] | None = None, verb: InferenceVerb = InferenceVerb.PREDICT
    ) -> tuple[InferResponse, dict[str, str]]:
        texts = _texts(body)
        size = sum(len(text) for text in texts)
        patients = await self._service.parse(lambda: _patients(texts), size)
        diagnoses = await self._service.diagnose(patients, INPUT)
        wanted = [output.name for output in body.request_outputs or []]
        known = [item["name"] for item in self.get_output_types()]
        for name in wanted:
            if name not in known:
                raise InvalidRequest(
                    [Fault("outputs", "names an unknown tensor", f"Known are {', '.join(known)}", True)]
                )
        outputs = [output for output in _outputs(diagnoses) if not wanted or output.name in wanted]
        answer = InferResponse(
            response_id=body.id or uuid.uuid4().hex,
            model_name=self.name,
            infer_outputs=outputs,
            model_version=diagnoses[0].model.version,
        )
        return answer, {}


def _texts(request: InferRequest) -> list[bytes | str]:
    named = [tensor for tensor in request.inputs if tensor.name == INPUT]
    if len(named) != 1 or len(request.inputs) != 1:
        raise InvalidRequest([Fault("inputs", f"does not have the one tensor {INPUT}", _REMEDY, malformed=True)])
    (tensor,) = named
    if tensor.datatype != "BYTES":
        raise InvalidRequest([Fault("inputs[0].datatype", "is not BYTES", _REMEDY, malformed=True)])
    texts = tensor.data if tensor.data is not None else tensor.as_numpy().tolist()
    if list(tensor.shape) != [len(texts)]:
        raise InvalidRequest([Fault("inputs[0].shape", "is not the number of patients", _REMEDY, malformed=True)])
    if not all(isinstance(text, str | bytes) for text in texts):
        raise InvalidRequest([Fault("inputs[0].data", "is not a list of texts", _REMEDY, malformed=True)])
    return texts


def _patients(texts: list[bytes | str]) -> list[Patient]:
    """Parse each text as a list of one, so that a text can't bring two patients, and a fault names the right one."""
    patients: list[Patient] = []
    faults: list[Fault] = []
    for number, text in enumerate(texts):
        content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        try:
            parsed = parse_patients_json(b"[" + content + b"]", place="")
        except InvalidRequest as error:
            places = (str(fault.field).removeprefix("[0]").lstrip(".") for fault in error.faults)
            faults += [
                Fault(f"{INPUT}[{number}]" + (f".{place}" if place else ""), fault.problem, fault.remedy, True)
                for place, fault in zip(places, error.faults, strict=True)
            ]
            continue
        if len(parsed) != 1:
            faults.append(Fault(f"{INPUT}[{number}]", "is not one patient", "Send one JSON object a text", True))
        patients += parsed
    if faults:
        raise InvalidRequest(faults)
    return patients


def _outputs(diagnoses: list[Diagnosis]) -> list[InferOutput]:
    classes = list(diagnoses[0].probabilities)
    count = len(diagnoses)
    return [
        InferOutput("diagnosis", [count], "BYTES", data=[item.diagnosis for item in diagnoses]),
        InferOutput(
            "probabilities",
            [count, len(classes)],
            "FP64",
            data=[item.probabilities[name] for item in diagnoses for name in classes],
            parameters={"classes": ",".join(classes)},
        ),
        InferOutput(
            "attention",
            [count, len(MODALITIES)],
            "FP64",
            data=[item.attention.get(name, 0.0) for item in diagnoses for name in MODALITIES],
            parameters={"modalities": ",".join(MODALITIES)},
        ),
        InferOutput("answer", [count], "BYTES", data=[item.model_dump_json() for item in diagnoses]),
    ]


class _DataPlane(DataPlane):
    """KServe's data plane; faults of a binary request are faults of the request, and CloudEvents are not spoken."""

    def __init__(self, repository: ModelRepository, service: DiagnosisService) -> None:
        super().__init__(repository)
        self._server_name = "vitalfuse"
        self._service = service

    def metadata(self) -> dict:
        return super().metadata() | {"extensions": ["binary_tensor_data"]}

    async def ready(self) -> bool:
        return self._service.follower.current is not None

    async def model_metadata(self, model_name: str) -> dict:
        current = self._service.follower.current
        known = {"platform": "onnxruntime_onnxv1", "versions": [current.version or "unversioned"] if current else []}
        return await super().model_metadata(model_name) | known

    def decode_inference_request(self, body: Any, headers: dict, model_name: str) -> InferRequest:
        try:
            return super().decode_inference_request(body, headers, model_name)
        except Exception as error:
            # Whatever the codec stumbles over came with the request.
            header = INFERENCE_CONTENT_LENGTH_HEADER
            fault = Fault("body", f"is not a request of the protocol with binary data and the header {header}", _REMEDY)
            raise InvalidRequest([Fault(fault.field, fault.problem, fault.remedy, malformed=True)]) from error

    def encode(self, model_name: str, response: Any, headers: dict, req_attributes: dict) -> tuple[Any, dict[str, str]]:
        return super().encode(model_name, response, {}, req_attributes)


class _Endpoints(V2Endpoints):
    """KServe's endpoints, which know no versions, with the one version that is served."""

    def __init__(self, dataplane: DataPlane, service: DiagnosisService) -> None:
        super().__init__(dataplane)
        self._service = service

    async def ready(self) -> ReadyAnswer:
        detail = self._service.follower.detail
        if not await self.dataplane.ready():
            raise Refusal(503, f"not ready: {detail}", retry_after=5)
        return ReadyAnswer(ready=True, detail=detail)

    async def model_metadata(self, model_name: str, model_version: str | None = None) -> ModelMetadataResponse:
        self._check_version(model_name, model_version)
        return await super().model_metadata(model_name)

    async def model_ready(self, model_name: str, model_version: str | None = None) -> ModelReadyResponse:
        self._check_version(model_name, model_version)
        return await super().model_ready(model_name)

    async def infer(
        self,
        raw_request: Request,
        raw_response: Response,
        model_name: str,
        request_body: InferenceRequest | bytes,
        model_version: str | None = None,
    ) -> InferenceResponse | Response:
        self._check_version(model_name, model_version)
        return await super().infer(raw_request, raw_response, model_name, request_body)

    def _check_version(self, name: str, version: str | None) -> None:
        """Only the version in service answers: a caller that names another one must not get this one's answer."""
        current = self._service.follower.current
        if version and (current is None or current.version != version):
            raise ModelNotFound(f"{name} version {version}")


def open_inference_router(service: DiagnosisService) -> APIRouter:
    """Return the protocol's REST endpoints, without those that load and unload models: the registry's alias does that.

    Args:
        service: Diagnoses.

    Returns:
        The router.
    """
    repository = ModelRepository()
    repository.update(_DiagnosisModel(service))
    endpoints = _Endpoints(_DataPlane(repository, service), service)
    router = APIRouter(prefix="/v2", tags=["Open Inference Protocol v2"])
    router.add_api_route("", endpoints.metadata, response_model=ServerMetadataResponse)
    router.add_api_route("/health/live", endpoints.live, response_model=ServerLiveResponse)
    router.add_api_route("/health/ready", endpoints.ready, response_model=ReadyAnswer, response_model_exclude_none=True)
    router.add_api_route("/models", endpoints.models, response_model=ListModelsResponse)
    for path in ("/models/{model_name}", "/models/{model_name}/versions/{model_version}"):
        router.add_api_route(path, endpoints.model_metadata, response_model=ModelMetadataResponse)
        router.add_api_route(f"{path}/ready", endpoints.model_ready, response_model=ModelReadyResponse)
        router.add_api_route(
            f"{path}/infer",
            endpoints.infer,
            response_model=None,
            methods=["POST"],
            responses={200: {"model": InferenceResponse}},
        )
    return router


__all__ = ["EXAMPLE", "InvalidInput", "ModelNotFound", "open_inference_router"]
