"""POST /v1/models/{task}[/{variant}]/classify: labels and scores for texts."""

import orjson
from fastapi import APIRouter
from starlette.responses import Response

from sparserve.service.api.schemas import ClassifyAnswer, ClassifyRequest, ClassifyResult
from sparserve.service.core import ServingCore
from sparserve.service.http.dependencies import OptionsDependency, ServiceDependency
from sparserve.service.http.json_route import DirectRoute, JsonAnswer
from sparserve.service.http.problems import problems
from sparserve.service.types import RequestOptions

router = APIRouter(route_class=DirectRoute, tags=["classify"])
RESPONSES = problems(400, 404, 413, 415, 422, 429, 500, 503, 504)


@router.post("/v1/models/{task}/classify", response_model=ClassifyAnswer, responses=RESPONSES)
async def classify_with_default_variant(
    task: str, body: ClassifyRequest, service: ServiceDependency, options: OptionsDependency
) -> Response:
    """Classify texts with a task's default variant."""
    return await _classify(service, task, None, body, options)


@router.post("/v1/models/{task}/{variant}/classify", response_model=ClassifyAnswer, responses=RESPONSES)
async def classify_with_variant(
    task: str, variant: str, body: ClassifyRequest, service: ServiceDependency, options: OptionsDependency
) -> Response:
    """Classify texts with one variant of a task."""
    return await _classify(service, task, variant, body, options)


async def _classify(
    service: ServingCore, task: str, variant: str | None, body: ClassifyRequest, options: RequestOptions
) -> Response:
    long_texts = body.long_texts(body.truncate)
    result = await service.classify(task, variant, body.inputs, options, long_texts=long_texts)
    answer = ClassifyResult(
        model=result.engine.ref,
        predictions=result.predictions(top_k=body.top_k, function_to_apply=body.function_to_apply),
        usage=result.usage(),
        timings=result.timings(),
    )
    if result.warnings:
        answer = ClassifyAnswer(answer.model, answer.predictions, answer.usage, answer.timings, list(result.warnings))
    return JsonAnswer(orjson.dumps(answer), answer.timings)
