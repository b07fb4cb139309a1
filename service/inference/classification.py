"""From inputs to predictions with one engine: the work of a classify request."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparserve.models.bundle.inference import Tokens
from sparserve.service.inference.batcher import Batcher
from sparserve.service.inference.engine import Engine, Logits, scores
from sparserve.service.observability.request_record import RequestRecord, current_record
from sparserve.service.types import FunctionToApply, Prediction, TextInput, Timings, Usage


@dataclass(frozen=True)
class Classification:
    """The answer to one request: `logits` is `[inputs, labels]`; the seconds are as in `batcher.Answer`."""

    tokens: list[Tokens]
    logits: Logits
    queue_seconds: float
    tokenize_seconds: float
    inference_seconds: float
    compute_seconds: float

    def usage(self) -> list[Usage]:
        """Tokens and truncation of each input."""
        return [Usage(tokens=len(item), truncated=item.truncated) for item in self.tokens]


async def classify(
    batcher: Batcher,
    engine: Engine,
    inputs: Sequence[TextInput],
    *,
    truncate: bool,
    deadline: float | None = None,
    tokens: list[Tokens] | None = None,
    alone: bool = False,
    background: bool = False,
) -> Classification:
    """Tokenise, unless the tokens are known already, and let the batcher run them (`alone`, `background` as there).

    Raises:
        InvalidRequest: an input cannot be tokenised as asked.
        TooLarge, Overloaded, DeadlineExceeded, InferenceFailed: as `Batcher.run` does.
    """
    started = time.perf_counter()
    if tokens is None:
        if not background:
            batcher.check_room(len(inputs), len(inputs))  # whatever they say, they have a token each
        tokens = await batcher.tokenizing.tokens(engine, inputs, truncate=truncate, deadline=deadline)
    arrived = time.perf_counter()
    # What runs in the background may outlive the request that it was begun by.
    record = RequestRecord() if background else current_record()
    run = record.tokenized(engine.ref, [len(item) for item in tokens], started, arrived)
    answer = await batcher.run(engine, tokens, deadline=deadline, alone=alone, background=background)
    record.answered(run, arrived, answer.queue_seconds, time.perf_counter())
    return Classification(
        tokens,
        answer.logits,
        answer.queue_seconds,
        arrived - started,
        answer.inference_seconds,
        answer.compute_seconds,
    )


def ranked(
    logits: Logits,
    labels: Sequence[str],
    problem_type: str,
    *,
    top_k: int | None = None,
    function_to_apply: FunctionToApply | None = None,
) -> list[list[Prediction]]:
    """Labels with their scores, best first, for each row of `logits`; ties keep the order of the labels."""
    values = scores(logits, problem_type, function_to_apply)
    order = np.argsort(-values, axis=-1, kind="stable")[:, :top_k]
    return [
        [Prediction(label=labels[column], score=float(row[column])) for column in columns]
        for row, columns in zip(values, order, strict=True)
    ]


def timings(arrived: float, queue_seconds: float, tokenize_seconds: float, inference_seconds: float) -> Timings:
    """Stage timings of a request that arrived at `arrived` on the performance counter, as of now."""
    return Timings(
        queue_seconds=queue_seconds,
        tokenize_seconds=tokenize_seconds,
        inference_seconds=inference_seconds,
        total_seconds=time.perf_counter() - arrived,
    )


def server_timing(stages: Timings) -> str:
    """The Server-Timing header, in milliseconds as browsers want it."""
    return ", ".join(f"{name.removesuffix('_seconds')};dur={value * 1000:.3f}" for name, value in stages)
