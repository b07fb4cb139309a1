"""REST routes of the Open Inference Protocol v2, with binary tensors."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request, Response

from sparserve.service.api.dialects import open_inference_calls as calls
from sparserve.service.api.dialects.open_inference_codec import HEADER, InferRequest, read_request, write_answer
from sparserve.service.core import ServingCore
from sparserve.service.errors import Unavailable
from sparserve.service.http.dependencies import OptionsDependency, ServiceDependency
from sparserve.service.http.json_route import BinaryRoute, JsonAnswer
from sparserve.service.http.problems import problems

router = APIRouter(route_class=BinaryRoute, tags=["open inference protocol"])
# The protocol's clients read the member `error` of plain JSON only.
PROBLEM_MEDIA_TYPES: Final = {"/v2": "application/json"}
RESPONSES = problems(400, 404, 413, 415, 422, 429, 500, 503, 504)
_TENSOR: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["name", "shape", "datatype", "data"],
    "properties": {
        "name": {"enum": list(calls.INPUTS)},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1, "maxItems": 2},
        "datatype": {"const": "BYTES"},
        "parameters": {"type": "object"},
        "data": {"type": "array"},
    },
    "additionalProperties": False,
}
_OUTPUT: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"enum": list(calls.OUTPUTS)}, "parameters": {"type": "object"}},
    "additionalProperties": False,
}
_REQUEST: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "model_name": {"type": "string"},
        "parameters": {"type": "object"},
        "inputs": {"type": "array", "items": _TENSOR, "minItems": 1},
        "outputs": {"type": "array", "items": _OUTPUT},
    },
    "additionalProperties": False,
}
INFER_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": _REQUEST}, "application/octet-stream": {}},
    }
}


@router.get("/v2")
async def server_metadata() -> dict[str, Any]:
    """Name, version and extensions."""
    return calls.server_metadata()


@router.get("/v2/health/live")
async def server_live() -> dict[str, bool]:
    """Liveness of the process."""
    return {"live": True}


@router.get("/v2/health/ready", responses=problems(503))
async def server_ready(service: ServiceDependency) -> dict[str, bool]:
    """Readiness: every task's default variant has answered a warm-up request."""
    if reason := service.reason_not_ready():
        raise Unavailable(reason)
    return {"ready": True}


@router.get("/v2/models/{task}", responses=problems(404, 503))
async def model_metadata(task: str, service: ServiceDependency) -> dict[str, Any]:
    """Inputs and outputs of a model."""
    return calls.model_metadata(service, task, None)


@router.get("/v2/models/{task}/versions/{variant}", responses=problems(404, 503))
async def version_metadata(task: str, variant: str, service: ServiceDependency) -> dict[str, Any]:
    """Inputs and outputs of a version, the same as its model's."""
    return calls.model_metadata(service, task, variant)


@router.get("/v2/models/{task}/ready", responses=problems(404, 503))
async def model_ready(task: str, service: ServiceDependency) -> dict[str, Any]:
    """Readiness of a model."""
    return calls.model_ready(service, task, None)


@router.get("/v2/models/{task}/versions/{variant}/ready", responses=problems(404, 503))
async def version_ready(task: str, variant: str, service: ServiceDependency) -> dict[str, Any]:
    """Readiness of a version."""
    return calls.model_ready(service, task, variant)


@router.post("/v2/repository/index")
async def repository_index(service: ServiceDependency) -> list[dict[str, str]]:
    """Every model and version with its state."""
    return calls.repository_index(service)


async def _read_request(request: Request) -> tuple[InferRequest, dict[str, list[str]]]:
    service: ServingCore = request.app.state.service
    return read_request(request.state.content, request.headers.get(HEADER), service.settings.max_items)


RequestDependency = Annotated[tuple[InferRequest, dict[str, list[str]]], Depends(_read_request)]


@router.post("/v2/models/{task}/infer", responses=RESPONSES, openapi_extra=INFER_BODY)
async def infer(
    task: str, service: ServiceDependency, options: OptionsDependency, request: RequestDependency
) -> Response:
    """Classify texts with a task's default variant."""
    return _answer(await calls.infer(service, task, None, *request, options))


@router.post("/v2/models/{task}/versions/{variant}/infer", responses=RESPONSES, openapi_extra=INFER_BODY)
async def infer_with_version(
    task: str, variant: str, service: ServiceDependency, options: OptionsDependency, request: RequestDependency
) -> Response:
    """Classify texts with one variant of a task."""
    return _answer(await calls.infer(service, task, variant, *request, options))


def _answer(inference: calls.Inference) -> Response:
    head = {
        "model_name": inference.model_name,
        "model_version": inference.model_version,
        **({"id": inference.id} if inference.id else {}),
    }
    content, headers = write_answer(head, inference.outputs, inference.binary)
    return Response(content, headers=headers) if inference.binary else JsonAnswer(content)
