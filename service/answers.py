"""One classify request, whatever protocol it came by: checked, run, ranked and counted."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from service.classification import classify, ranked, timings
from service.context import Service
from service.engine import Engine
from service.limits import check_size
from service.schemas import FunctionToApply, Prediction, TextInput, Timings, Usage


@dataclass(frozen=True)
class ClassifyResult:
    """What every protocol says in its own words: labels and scores of each input, best first."""

    engine: Engine
    predictions: list[list[Prediction]]
    usage: list[Usage]
    timings: Timings


async def answer(
    service: Service,
    engine: Engine,
    inputs: Sequence[TextInput],
    *,
    truncate: bool,
    deadline: float | None,
    top_k: int | None = None,
    function_to_apply: FunctionToApply | None = None,
) -> ClassifyResult:
    """Classify inputs with one engine; `top_k` None is all labels.

    Raises:
        TooLarge, InvalidRequest, Overloaded, DeadlineExceeded, InferenceFailed: as their docstrings say.
    """
    arrived = time.perf_counter()
    check_size(inputs, service.settings)
    done = await classify(service.batcher, engine, inputs, truncate=truncate, deadline=deadline)
    manifest = engine.manifest
    predictions = ranked(
        done.logits, manifest.labels, manifest.problem_type, top_k=top_k, function_to_apply=function_to_apply
    )
    stages = timings(arrived, done.queue_seconds, done.tokenize_seconds, done.inference_seconds)
    usage = done.usage()
    service.metrics.classified(engine.ref, usage, stages)
    return ClassifyResult(engine, predictions, usage, stages)
