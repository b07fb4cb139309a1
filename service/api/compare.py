"""POST /v1/models/{task}/compare: the same texts through several variants."""

from fastapi import APIRouter
from starlette.responses import Response

from sparserve.service.api.schemas import CompareAnswer, CompareRequest
from sparserve.service.http.dependencies import OptionsDependency, ServiceDependency
from sparserve.service.http.json_route import DirectRoute, JsonAnswer
from sparserve.service.http.problems import problems

router = APIRouter(route_class=DirectRoute, tags=["compare"])
RESPONSES = problems(400, 404, 413, 415, 422, 429, 500, 503, 504)


@router.post("/v1/models/{task}/compare", response_model=CompareAnswer, responses=RESPONSES)
async def compare_variants(
    task: str, body: CompareRequest, service: ServiceDependency, options: OptionsDependency
) -> Response:
    """Run texts through several variants: predictions, agreement, differences and latency of each."""
    long_texts = body.long_texts(body.truncate)
    comparison = await service.compare(task, body.variants, body.inputs, options, long_texts=long_texts)
    answer = CompareAnswer(
        task=task,
        reference=comparison.reference.engine.manifest.variant,
        summary=comparison.summary(),
        variants=comparison.variant_summaries(),
        items=comparison.items(),
        timings=comparison.timings(),
        warnings=comparison.warnings,
    )
    absent = None if answer.warnings else {"warnings"}
    return JsonAnswer(answer.model_dump_json(exclude=absent).encode(), answer.timings)
