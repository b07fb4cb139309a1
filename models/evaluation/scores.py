"""Scores of logits: accuracy, F1 and MCC with confidence intervals, calibration, and agreement with a reference.

Intervals are 95 % percentile bootstrap intervals (Efron & Tibshirani 1993, chapter 13). Resampling rows with
replacement draws the counts of their distinct outcomes from a multinomial distribution, and the scores depend on these
counts only. So the counts are drawn instead of rows: this is exact, fast, and independent of the order of rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from sparserve.models.bundle.inference import probabilities
from sparserve.models.bundle.manifest import Agreement, ClassFigures, Evaluation, Interval, LostExample, ProblemType
from sparserve.models.errors import TrainingError

CONFIDENCE = 0.95
SIGNIFICANCE = 0.05  # largest p of a difference that is called significant
CALIBRATION_BINS = 15
THRESHOLD = 0.5
MAX_EXAMPLE_CHARACTERS = 300
DECIMALS = 6
# Limits the memory of a block of resamples to about 30 MB for test splits of any size.
_CELLS_PER_BLOCK = 4_000_000

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Figures = dict[str, Floats]


def evaluate(
    logits: npt.NDArray[np.float32],
    labels: npt.NDArray[np.integer],
    *,
    label_names: Sequence[str],
    problem_type: ProblemType,
    bootstrap_samples: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Return the scores of a classifier on a test split, rounded to six decimals.

    `logits` is [rows, labels]. `labels` is [rows] with the index of each row's label, or for multi-label tasks
    [rows, labels] of 0 and 1; then a label is predicted if its probability is above 0.5. Macro F1 is the mean over the
    labels that occur in the truth or in the predictions, 0 if there are none. The same input and seed give the same
    scores.

    Raises:
        ValueError: the shapes do not match, there are no rows, or the task is a regression.
        TrainingError: a logit is not a finite number.
    """
    truth, predicted = decisions(logits, labels, len(label_names), problem_type)
    single = problem_type == "single_label_classification"

    def figures(weights: Floats, outcomes: Bools) -> Figures:
        return _figures(weights, *np.split(outcomes, 2, axis=1), single=single)

    intervals = _bootstrap(figures, np.hstack([truth, predicted]), bootstrap_samples, seed)
    return Evaluation(
        rows=len(truth),
        accuracy=intervals["accuracy"],
        macro_f1=intervals["macro_f1"],
        mcc=intervals["mcc"],
        calibration_error=calibration_error(logits, truth, problem_type),
        per_class=_per_class(truth, predicted, label_names),
    )


def compare_with_reference(
    evaluation: Evaluation,
    logits: npt.NDArray[np.float32],
    reference_logits: npt.NDArray[np.float32],
    labels: npt.NDArray[np.integer],
    *,
    texts: Sequence[str],
    text_pairs: Sequence[str | None] | None = None,
    label_names: Sequence[str],
    problem_type: ProblemType,
    reference_version: str,
    bootstrap_samples: int = 1000,
    seed: int = 0,
    examples: int = 20,
) -> Evaluation:
    """Return `evaluation` with its `agreement`: this model against a reference on the same rows.

    `logits` and `reference_logits` are [rows, labels], `texts` and `text_pairs` [rows]. The interval of the accuracy
    kept is a paired bootstrap: both models are scored on the same resample. A reference that is never right counts as
    right once, so that the ratio exists. McNemar's test (1947) is the exact binomial test. At most `examples` rows
    that the reference gets right and this model gets wrong are kept, the most confident errors first.

    Raises:
        ValueError: the shapes do not match, or the task is a regression.
        TrainingError: a logit is not a finite number.
    """
    truth, predicted = decisions(logits, labels, len(label_names), problem_type)
    _, reference = decisions(reference_logits, labels, len(label_names), problem_type)
    if len(texts) != len(truth) or (text_pairs is not None and len(text_pairs) != len(truth)):
        raise ValueError(f"there are {len(truth)} rows of logits, but {len(texts)} texts")

    intervals = _bootstrap(_paired_figures, np.hstack([truth, predicted, reference]), bootstrap_samples, seed)
    this_right = (truth == predicted).all(axis=1)
    reference_right = (truth == reference).all(axis=1)
    lost = reference_right & ~this_right
    won = this_right & ~reference_right
    certainty = _certainty_of_errors(logits, truth, predicted, problem_type)
    rows = sorted(np.flatnonzero(lost).tolist(), key=lambda row: (-certainty[row], row))
    agreement = Agreement(
        reference=reference_version,
        agreement=intervals["agreement"],
        accuracy_kept=intervals["accuracy_kept"],
        mcnemar_p=mcnemar_p(int(lost.sum()), int(won.sum())),
        only_reference_right=int(lost.sum()),
        only_this_right=int(won.sum()),
        lost=tuple(
            LostExample(
                text=shorten(texts[row]),
                text_pair=_shorten_pair(text_pairs, row),
                expected=_names(truth[row], label_names),
                predicted=_names(predicted[row], label_names),
                probability=round(float(certainty[row]), DECIMALS),
            )
            for row in rows[:examples]
        ),
    )
    return evaluation.model_copy(update={"agreement": agreement})


@dataclass(frozen=True)
class PairedComparison:
    """A model against a reference on the same rows, by the exact McNemar test (1947)."""

    only_reference_right: int
    only_this_right: int
    p: float

    @property
    def is_worse(self) -> bool:
        """True if the model gets fewer rows right and the difference is significant."""
        return self.only_this_right < self.only_reference_right and self.p < SIGNIFICANCE


def paired_comparison(
    logits: npt.NDArray[np.float32],
    reference_logits: npt.NDArray[np.float32],
    labels: npt.NDArray[np.integer],
    problem_type: ProblemType,
) -> PairedComparison:
    """Compare the predictions of two models, both [rows, labels], on the same rows.

    Raises:
        ValueError: the shapes do not fit, or the task is a regression.
        TrainingError: a logit is not a finite number.
    """
    truth, predicted = decisions(logits, labels, logits.shape[1], problem_type)
    _, reference = decisions(reference_logits, labels, logits.shape[1], problem_type)
    this_right, reference_right = (truth == predicted).all(axis=1), (truth == reference).all(axis=1)
    lost, won = int((reference_right & ~this_right).sum()), int((this_right & ~reference_right).sum())
    return PairedComparison(lost, won, mcnemar_p(lost, won))


def mcnemar_p(only_reference_right: int, only_this_right: int) -> float:
    """Return the p-value of the two-sided exact McNemar test, from the rows that only one of two models gets right.

    It has six significant digits, and is 1 if both models have the same errors.
    """
    discordant = only_reference_right + only_this_right
    if discordant == 0:
        return 1.0
    # The smaller count, so that the rounding of this symmetric test is symmetric, too.
    p = binomtest(min(only_reference_right, only_this_right), discordant, 0.5).pvalue
    return float(f"{min(p, 1.0):.6g}")


def calibration_error(logits: npt.NDArray[np.float32], truth: Bools, problem_type: ProblemType) -> float:
    """Return the expected calibration error with 15 equal-width bins (Guo et al. 2017, arXiv 1706.04599, equation 3).

    `logits` and `truth` are [rows, labels]. Single-label tasks compare the highest probability with the frequency of
    correct predictions; multi-label tasks compare the probability of every label with the frequency of the label.
    """
    scores = probabilities(logits, problem_type).astype(np.float64)
    if problem_type == "single_label_classification":
        top = scores.argmax(axis=1)
        rows = np.arange(len(scores))
        confidence, hit = scores[rows, top], truth[rows, top]
    else:
        confidence, hit = scores.ravel(), truth.ravel()
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=confidence - hit, minlength=CALIBRATION_BINS)
    return round(float(np.abs(gaps).sum() / len(confidence)), DECIMALS)


def shorten(text: str, limit: int = MAX_EXAMPLE_CHARACTERS) -> str:
    """Return at most `limit` characters of a text, ending in an ellipsis if it was cut."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def decisions(
    logits: npt.NDArray[np.float32], labels: npt.NDArray[np.integer], width: int, problem_type: ProblemType
) -> tuple[Bools, Bools]:
    """Return truth and predictions, each [rows, labels] with True if a row has the label.

    Raises:
        ValueError: the shapes do not match, or the task is a regression.
        TrainingError: a logit is not a finite number.
    """
    if problem_type == "regression":
        raise ValueError("a regression task has no classes to evaluate")
    if logits.ndim != 2 or logits.shape[1] != width or not len(logits):
        raise ValueError(f"logits must be [rows, {width}] with at least one row, not {list(logits.shape)}")
    if not np.isfinite(logits).all():
        raise TrainingError(
            "The model's logits contain values that are not finite numbers. Train it again with a lower learning rate."
        )
    if problem_type == "multi_label_classification":
        if labels.shape != logits.shape:
            raise ValueError(f"labels must be {list(logits.shape)}, not {list(labels.shape)}")
        return labels.astype(np.bool_), logits > 0  # sigmoid(x) > 0.5 if and only if x > 0
    if labels.shape != logits.shape[:1]:
        raise ValueError(f"labels must be [{len(logits)}], not {list(labels.shape)}")
    if labels.min() < 0 or labels.max() >= width:
        raise ValueError(f"labels must be indices from 0 to {width - 1}")
    identity = np.eye(width, dtype=np.bool_)
    return identity[labels], identity[logits.argmax(axis=1)]


def _figures(weights: Floats, truth: Bools, predicted: Bools, *, single: bool) -> Figures:
    """Return accuracy, macro F1 and MCC [samples] of outcomes [distinct, labels] with weights [samples, distinct]."""
    rows = weights.sum(axis=1)
    hits = weights @ (truth & predicted)
    support = weights @ truth
    predictions = weights @ predicted
    present = (support + predictions) > 0
    f1 = _ratio(2 * hits, support + predictions)
    if single:
        # Gorodkin's R_K (2004), which equals the Matthews correlation for two classes.
        covariance = hits.sum(axis=1) * rows - (support * predictions).sum(axis=1)
        variances = (rows**2 - (support**2).sum(axis=1)) * (rows**2 - (predictions**2).sum(axis=1))
        mcc = _ratio(covariance, np.sqrt(variances))
    else:
        n = rows[:, None]
        covariance = hits * n - support * predictions
        deviations = np.sqrt(support * (n - support)) * np.sqrt(predictions * (n - predictions))
        mcc = _ratio(covariance, deviations).mean(axis=1)
    return {
        "accuracy": weights @ (truth == predicted).all(axis=1) / rows,
        "macro_f1": _ratio(f1.sum(axis=1), present.sum(axis=1).astype(np.float64)),
        "mcc": mcc,
    }


def _paired_figures(weights: Floats, outcomes: Bools) -> Figures:
    """Return agreement and accuracy kept [samples] of outcomes [distinct, 3 x labels], weights [samples, distinct]."""
    truth, predicted, reference = np.split(outcomes, 3, axis=1)
    this_right = weights @ (truth == predicted).all(axis=1)
    reference_right = weights @ (truth == reference).all(axis=1)
    return {
        "agreement": weights @ (predicted == reference).all(axis=1) / weights.sum(axis=1),
        "accuracy_kept": this_right / np.maximum(reference_right, 1),
    }


def _bootstrap(
    figures: Callable[[Floats, Bools], Figures], outcomes: Bools, samples: int, seed: int
) -> dict[str, Interval]:
    """Return each score of the outcomes [rows, columns] with its interval over resamples of the rows."""
    distinct, counts = np.unique(outcomes, axis=0, return_counts=True)
    values = figures(counts[None].astype(np.float64), distinct)
    generator = np.random.default_rng(seed)
    shares = counts / len(outcomes)
    block = max(_CELLS_PER_BLOCK // len(distinct), 1)
    parts = [
        figures(
            generator.multinomial(len(outcomes), shares, size=min(block, samples - start)).astype(np.float64), distinct
        )
        for start in range(0, samples, block)
    ]
    tail = (1 - CONFIDENCE) / 2
    intervals = {}
    for name, value in values.items():
        low, high = np.quantile(np.concatenate([part[name] for part in parts]), [tail, 1 - tail])
        # Percentile intervals of skewed scores (macro F1 of rare labels) can exclude the score itself.
        bounds = (value[0], min(low, value[0]), max(high, value[0]))
        intervals[name] = Interval(**dict(zip(("value", "low", "high"), map(_rounded, bounds), strict=True)))
    return intervals


def _per_class(truth: Bools, predicted: Bools, label_names: Sequence[str]) -> tuple[ClassFigures, ...]:
    hits = (truth & predicted).sum(axis=0).astype(np.float64)
    support, predictions = truth.sum(axis=0).astype(np.float64), predicted.sum(axis=0).astype(np.float64)
    precision, recall = _ratio(hits, predictions), _ratio(hits, support)
    f1 = _ratio(2 * hits, support + predictions)
    return tuple(
        ClassFigures(
            label=name,
            precision=_rounded(precision[index]),
            recall=_rounded(recall[index]),
            f1=_rounded(f1[index]),
            support=int(support[index]),
        )
        for index, name in enumerate(label_names)
    )


def _certainty_of_errors(
    logits: npt.NDArray[np.float32], truth: Bools, predicted: Bools, problem_type: ProblemType
) -> Floats:
    """Return the probability of the most confident wrong decision of each row, [rows]; 0 if all are right."""
    scores = probabilities(logits, problem_type).astype(np.float64)
    if problem_type == "single_label_classification":
        wrong = np.where(predicted & ~truth, scores, 0)
    else:
        wrong = np.where(predicted, scores, 1 - scores) * (predicted != truth)
    certainty: Floats = wrong.max(axis=1)
    return certainty


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Return the elementwise quotient, 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(denominator), where=denominator > 0)


def _rounded(value: float) -> float:
    return round(float(value), DECIMALS)


def _names(row: Bools, label_names: Sequence[str]) -> str:
    return ", ".join(name for name, present in zip(label_names, row, strict=True) if present) or "(none)"


def _shorten_pair(text_pairs: Sequence[str | None] | None, row: int) -> str | None:
    pair = text_pairs[row] if text_pairs is not None else None
    return None if pair is None else shorten(pair)
