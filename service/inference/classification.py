"""Classify inputs with one engine: tokenise, batch, rank."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from sparserve.models.bundle.long_texts import TokenizedInput, all_windows, window_counts
from sparserve.models.bundle.windows import LongTexts, merge_windows
from sparserve.service.errors import InvalidRequest
from sparserve.service.inference.batcher import Batcher
from sparserve.service.inference.engine import Engine, Logits, scores
from sparserve.service.observability.request_record import RequestRecord, current_record
from sparserve.service.types import FunctionToApply, Prediction, RequestOptions, TextInput, Timings, Usage


@dataclass(slots=True)
class Classification:
    """Answer of one engine to one request; every protocol, metric and log line is derived from it.

    Attributes:
        tokens: those of each input, or of its windows.
        long_texts: the treatment of long texts.
        logits: `[inputs, labels]`; for an input of several windows those of its merged probabilities.
        scores: the same by the function of the task's problem type.
        inference_seconds: sum of the request's batches, which other requests may have shared.
        compute_seconds: the request's own part of them, by tokens.
        total_seconds: from the request's arrival to its last logits.
        warnings: reasons to doubt the answer, such as inputs of another kind than the training data.
    """

    engine: Engine
    tokens: list[TokenizedInput]
    long_texts: LongTexts
    logits: Logits
    scores: Logits
    queue_seconds: float
    tokenize_seconds: float
    inference_seconds: float
    compute_seconds: float
    total_seconds: float
    warnings: tuple[str, ...] = ()

    def usage(self) -> list[Usage]:
        """Return tokens, truncation and windows of each input."""
        counts = window_counts(self.tokens)
        return [Usage(len(item), item.truncated, count) for item, count in zip(self.tokens, counts, strict=True)]

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
    long_texts: LongTexts,
    tokens: list[TokenizedInput] | None = None,
    alone: bool = False,
    background: bool = False,
    arrived: float | None = None,
) -> Classification:
    """Tokenise the inputs, unless `tokens` are given, and run them; `alone` and `background` as in `Batcher.run`.

    Each window of a long text is admitted, batched and charged to the client like an input.

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
            batcher.check_early(len(inputs), deadline=options.deadline, client=options.client, weight=options.weight)
        tokens = await batcher.tokenizer_pool.tokenize(engine, inputs, long_texts=long_texts, deadline=options.deadline)
    tokenized = time.perf_counter()
    # Background work may outlive the request that started it.
    record = RequestRecord() if background else current_record()
    run = record.tokenized(engine.ref, [len(item) for item in tokens], started, tokenized)
    windows = all_windows(tokens)
    result = await batcher.run(
        engine,
        windows,
        deadline=options.deadline,
        alone=alone,
        background=background,
        client=options.client,
        weight=options.weight,
    )
    record.answered(run, tokenized, result.queue_seconds, time.perf_counter())
    logits, probabilities = result.logits, result.scores
    if len(windows) > len(tokens):
        problem_type = engine.manifest.problem_type
        logits = merge_windows(logits, window_counts(tokens), problem_type, long_texts.aggregate)
        probabilities = scores(logits, problem_type)
    warning = engine.input_mismatch(inputs)
    warnings = () if warning is None else (warning,)
    record.warnings.extend(warnings)
    return Classification(
        engine=engine,
        tokens=tokens,
        long_texts=long_texts,
        logits=logits,
        scores=probabilities,
        queue_seconds=result.queue_seconds,
        tokenize_seconds=tokenized - started,
        inference_seconds=result.inference_seconds,
        compute_seconds=result.compute_seconds,
        total_seconds=time.perf_counter() - arrived,
        warnings=warnings,
    )
