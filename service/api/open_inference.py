"""The Open Inference Protocol v2: a model is a task, its versions are the variants.

Inputs: `text`, and `text_pair` for tasks of pairs, BYTES [n] or [n, 1]. Outputs: `label`, the best one, BYTES [n];
`score`, its score, FP32 [n]; `scores` of all labels, FP32 [n, labels]. An output with the parameter `classification` k
becomes BYTES [n, k] of "score:index:label", best first.
"""

from collections.abc import Sequence
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from sparserve.service.answers import ClassifyResult, answer
from sparserve.service.api.open_inference_codec import HEADER, RequestedOutput, Tensor, read_request, write_answer
from sparserve.service.core import ServingCore
from sparserve.service.errors import InvalidRequest, Unavailable
from sparserve.service.http.dependencies import ServiceDependency
from sparserve.service.http.problems import problems
from sparserve.service.http.request_options import Caller, CallerDependency
from sparserve.service.inference.engine import Engine
from sparserve.service.types import TextInput
from sparserve.service.version import VERSION

router = APIRouter(tags=["open inference protocol"])
RESPONSES = problems(400, 404, 413, 415, 422, 429, 500, 503, 504)
EXTENSIONS: Final = ("binary_tensor_data", "classification", "model_repository")
OUTPUTS: Final = ("label", "score", "scores")
_TENSOR: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["name", "shape", "datatype", "data"],
    "properties": {
        "name": {"enum": ["text", "text_pair"]},
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
    "properties": {"name": {"enum": list(OUTPUTS)}, "parameters": {"type": "object"}},
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
    return {"name": "sparserve", "version": VERSION, "extensions": list(EXTENSIONS)}


@router.get("/v2/health/live")
async def server_live() -> dict[str, bool]:
    """Whether the process answers."""
    return {"live": True}


@router.get("/v2/health/ready", responses=problems(503))
async def server_ready(service: ServiceDependency) -> dict[str, bool]:
    """Whether every task's default variant has answered a warm-up request."""
    if reason := service.reason_not_ready():
        raise Unavailable(reason)
    return {"ready": True}


@router.get("/v2/models/{task}", responses=problems(404, 503))
async def model_metadata(task: str, service: ServiceDependency) -> dict[str, Any]:
    """A model's inputs and outputs."""
    return _metadata(service, task, None)


@router.get("/v2/models/{task}/versions/{variant}", responses=problems(404, 503))
async def version_metadata(task: str, variant: str, service: ServiceDependency) -> dict[str, Any]:
    """A version's inputs and outputs, which are its model's."""
    return _metadata(service, task, variant)


@router.get("/v2/models/{task}/ready", responses=problems(404, 503))
async def model_ready(task: str, service: ServiceDependency) -> dict[str, Any]:
    """Whether a model can answer."""
    return _ready(service, task, None)


@router.get("/v2/models/{task}/versions/{variant}/ready", responses=problems(404, 503))
async def version_ready(task: str, variant: str, service: ServiceDependency) -> dict[str, Any]:
    """Whether a version can answer."""
    return _ready(service, task, variant)


def _metadata(service: ServingCore, task: str, variant: str | None) -> dict[str, Any]:
    engine = service.catalog.engine(task, variant)
    labels = len(engine.manifest.labels)
    return {
        "name": task,
        "versions": service.catalog.contents.variants(task),
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in ("text", "text_pair")],
        "outputs": [
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
            {"name": "score", "datatype": "FP32", "shape": [-1]},
            {"name": "scores", "datatype": "FP32", "shape": [-1, labels]},
        ],
    }


def _ready(service: ServingCore, task: str, variant: str | None) -> dict[str, Any]:
    engine = service.catalog.engine(task, variant)
    engine.check_health()
    return {"name": task, "version": engine.manifest.variant, "ready": True}


@router.post("/v2/repository/index")
async def repository_index(service: ServiceDependency) -> list[dict[str, str]]:
    """Every model and version with its state."""
    contents, found = service.catalog.contents, []
    for task in contents.tasks():
        for variant in contents.variants(task):
            key, state = (task, variant), {"state": "READY", "reason": ""}
            if key not in contents.engines and (refusal := contents.refused.get(key)):
                state = {"state": "UNAVAILABLE", "reason": refusal.reason}
            elif key in contents.unloaded:
                state = {"state": "UNAVAILABLE", "reason": "unloaded"}
            elif key in contents.loading:
                state = {"state": "LOADING", "reason": ""}
            found.append({"name": task, "version": variant, **state})
    return found


@router.post("/v2/models/{task}/infer", responses=RESPONSES, openapi_extra=INFER_BODY)
async def infer(task: str, request: Request, service: ServiceDependency, caller: CallerDependency) -> Response:
    """Classify texts with a task's default variant."""
    return await _infer(service, task, None, request, caller)


@router.post("/v2/models/{task}/versions/{variant}/infer", responses=RESPONSES, openapi_extra=INFER_BODY)
async def infer_with_version(
    task: str, variant: str, request: Request, service: ServiceDependency, caller: CallerDependency
) -> Response:
    """Classify texts with one variant of a task."""
    return await _infer(service, task, variant, request, caller)


async def _infer(service: ServingCore, task: str, variant: str | None, request: Request, caller: Caller) -> Response:
    asked, texts = read_request(await request.body(), request.headers.get(HEADER), service.settings.max_items)
    outputs = asked.outputs or [RequestedOutput(name=name) for name in OUTPUTS]
    for output in outputs:
        if output.name not in OUTPUTS:
            raise InvalidRequest(f"there is no output {output.name!r}; the outputs are {', '.join(OUTPUTS)}")
    if asked.parameters.timeout is not None:
        caller = caller.within(asked.parameters.timeout / 1e6)
    result = await answer(service, task, variant, _inputs(texts), caller, truncate=True)
    everything_binary = bool(asked.parameters.binary_data_output)
    binary = [
        output.name
        for output in outputs
        if (everything_binary if output.parameters.binary_data is None else output.parameters.binary_data)
    ]
    head = {
        "model_name": task,
        "model_version": result.engine.manifest.variant,
        **({"id": asked.id} if asked.id else {}),
    }
    content, headers = write_answer(head, [_output(result, output) for output in outputs], frozenset(binary))
    return Response(content, headers=headers)


def _inputs(texts: dict[str, list[str]]) -> list[TextInput]:
    if "text" not in texts or texts.keys() - {"text", "text_pair"}:
        raise InvalidRequest("send the input text, and text_pair for pairs of texts, and no other")
    pairs: Sequence[str | None] = texts.get("text_pair") or [None] * len(texts["text"])
    if len(pairs) != len(texts["text"]):
        raise InvalidRequest(f"text has {len(texts['text'])} elements and text_pair {len(pairs)}")
    return [TextInput(text=text, text_pair=pair) for text, pair in zip(texts["text"], pairs, strict=True)]


def _output(result: ClassifyResult, output: RequestedOutput) -> Tensor:
    rows, name = result.predictions, output.name
    if output.parameters.classification is not None:
        return _classified(result, name, output.parameters.classification)
    if name == "label":
        return Tensor(name=name, datatype="BYTES", shape=[len(rows)], data=[row[0].label for row in rows])
    if name == "score":
        return Tensor(name=name, datatype="FP32", shape=[len(rows)], data=[row[0].score for row in rows])
    labels = result.engine.manifest.labels
    by_label = [{one.label: one.score for one in row} for row in rows]
    scores = [row[label] for row in by_label for label in labels]
    return Tensor(name=name, datatype="FP32", shape=[len(rows), len(labels)], data=scores)


def _classified(result: ClassifyResult, name: str, count: int) -> Tensor:
    """The classification extension: "score:index:label"."""
    places = _places(result.engine)
    rows = [row[:count] for row in result.predictions]
    data = [f"{one.score:f}:{places[one.label]}:{one.label}" for row in rows for one in row]
    return Tensor(name=name, datatype="BYTES", shape=[len(rows), len(rows[0])], data=data)


def _places(engine: Engine) -> dict[str, int]:
    return {label: index for index, label in enumerate(engine.manifest.labels)}
