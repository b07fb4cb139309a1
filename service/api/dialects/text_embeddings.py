"""text-embeddings-inference's protocol: /predict, /info and /health below /tei/{task}[/{variant}], its base URL.

At the root, /predict and /health serve a store of one task. One input gets one list of labels, a batch a list of lists.
A batch differs from a pair by its nesting: ["a", "b"] is one pair, [["a"], ["b"]] are two texts.
"""

from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BeforeValidator, ConfigDict, Field, ValidationInfo, WithJsonSchema
from starlette.responses import Response

from sparserve.service.api.dialects.model_name import parse_model_name
from sparserve.service.api.long_texts import LongTextFields
from sparserve.service.api.schemas import Body, check_item_count
from sparserve.service.core import ServingCore
from sparserve.service.errors import EmptyRequest, TooLarge, TooManyTokens, Unavailable
from sparserve.service.http.dependencies import OptionsDependency, ServiceDependency
from sparserve.service.http.json_route import DirectRoute
from sparserve.service.http.problems import problems
from sparserve.service.types import Prediction, RequestOptions, TextInput
from sparserve.service.version import VERSION

router = APIRouter(route_class=DirectRoute, tags=["text-embeddings-inference"])
RESPONSES = problems(400, 404, 413, 415, 422, 429, 500, 503, 504)

_TEXTS: dict[str, Any] = {"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "string", "minLength": 1}}
_SCHEMA: dict[str, Any] = {
    "description": "a text, a pair as [a, b], or a batch as [[text], [a, b], ...]",
    "anyOf": [{"type": "string", "minLength": 1}, _TEXTS, {"type": "array", "minItems": 1, "items": _TEXTS}],
}


def _check_inputs(value: Any, info: ValidationInfo) -> Any:
    """Refuse values that are no inputs. Empty texts are checked later: they have another status."""
    rows = value if isinstance(value, list) and any(isinstance(row, list) for row in value) else [value]
    check_item_count(rows, info)
    for position, row in enumerate(rows):
        texts = [row] if isinstance(row, str) else row
        if not isinstance(texts, list) or len(texts) > 2 or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"input {position} is neither a text nor a list of one text or a pair")
        for text in texts:
            try:
                text.encode()
            except UnicodeEncodeError:
                raise ValueError(f"input {position} has a lone surrogate: send valid Unicode") from None
    return value


class PredictRequest(Body, LongTextFields):
    """Texts to classify."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": "a warm, funny, engaging film"}]})

    inputs: Annotated[Any, BeforeValidator(_check_inputs), WithJsonSchema(_SCHEMA)]
    truncate: bool | None = Field(None, description="true cuts texts with more tokens than the model takes; false: 413")
    truncation_direction: Literal["Right", "right"] = Field("Right", description="only the end of a text can be cut")
    raw_scores: bool = Field(False, description="return logits instead of scores")


Answer = list[Prediction] | list[list[Prediction]]


@router.post("/predict", responses=RESPONSES)
async def predict(body: PredictRequest, service: ServiceDependency, options: OptionsDependency) -> Answer:
    """Classify texts with the only task's default variant."""
    task, _ = parse_model_name(service, None, way_out="send to /tei/TASK/predict")
    return await _predict(service, task, None, body, options)


@router.post("/tei/{task}/predict", responses=RESPONSES)
async def predict_with_default_variant(
    task: str, body: PredictRequest, service: ServiceDependency, options: OptionsDependency
) -> Answer:
    """Classify texts with a task's default variant."""
    return await _predict(service, task, None, body, options)


@router.post("/tei/{task}/{variant}/predict", responses=RESPONSES)
async def predict_with_variant(
    task: str, variant: str, body: PredictRequest, service: ServiceDependency, options: OptionsDependency
) -> Answer:
    """Classify texts with one variant of a task."""
    return await _predict(service, task, variant, body, options)


@router.get("/tei/{task}/info", responses=problems(404, 503))
async def info_of_default_variant(task: str, service: ServiceDependency) -> dict[str, Any]:
    """Description of the model, in text-embeddings-inference's format."""
    return _info(service, task, None)


@router.get("/tei/{task}/{variant}/info", responses=problems(404, 503))
async def info_of_variant(task: str, variant: str, service: ServiceDependency) -> dict[str, Any]:
    """Description of the model, in text-embeddings-inference's format."""
    return _info(service, task, variant)


@router.get("/health", response_class=Response, responses=problems(503))
async def health(service: ServiceDependency) -> Response:
    """Readiness of every task's default variant."""
    if reason := service.reason_not_ready():
        raise Unavailable(reason)
    return Response()


@router.get("/tei/{task}/health", response_class=Response, responses=problems(404, 503))
async def health_of_default_variant(task: str, service: ServiceDependency) -> Response:
    """Readiness of the task's default variant."""
    service.catalog.engine(task).check_health()
    return Response()


@router.get("/tei/{task}/{variant}/health", response_class=Response, responses=problems(404, 503))
async def health_of_variant(task: str, variant: str, service: ServiceDependency) -> Response:
    """Readiness of the variant."""
    service.catalog.engine(task, variant).check_health()
    return Response()


async def _predict(
    service: ServingCore, task: str, variant: str | None, body: PredictRequest, options: RequestOptions
) -> Answer:
    batch = isinstance(body.inputs, list) and any(isinstance(row, list) for row in body.inputs)
    rows = body.inputs if batch else [body.inputs]
    inputs = [_input(row, position) for position, row in enumerate(rows)]
    try:
        long_texts = body.long_texts(body.truncate, fallback="error")
        result = await service.classify(task, variant, inputs, options, long_texts=long_texts)
    except TooManyTokens as error:
        raise TooLarge(str(error)) from error
    predictions = result.predictions(function_to_apply="none" if body.raw_scores else None)
    return predictions if batch else predictions[0]


def _input(row: str | list[str], position: int) -> TextInput:
    texts = [row] if isinstance(row, str) else row
    if not texts or not all(texts):
        raise EmptyRequest(f"input {position} is empty: send a text")
    return TextInput(text=texts[0], text_pair=texts[1] if len(texts) > 1 else None)


def _info(service: ServingCore, task: str, variant: str | None) -> dict[str, Any]:
    engine, settings = service.catalog.engine(task, variant), service.settings
    labels = engine.manifest.labels
    return {
        "model_id": f"{task}/{engine.manifest.variant}",
        "model_sha": engine.manifest.version,
        "model_dtype": "int8" if engine.manifest.precision == "int8" else "float32",
        "model_type": {
            "reranker" if engine.manifest.one_score else "classifier": {
                "id2label": {str(index): label for index, label in enumerate(labels)},
                "label2id": {label: index for index, label in enumerate(labels)},
            }
        },
        "max_concurrent_requests": settings.max_waiting_inputs,
        "max_input_length": engine.manifest.max_length,
        "max_batch_tokens": settings.max_batch_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": settings.max_items,
        "auto_truncate": engine.manifest.long_texts is not None and engine.manifest.long_texts.overlong == "truncate",
        "tokenization_workers": 1,
        "version": VERSION,
    }
