"""Classify inputs with one engine: tokenise, batch, rank."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from sparserve.models.bundle.text_tokenizer import Tokens
from sparserve.service.errors import InvalidRequest
from sparserve.service.inference.batcher import Batcher
from sparserve.service.inference.engine import Engine, Logits, scores
from sparserve.service.observability.request_record import RequestRecord, current_record
from sparserve.service.types import FunctionToApply, Prediction, RequestOptions, TextInput, Timings, Usage


@dataclass(slots=True)
class Classification:
    """Answer of one engine to one request; every protocol, metric and log line is derived from it.

    Attributes:
        logits: `[inputs, labels]`.
        scores: the same by the function of the task's problem type.
        inference_seconds: sum of the request's batches, which other requests may have shared.
        compute_seconds: the request's own part of them, by tokens.
        total_seconds: from the request's arrival to its last logits.
        warnings: reasons to doubt the answer, such as inputs of another kind than the training data.
    """

    engine: Engine
    tokens: list[Tokens]
    logits: Logits
    scores: Logits
    queue_seconds: float
    tokenize_seconds: float
    inference_seconds: float
    compute_seconds: float
    total_seconds: float
    warnings: tuple[str, ...] = ()

    def usage(self) -> list[Usage]:
        """Return tokens and truncation of each input."""
        return [Usage(tokens=len(item), truncated=item.truncated) for item in self.tokens]

    def timings(self) -> Timings:
        """Return the duration of each stage."""
        return Timings(
            queue_seconds=self.queue_seconds,
            tokenize_seconds=self.tokenize_seconds,
            inference_seconds=self.inference_seconds,
            total_seconds=self.total_seconds,
        )

    def predictions(
        self, *, top_k: int | None = None, function_to_apply: FunctionToApply | None = None
    ) -> list[list[Prediction]]:
        """Return the `top_k` best labels of each input (None: all), best first; ties keep the order of the labels.

        Raises:
            InvalidRequest: several labels are asked of a model with one score.
        """
        labels = self.engine.manifest.labels
        if len(labels) == 1 and top_k is not None and top_k > 1:
            raise InvalidRequest(
                f"top_k is {top_k}, but {self.engine.ref.task}/{self.engine.ref.variant} has one score for each input "
                "and no labels to choose from: leave top_k out, or send pairs to /v1/rerank"
            )
        values = self.scores
        if function_to_apply is not None:
            values = scores(self.logits, self.engine.manifest.problem_type, function_to_apply)
        return [[Prediction(labels[column], row[column]) for column in _best(row, top_k)] for row in values.tolist()]


def _best(row: list[float], top_k: int | None) -> list[int]:
    """Return the columns of the `top_k` highest values, highest first.

    numpy's sort is faster for many labels only, and lets another thread take the interpreter meanwhile.
    """
    if top_k == 1:
        return [row.index(max(row))]
    return sorted(range(len(row)), key=row.__getitem__, reverse=True)[:top_k]


async def classify(
    batcher: Batcher,
    engine: Engine,
    inputs: Sequence[TextInput],
    options: RequestOptions,
    *,
    truncate: bool,
    tokens: list[Tokens] | None = None,
    alone: bool = False,
    background: bool = False,
    arrived: float | None = None,
) -> Classification:
    """Tokenise the inputs, unless `tokens` are given, and run them; `alone` and `background` as in `Batcher.run`.

    Of the options it uses the deadline, the client and its weight.
    `arrived` is the request's arrival on the performance counter, by default now.

    Raises:
        InvalidRequest: an input cannot be tokenised as requested.
        TooLarge, Overloaded, DeadlineExceeded, InferenceFailed: as in `Batcher.run`.
    """
    started = time.perf_counter()
    arrived = started if arrived is None else arrived
    if tokens is None:
        if not background:
            batcher.check_early(
                engine, len(inputs), deadline=options.deadline, client=options.client, weight=options.weight
            )
        tokens = await batcher.tokenizer_pool.tokenize(engine, inputs, truncate=truncate, deadline=options.deadline)
    tokenized = time.perf_counter()
    # Background work may outlive the request that started it.
    record = RequestRecord() if background else current_record()
    run = record.tokenized(engine.ref, [len(item) for item in tokens], started, tokenized)
    result = await batcher.run(
        engine,
        tokens,
        deadline=options.deadline,
        alone=alone,
        background=background,
        client=options.client,
        weight=options.weight,
    )
    record.answered(run, tokenized, result.queue_seconds, time.perf_counter())
    warning = engine.input_mismatch(inputs)
    warnings = () if warning is None else (warning,)
    record.warnings.extend(warnings)
    return Classification(
        engine=engine,
        tokens=tokens,
        logits=result.logits,
        scores=result.scores,
        queue_seconds=result.queue_seconds,
        tokenize_seconds=tokenized - started,
        inference_seconds=result.inference_seconds,
        compute_seconds=result.compute_seconds,
        total_seconds=time.perf_counter() - arrived,
        warnings=warnings,
    )
