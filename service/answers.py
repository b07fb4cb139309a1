"""One classify request, whatever protocol it came by: checked, run, ranked and counted."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from sparserve.service.core import ServingCore
from sparserve.service.errors import InferenceFailed
from sparserve.service.experiments.traffic import Route
from sparserve.service.http.request_options import Caller
from sparserve.service.inference.classification import classify, ranked, timings
from sparserve.service.inference.engine import Engine
from sparserve.service.limits import check_size
from sparserve.service.types import FunctionToApply, Prediction, TextInput, Timings, Usage


@dataclass(frozen=True)
class ClassifyResult:
    """What every protocol says in its own words: labels and scores of each input, best first."""

    engine: Engine
    predictions: list[list[Prediction]]
    usage: list[Usage]
    timings: Timings


async def answer(
    service: ServingCore,
    task: str,
    variant: str | None,
    inputs: Sequence[TextInput],
    caller: Caller,
    *,
    truncate: bool,
    top_k: int | None = None,
    function_to_apply: FunctionToApply | None = None,
) -> ClassifyResult:
    """Classify inputs; `top_k` None is all labels.

    Without a variant the task's default answers, or, for a share of the requests, the candidate of its experiment.

    Raises:
        UnknownResource, Unavailable, TooLarge, InvalidRequest, Overloaded, DeadlineExceeded, InferenceFailed: as their
            docstrings say.
    """
    arrived = time.perf_counter()
    if variant is None:
        route = service.experiments.route(task, caller.routing_key)
    else:
        route = Route(service.catalog.engine(task, variant))
    engine = route.engine
    check_size(inputs, max_items=service.settings.max_items, max_characters=service.settings.max_characters)
    try:
        done = await classify(service.batcher, engine, inputs, truncate=truncate, deadline=caller.deadline)
        service.experiments.compare(task, route, inputs, done, caller.request_id)
    except InferenceFailed:
        default = service.experiments.not_answered(task, route)
        if default is None:
            raise
        engine = default
        done = await classify(service.batcher, engine, inputs, truncate=truncate, deadline=caller.deadline)
    manifest = engine.manifest
    predictions = ranked(
        done.logits, manifest.labels, manifest.problem_type, top_k=top_k, function_to_apply=function_to_apply
    )
    stages = timings(arrived, done.queue_seconds, done.tokenize_seconds, done.inference_seconds)
    usage = done.usage()
    service.metrics.classified(engine.ref, usage, stages)
    return ClassifyResult(engine, predictions, usage, stages)
