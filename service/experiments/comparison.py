"""Comparison of several variants of a task on the same inputs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from sparserve.models.bundle.long_texts import TokenizedInput, window_counts
from sparserve.service.errors import InvalidRequest
from sparserve.service.experiments.agreement import same_prediction
from sparserve.service.inference.batcher import Batcher
from sparserve.service.inference.classification import Classification, classify
from sparserve.service.inference.engine import Engine, Logits, scores
from sparserve.service.types import LongTextOptions, ModelRef, Prediction, RequestOptions, TextInput, Timings


@dataclass(frozen=True, slots=True)
class VariantPrediction(Prediction):
    """The prediction of one variant for one input."""

    scores: Annotated[dict[str, float], Field(description="every label's score")]


class ItemComparison(BaseModel):
    """One input through every variant."""

    predictions: dict[str, VariantPrediction] = Field(description="by variant")
    agree: bool | None = Field(description="true if all variants predict the same; null for a regression")
    max_difference: float = Field(description="largest difference of a label's score between two variants")
    tokens: int = Field(description="of all windows")
    truncated: bool
    windows: int = Field(description="windows that the text was split into; 1 if it was not")


class VariantSummary(BaseModel):
    """One variant of a comparison against the reference."""

    model: ModelRef
    reference: bool
    inference_seconds: float
    seconds_per_item: float
    latency_ratio: float = Field(description="the reference's inference seconds divided by this variant's")
    agreement: float | None = Field(description="fraction of inputs with the reference's prediction")
    mean_difference: float = Field(description="mean over inputs of the largest score difference from the reference")
    max_difference: float


class ComparisonSummary(BaseModel):
    """A comparison in one line."""

    items: int
    agreement: float | None = Field(description="fraction of inputs on which all variants agree")
    mean_difference: float
    max_difference: float
    latency_ratio: float = Field(description="the reference's inference seconds divided by the fastest other variant's")


@dataclass(frozen=True)
class ComparedVariant:
    """The answer of one variant. `scores` is `[inputs, labels]`, with the labels in the order of the reference."""

    engine: Engine
    answer: Classification
    scores: Logits

    @classmethod
    def of(cls, engine: Engine, answer: Classification, labels: Sequence[str]) -> Self:
        """Return an answer with its scores in the order of `labels`, a permutation of the engine's labels."""
        columns = [engine.manifest.labels.index(label) for label in labels]
        return cls(engine, answer, scores(answer.logits, engine.manifest.problem_type)[:, columns])

    @property
    def seconds_per_input(self) -> float:
        """Compute time per input; of batches shared with other requests, only this request's share."""
        return self.answer.compute_seconds / len(self.answer.tokens)


@dataclass(frozen=True)
class Comparison:
    """The answers of all variants. The first one is the reference."""

    variants: list[ComparedVariant]
    total_seconds: float

    @property
    def reference(self) -> ComparedVariant:
        """The variant that the others are compared with."""
        return self.variants[0]

    @property
    def warnings(self) -> list[str]:
        """Reasons to doubt the answers of some variants."""
        return [warning for one in self.variants for warning in one.answer.warnings]

    def timings(self) -> Timings:
        """Return the duration of each stage, summed over the variants."""
        answers = [one.answer for one in self.variants]
        return Timings(
            queue_seconds=sum(answer.queue_seconds for answer in answers),
            tokenize_seconds=sum(answer.tokenize_seconds for answer in answers),
            inference_seconds=sum(answer.inference_seconds for answer in answers),
            total_seconds=self.total_seconds,
        )

    def items(self) -> list[ItemComparison]:
        """Return the predictions, the agreement and the largest score difference for each input."""
        agree, differences = self._all_agree(), self._spread()
        windows = window_counts(self.reference.answer.tokens)
        return [
            ItemComparison(
                predictions={one.engine.manifest.variant: self._prediction(one, row) for one in self.variants},
                agree=None if agree is None else bool(agree[row]),
                max_difference=float(differences[row]),
                tokens=len(tokens),
                truncated=any(one.answer.tokens[row].truncated for one in self.variants),
                windows=windows[row],
            )
            for row, tokens in enumerate(self.reference.answer.tokens)
        ]

    def variant_summaries(self) -> list[VariantSummary]:
        """Return the comparison of each variant with the reference."""
        return [self._summary_of(one) for one in self.variants]

    def summary(self) -> ComparisonSummary:
        """Return the figures of the whole comparison."""
        agree, differences = self._all_agree(), self._spread()
        return ComparisonSummary(
            items=len(differences),
            agreement=None if agree is None else float(agree.mean()),
            mean_difference=float(differences.mean()),
            max_difference=float(differences.max()),
            latency_ratio=max(self._latency_ratio(one) for one in self.variants[1:]),
        )

    def _summary_of(self, compared: ComparedVariant) -> VariantSummary:
        differences = np.abs(compared.scores - self.reference.scores).max(axis=-1)
        agree = self._agree(compared, self.reference)
        seconds = compared.answer.inference_seconds
        return VariantSummary(
            model=compared.engine.ref,
            reference=compared is self.reference,
            inference_seconds=seconds,
            seconds_per_item=seconds / len(compared.answer.tokens),
            latency_ratio=self._latency_ratio(compared),
            agreement=None if agree is None else float(agree.mean()),
            mean_difference=float(differences.mean()),
            max_difference=float(differences.max()),
        )

    def _prediction(self, compared: ComparedVariant, row: int) -> VariantPrediction:
        labels = self.reference.engine.manifest.labels
        values = compared.scores[row]
        best = int(values.argmax())
        scores_by_label = {label: float(value) for label, value in zip(labels, values, strict=True)}
        return VariantPrediction(label=labels[best], score=float(values[best]), scores=scores_by_label)

    def _agree(self, first: ComparedVariant, second: ComparedVariant) -> npt.NDArray[np.bool_] | None:
        return same_prediction(self.reference.engine.manifest.problem_type, first.scores, second.scores)

    def _all_agree(self) -> npt.NDArray[np.bool_] | None:
        pairs = [self._agree(first, second) for first, second in combinations(self.variants, 2)]
        known = [pair for pair in pairs if pair is not None]
        return np.logical_and.reduce(known) if known else None

    def _spread(self) -> Logits:
        values = np.stack([one.scores for one in self.variants])
        spread: Logits = (values.max(axis=0) - values.min(axis=0)).max(axis=-1)
        return spread

    def _latency_ratio(self, compared: ComparedVariant) -> float:
        return self.reference.answer.inference_seconds / max(compared.answer.inference_seconds, 1e-9)


async def compare(
    batcher: Batcher,
    engines: Sequence[Engine],
    inputs: Sequence[TextInput],
    options: RequestOptions,
    *,
    long_texts: LongTextOptions,
) -> Comparison:
    """Run the inputs through every engine. Engines with the same tokenizer get the same tokens.

    Long texts are treated as the request or the first engine's bundle says, for all engines.

    The engines run one after the other, in separate batches, so that their times are comparable.

    Raises:
        InvalidRequest: the variants have different labels, or an input cannot be tokenised as requested.
        TooLarge, Overloaded, DeadlineExceeded, InferenceFailed: as in `Batcher.run`.
    """
    started = time.perf_counter()
    labels = engines[0].manifest.labels
    for engine in engines[1:]:
        if set(engine.manifest.labels) != set(labels):
            first, other = engines[0].manifest.variant, engine.manifest.variant
            raise InvalidRequest(f"{first} and {other} have different labels, so they cannot be compared")
    treatment = engines[0].long_texts(long_texts)
    tokenized: dict[tuple[str, int, bool], list[TokenizedInput]] = {}
    variants = []
    for engine in engines:
        known = tokenized.get(engine.tokenization)
        answer = await classify(batcher, engine, inputs, options, long_texts=treatment, tokens=known, alone=True)
        tokenized[engine.tokenization] = answer.tokens
        variants.append(ComparedVariant.of(engine, answer, labels))
    return Comparison(variants, time.perf_counter() - started)
