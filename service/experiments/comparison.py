"""The same inputs through several variants of a task, and how far their answers are apart."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from sparserve.models.bundle.inference import Tokens
from sparserve.service.errors import InvalidRequest
from sparserve.service.experiments.agreement import agreeing
from sparserve.service.inference.batcher import Batcher
from sparserve.service.inference.classification import Classification, classify
from sparserve.service.inference.engine import Engine, Logits, scores
from sparserve.service.types import ModelRef, Prediction, TextInput, Timings


class VariantPrediction(Prediction):
    """What one variant says of one input."""

    scores: dict[str, float] = Field(description="every label's score")


class ItemComparison(BaseModel):
    """One input through every variant."""

    predictions: dict[str, VariantPrediction] = Field(description="by variant")
    agree: bool | None = Field(description="whether all variants predict the same; null for a regression")
    max_difference: float = Field(description="largest difference of a label's score between two variants")
    tokens: int
    truncated: bool


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
class Arm:
    """One variant's answer: `scores` is `[inputs, labels]`, columns in the reference's order of labels."""

    engine: Engine
    answer: Classification
    scores: Logits

    @classmethod
    def of(cls, engine: Engine, answer: Classification, labels: Sequence[str]) -> Self:
        """An answer with its scores, columns in the order of `labels`, which are the engine's own in any order."""
        columns = [engine.manifest.labels.index(label) for label in labels]
        return cls(engine, answer, scores(answer.logits, engine.manifest.problem_type)[:, columns])

    @property
    def seconds_per_input(self) -> float:
        """Compute time of an input: of batches that other requests had a part in, its own part."""
        return self.answer.compute_seconds / len(self.answer.tokens)


@dataclass(frozen=True)
class Comparison:
    """The answers of all variants; the first is the reference."""

    arms: list[Arm]
    total_seconds: float

    @property
    def reference(self) -> Arm:
        """What the others are compared with."""
        return self.arms[0]

    def timings(self) -> Timings:
        """Return the duration of each stage, summed over the variants."""
        answers = [arm.answer for arm in self.arms]
        return Timings(
            queue_seconds=sum(answer.queue_seconds for answer in answers),
            tokenize_seconds=sum(answer.tokenize_seconds for answer in answers),
            inference_seconds=sum(answer.inference_seconds for answer in answers),
            total_seconds=self.total_seconds,
        )

    def items(self) -> list[ItemComparison]:
        """Each input's predictions, agreement and largest difference."""
        agree, differences = self._all_agree(), self._spread()
        return [
            ItemComparison(
                predictions={arm.engine.manifest.variant: self._prediction(arm, row) for arm in self.arms},
                agree=None if agree is None else bool(agree[row]),
                max_difference=float(differences[row]),
                tokens=len(tokens),
                truncated=any(arm.answer.tokens[row].truncated for arm in self.arms),
            )
            for row, tokens in enumerate(self.reference.answer.tokens)
        ]

    def variants(self) -> list[VariantSummary]:
        """Each variant against the reference."""
        return [self._variant(arm) for arm in self.arms]

    def summary(self) -> ComparisonSummary:
        """All of it in one line."""
        agree, differences = self._all_agree(), self._spread()
        return ComparisonSummary(
            items=len(differences),
            agreement=None if agree is None else float(agree.mean()),
            mean_difference=float(differences.mean()),
            max_difference=float(differences.max()),
            latency_ratio=max(self._latency_ratio(arm) for arm in self.arms[1:]),
        )

    def _variant(self, arm: Arm) -> VariantSummary:
        differences = np.abs(arm.scores - self.reference.scores).max(axis=-1)
        agree = self._agree(arm, self.reference)
        seconds = arm.answer.inference_seconds
        return VariantSummary(
            model=arm.engine.ref,
            reference=arm is self.reference,
            inference_seconds=seconds,
            seconds_per_item=seconds / len(arm.answer.tokens),
            latency_ratio=self._latency_ratio(arm),
            agreement=None if agree is None else float(agree.mean()),
            mean_difference=float(differences.mean()),
            max_difference=float(differences.max()),
        )

    def _prediction(self, arm: Arm, row: int) -> VariantPrediction:
        labels = self.reference.engine.manifest.labels
        values = arm.scores[row]
        best = int(values.argmax())
        every = {label: float(value) for label, value in zip(labels, values, strict=True)}
        return VariantPrediction(label=labels[best], score=float(values[best]), scores=every)

    def _agree(self, one: Arm, other: Arm) -> npt.NDArray[np.bool_] | None:
        return agreeing(self.reference.engine.manifest.problem_type, one.scores, other.scores)

    def _all_agree(self) -> npt.NDArray[np.bool_] | None:
        pairs = [self._agree(one, other) for one, other in combinations(self.arms, 2)]
        known = [pair for pair in pairs if pair is not None]
        return np.logical_and.reduce(known) if known else None

    def _spread(self) -> Logits:
        values = np.stack([arm.scores for arm in self.arms])
        spread: Logits = (values.max(axis=0) - values.min(axis=0)).max(axis=-1)
        return spread

    def _latency_ratio(self, arm: Arm) -> float:
        return self.reference.answer.inference_seconds / max(arm.answer.inference_seconds, 1e-9)


async def compare(
    batcher: Batcher,
    engines: Sequence[Engine],
    inputs: Sequence[TextInput],
    *,
    truncate: bool,
    deadline: float | None = None,
) -> Comparison:
    """Run the inputs through every engine; those with the same tokenizer get the very same tokens.

    One engine after the other, and in batches of their own, so that their times can be compared.

    Raises:
        InvalidRequest: the variants have different labels, or an input cannot be tokenised as asked.
        TooLarge, Overloaded, DeadlineExceeded, InferenceFailed: as `Batcher.run` does.
    """
    started = time.perf_counter()
    labels = engines[0].manifest.labels
    for engine in engines[1:]:
        if set(engine.manifest.labels) != set(labels):
            first, other = engines[0].manifest.variant, engine.manifest.variant
            raise InvalidRequest(f"{first} and {other} have different labels, so they cannot be compared")
    tokenized: dict[tuple[str, int], list[Tokens]] = {}
    arms = []
    for engine in engines:
        known = tokenized.get(engine.tokenization)
        answer = await classify(batcher, engine, inputs, truncate=truncate, deadline=deadline, tokens=known, alone=True)
        tokenized[engine.tokenization] = answer.tokens
        arms.append(Arm.of(engine, answer, labels))
    return Comparison(arms, time.perf_counter() - started)
