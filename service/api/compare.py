"""POST /v1/models/{task}/compare: the same texts through several variants."""

import time

from fastapi import APIRouter
from starlette.responses import Response

from sparserve.service.api.schemas import CompareAnswer, CompareRequest
from sparserve.service.catalog.catalog import Catalog
from sparserve.service.errors import InvalidRequest
from sparserve.service.experiments.comparison import compare
from sparserve.service.http.dependencies import ServiceDependency
from sparserve.service.http.json_route import DirectRoute
from sparserve.service.http.problems import problems
from sparserve.service.http.request_options import CallerDependency
from sparserve.service.inference.classification import server_timing, timings
from sparserve.service.inference.engine import Engine
from sparserve.service.limits import check_size

router = APIRouter(route_class=DirectRoute, tags=["compare"])
RESPONSES = problems(400, 404, 413, 415, 422, 429, 500, 503, 504)
REFERENCE = "dense"


@router.post("/v1/models/{task}/compare", response_model=CompareAnswer, responses=RESPONSES)
async def compare_variants(
    task: str, body: CompareRequest, service: ServiceDependency, caller: CallerDependency
) -> Response:
    """Run texts through several variants: predictions, agreement, differences and latency of each."""
    arrived = time.perf_counter()
    engines = chosen_engines(service.catalog, task, body.variants)
    check_size(body.inputs, max_items=service.settings.max_items, max_characters=service.settings.max_characters)
    comparison = await compare(service.batcher, engines, body.inputs, truncate=body.truncate, deadline=caller.deadline)
    answers = [arm.answer for arm in comparison.arms]
    stages = timings(
        arrived,
        sum(answer.queue_seconds for answer in answers),
        sum(answer.tokenize_seconds for answer in answers),
        sum(answer.inference_seconds for answer in answers),
    )
    for arm in comparison.arms:
        own = arm.answer
        seconds = timings(arrived, own.queue_seconds, own.tokenize_seconds, own.inference_seconds)
        service.metrics.classified(arm.engine.ref, arm.answer.usage(), seconds)
    found = CompareAnswer(
        task=task,
        reference=comparison.reference.engine.manifest.variant,
        summary=comparison.summary(),
        variants=comparison.variants(),
        items=comparison.items(),
        timings=stages,
    )
    return Response(
        found.model_dump_json(), media_type="application/json", headers={"Server-Timing": server_timing(stages)}
    )


def chosen_engines(catalog: Catalog, task: str, variants: list[str] | None) -> list[Engine]:
    """The engines to compare, the reference first.

    By default `dense` and the task's default variant; where that is `dense` itself, every other variant.

    Raises:
        UnknownResource: there is no such task or variant.
        Unavailable: one of them does not serve.
        InvalidRequest: a variant is named twice, or the task has only one.
    """
    if variants is not None:
        if len(set(variants)) != len(variants):
            raise InvalidRequest("variants: each may be named once")
        return [catalog.engine(task, variant) for variant in variants]
    default = catalog.engine(task)
    contents = catalog.contents
    names = contents.variants(task)
    reference = catalog.engine(task, REFERENCE) if REFERENCE in names else default
    if default is not reference:
        return [reference, default]
    others = [contents.engines[task, name] for name in names if (task, name) in contents.engines]
    others = [engine for engine in others if engine is not reference]
    if not others:
        raise InvalidRequest(f"task {task!r} serves only {reference.manifest.variant}: publish another variant first")
    return [reference, *others]
