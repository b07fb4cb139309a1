"""POST /v1/models/{task}[/{variant}]/classify: labels and scores for texts."""

import time

from fastapi import APIRouter, Response

from service.classification import classify, ranked, server_timing, timings
from service.context import Service, ServiceDependency
from service.deadlines import DeadlineDependency
from service.errors import problems
from service.limits import JsonRoute, check_size
from service.schemas import ClassifyAnswer, ClassifyRequest

router = APIRouter(route_class=JsonRoute, tags=["classify"])
RESPONSES = problems(400, 404, 413, 415, 422, 429, 500, 503, 504)


@router.post("/v1/models/{task}/classify", responses=RESPONSES)
async def classify_with_default_variant(
    task: str, body: ClassifyRequest, service: ServiceDependency, deadline: DeadlineDependency, response: Response
) -> ClassifyAnswer:
    """Classify texts with a task's default variant."""
    return await _classify(service, task, None, body, deadline, response)


@router.post("/v1/models/{task}/{variant}/classify", responses=RESPONSES)
async def classify_with_variant(
    task: str,
    variant: str,
    body: ClassifyRequest,
    service: ServiceDependency,
    deadline: DeadlineDependency,
    response: Response,
) -> ClassifyAnswer:
    """Classify texts with one variant of a task."""
    return await _classify(service, task, variant, body, deadline, response)


async def _classify(
    service: Service,
    task: str,
    variant: str | None,
    body: ClassifyRequest,
    deadline: float | None,
    response: Response,
) -> ClassifyAnswer:
    arrived = time.perf_counter()
    engine = service.catalog.engine(task, variant)
    check_size(body.inputs, service.settings)
    answer = await classify(service.batcher, engine, body.inputs, truncate=body.truncate, deadline=deadline)
    manifest = engine.manifest
    predictions = ranked(
        answer.logits,
        manifest.labels,
        manifest.problem_type,
        top_k=body.top_k,
        function_to_apply=body.function_to_apply,
    )
    stages = timings(arrived, answer.queue_seconds, answer.tokenize_seconds, answer.inference_seconds)
    service.metrics.classified(engine.ref, answer.usage(), stages)
    response.headers["Server-Timing"] = server_timing(stages)
    return ClassifyAnswer(model=engine.ref, predictions=predictions, usage=answer.usage(), timings=stages)
