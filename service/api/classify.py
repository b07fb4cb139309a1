"""POST /v1/models/{task}[/{variant}]/classify: labels and scores for texts."""

from fastapi import APIRouter
from starlette.responses import Response

from sparserve.service.answers import answer
from sparserve.service.api.schemas import ClassifyAnswer, ClassifyRequest
from sparserve.service.core import ServingCore
from sparserve.service.http.dependencies import ServiceDependency
from sparserve.service.http.json_route import DirectRoute
from sparserve.service.http.problems import problems
from sparserve.service.http.request_options import Caller, CallerDependency
from sparserve.service.inference.classification import server_timing

router = APIRouter(route_class=DirectRoute, tags=["classify"])
RESPONSES = problems(400, 404, 413, 415, 422, 429, 500, 503, 504)


@router.post("/v1/models/{task}/classify", response_model=ClassifyAnswer, responses=RESPONSES)
async def classify_with_default_variant(
    task: str, body: ClassifyRequest, service: ServiceDependency, caller: CallerDependency
) -> Response:
    """Classify texts with a task's default variant."""
    return await _classify(service, task, None, body, caller)


@router.post("/v1/models/{task}/{variant}/classify", response_model=ClassifyAnswer, responses=RESPONSES)
async def classify_with_variant(
    task: str, variant: str, body: ClassifyRequest, service: ServiceDependency, caller: CallerDependency
) -> Response:
    """Classify texts with one variant of a task."""
    return await _classify(service, task, variant, body, caller)


async def _classify(
    service: ServingCore, task: str, variant: str | None, body: ClassifyRequest, caller: Caller
) -> Response:
    result = await answer(
        service,
        task,
        variant,
        body.inputs,
        caller,
        truncate=body.truncate,
        top_k=body.top_k,
        function_to_apply=body.function_to_apply,
    )
    found = ClassifyAnswer(
        model=result.engine.ref, predictions=result.predictions, usage=result.usage, timings=result.timings
    )
    # FastAPI would check its own service's answer once more, which takes longer than to write it.
    return Response(
        found.model_dump_json(),
        media_type="application/json",
        headers={"Server-Timing": server_timing(result.timings)},
    )
