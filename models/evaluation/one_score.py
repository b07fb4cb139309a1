"""Figures of models with one score for each row: correlations, the order of rows, and ranking for rerankers.

Intervals are 95 % percentile bootstrap intervals (Efron & Tibshirani 1993, chapter 13), over rows or over queries.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata, t

from sparserve.models.bundle.manifest import Interval, RankingFigures, ScoreAgreement, ScoreEvaluation
from sparserve.models.errors import TrainingError
from sparserve.models.evaluation.scores import CONFIDENCE, DECIMALS, SIGNIFICANCE, PairedComparison, mcnemar_p

# Rows whose pairs are compared; a random choice of them if there are more.
MAX_ORDERED_ROWS: Final = 1000
FIRST: Final = 10
RELEVANT: Final = 0.5
THRESHOLD: Final = 0.0  # of the logit: a probability of 0.5
# Growth of the root mean squared error up to this fraction does not matter.
ERROR_MARGIN: Final = 0.01

Floats = npt.NDArray[np.float64]


def evaluate_scores(
    scores: npt.NDArray[np.floating],
    truth: npt.NDArray[np.floating],
    *,
    queries: Sequence[str] | None = None,
    bootstrap_samples: int = 1000,
    seed: int = 0,
) -> ScoreEvaluation:
    """Return the figures of scores [rows] or [rows, 1] against the true numbers [rows].

    `queries` are the first texts of a reranker's pairs, [rows]; its scores are logits, whose sigmoid is compared with
    the relevance in the squared error. The same input and seed give the same figures.

    Raises:
        ValueError: the shapes do not match, or there are no rows.
        TrainingError: a score is not a finite number.
    """
    found, true = _checked(scores), np.ravel(truth).astype(np.float64)
    if len(found) != len(true) or not len(true):
        raise ValueError(f"there are {len(found)} scores for {len(true)} rows")
    values = _values(found, sigmoid=queries is not None)
    generator = np.random.default_rng(seed)
    draws = generator.integers(0, len(true), size=(bootstrap_samples, len(true)))
    return ScoreEvaluation(
        rows=len(true),
        pearson=_interval(correlation(values, true), [correlation(values[rows], true[rows]) for rows in draws]),
        spearman=_interval(
            rank_correlation(found, true), [rank_correlation(found[rows], true[rows]) for rows in draws]
        ),
        mean_squared_error=round(float(np.square(values - true).mean()), DECIMALS),
        ranking=None if queries is None else _ranking(found, true, queries, draws, generator),
    )


def compare_scores(
    evaluation: ScoreEvaluation,
    scores: npt.NDArray[np.floating],
    reference_scores: npt.NDArray[np.floating],
    truth: npt.NDArray[np.floating],
    *,
    sigmoid: bool,
    reference_version: str,
    bootstrap_samples: int = 1000,
    seed: int = 0,
) -> ScoreEvaluation:
    """Return `evaluation` with its `agreement`: these scores against a reference's on the same rows.

    With `sigmoid` the scores are logits of a relevance between 0 and 1.
    """
    found, reference = _checked(scores), _checked(reference_scores)
    distances = paired_distances(found, reference, truth, sigmoid=sigmoid)
    correlated = rank_correlation(found, reference)
    agreement = ScoreAgreement(
        reference=reference_version,
        same_order=_same_order_interval(found, reference, bootstrap_samples, seed),
        spearman=round(correlated, DECIMALS) if correlated >= 0 else None,
        nearer_p=distances.p,
        only_reference_nearer=distances.only_reference_right,
        only_this_nearer=distances.only_this_right,
    )
    return evaluation.model_copy(update={"agreement": agreement})


def paired_distances(
    scores: npt.NDArray[np.floating],
    reference: npt.NDArray[np.floating],
    truth: npt.NDArray[np.floating],
    *,
    sigmoid: bool,
) -> PairedComparison:
    """Compare the distances of two models' scores to the true numbers of the same rows, by an exact sign test.

    With `sigmoid` the scores are logits of a relevance between 0 and 1.

    Raises:
        TrainingError: a score is not a finite number.
    """
    here, there = (_errors(one, truth, sigmoid=sigmoid) for one in (scores, reference))
    lost, won = int((there < here).sum()), int((here < there).sum())
    return PairedComparison(lost, won, mcnemar_p(lost, won))


@dataclass(frozen=True)
class PairedErrors:
    """Root mean squared errors of a model and a reference on the same rows, and the paired t-test of their squares."""

    error: float
    reference_error: float
    p: float

    @property
    def is_worse(self) -> bool:
        """True if the error is larger than the reference's by more than the margin, which is significant.

        The margin is needed because a constant shift of all scores, however small, moves most errors the same way.
        """
        return self.error > self.reference_error * (1 + ERROR_MARGIN) and self.p < SIGNIFICANCE


def paired_errors(
    scores: npt.NDArray[np.floating],
    reference: npt.NDArray[np.floating],
    truth: npt.NDArray[np.floating],
    *,
    sigmoid: bool,
) -> PairedErrors:
    """Compare the squared errors of two models' scores against the true numbers of the same rows.

    With `sigmoid` the scores are logits of a relevance between 0 and 1.

    Raises:
        TrainingError: a score is not a finite number.
    """
    here, there = (np.square(_errors(one, truth, sigmoid=sigmoid)) for one in (scores, reference))
    return PairedErrors(math.sqrt(here.mean()), math.sqrt(there.mean()), _paired_p(here - there))


def same_order(scores: npt.NDArray[np.floating], reference: npt.NDArray[np.floating]) -> float:
    """Return the fraction of pairs of rows that both put in the same order; 1 if there is no pair."""
    chosen = np.random.default_rng(0).permutation(np.size(scores))[:MAX_ORDERED_ROWS]
    agrees = _order_matrix(_checked(scores)[chosen], _checked(reference)[chosen])
    rows = len(agrees)
    return 1.0 if rows < 2 else round(float((agrees.sum() - rows) / (rows * (rows - 1))), DECIMALS)


def correlation(first: npt.NDArray[np.floating], second: npt.NDArray[np.floating]) -> float:
    """Return Pearson's correlation; 0 if one of them is constant."""
    first, second = first - first.mean(), second - second.mean()
    scale = float(np.sqrt(np.square(first).sum() * np.square(second).sum()))
    return float(np.clip((first * second).sum() / scale, -1, 1)) if scale > 0 else 0.0


def rank_correlation(first: npt.NDArray[np.floating], second: npt.NDArray[np.floating]) -> float:
    """Return Spearman's correlation: Pearson's of the ranks; 0 if one of them is constant."""
    return correlation(rankdata(first), rankdata(second))


def _ranking(
    scores: Floats,
    relevance: Floats,
    queries: Sequence[str],
    draws: npt.NDArray[np.int64],
    generator: np.random.Generator,
) -> RankingFigures | None:
    """Return the figures of the queries that have relevant and irrelevant documents; None if there are none.

    Those of equal scores are means over their orders (McSherry & Najork 2008), so that the order of the rows does not
    count.
    """
    numbers: dict[str, int] = {}
    groups = np.asarray([numbers.setdefault(query.strip().casefold(), len(numbers)) for query in queries])
    gains, reciprocals = [], []
    for group in range(len(numbers)):
        rows = np.flatnonzero(groups == group)
        if np.ptp(relevance[rows]) == 0:
            continue
        best = np.sort(relevance[rows])[::-1]
        _, ties, sizes = np.unique(-scores[rows], return_inverse=True, return_counts=True)
        gain = np.repeat(np.bincount(ties, relevance[rows]) / sizes, sizes)
        gains.append(_discounted_gain(gain) / _discounted_gain(best))
        relevant = np.bincount(ties, relevance[rows] >= min(RELEVANT, best[0]))
        reciprocals.append(_expected_reciprocal(sizes.tolist(), relevant.tolist()))
    if not gains:
        return None
    right = ((scores > THRESHOLD) == (relevance >= RELEVANT)).astype(np.float64)
    drawn = generator.integers(0, len(gains), size=(len(draws), len(gains)))
    return RankingFigures(
        queries=len(gains),
        ndcg10=_mean_interval(np.asarray(gains), drawn),
        mrr=_mean_interval(np.asarray(reciprocals), drawn),
        accuracy=_mean_interval(right, draws),
        threshold=RELEVANT,
    )


def _discounted_gain(relevance: Floats) -> float:
    """Return the discounted gain of the first documents (Jarvelin & Kekalainen 2002), as trec_eval computes it.

    The gain is the relevance, so the quotient of two does not depend on the scale of the grades.
    """
    first = relevance[:FIRST]
    return float((first / np.log2(np.arange(2, len(first) + 2))).sum())


def _expected_reciprocal(sizes: Sequence[int], relevant: Sequence[float]) -> float:
    """Return the mean of 1 / (place of the first relevant document) over the orders of documents with equal scores.

    The groups of equal scores, the best first, have these sizes and so many relevant documents.
    """
    before, size, count = next(
        (sum(sizes[:group]), size, count)
        for group, (size, count) in enumerate(zip(sizes, relevant, strict=True))
        if count
    )
    mean, none_yet = 0.0, 1.0
    for place in range(size - int(count) + 1):
        mean += none_yet * count / (size - place) / (before + place + 1)
        none_yet *= (size - place - count) / (size - place)
    return mean


def _same_order_interval(scores: Floats, reference: Floats, samples: int, seed: int) -> Interval:
    generator = np.random.default_rng(seed)
    rows = generator.permutation(len(scores))[:MAX_ORDERED_ROWS]
    agrees = _order_matrix(scores[rows], reference[rows])
    weights = generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=samples).astype(np.float64)
    # A row that was drawn twice is no pair with itself.
    hits = ((weights @ agrees) * weights).sum(axis=1) - np.square(weights).sum(axis=1)
    pairs = len(rows) ** 2 - np.square(weights).sum(axis=1)
    shares = np.divide(hits, pairs, out=np.ones_like(hits), where=pairs > 0)
    return _interval(same_order(scores[rows], reference[rows]), shares.tolist())


def _order_matrix(scores: Floats, reference: Floats) -> Floats:
    """Return 1 for each pair of rows [rows, rows] that both put in the same order, ties included, else 0."""

    def order(values: Floats) -> Floats:
        signs: Floats = np.sign(values[:, None] - values)
        return signs

    agrees: Floats = (order(scores) == order(reference)).astype(np.float64)
    return agrees


def _mean_interval(values: Floats, draws: npt.NDArray[np.int64]) -> Interval:
    return _interval(float(values.mean()), values[draws].mean(axis=1).tolist())


def _interval(value: float, samples: Sequence[float]) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return Interval(
        value=round(value, DECIMALS),
        low=round(min(float(low), value), DECIMALS),
        high=round(max(float(high), value), DECIMALS),
    )


def _errors(scores: npt.NDArray[np.floating], truth: npt.NDArray[np.floating], *, sigmoid: bool) -> Floats:
    """Return the distances of scores from the true numbers of their rows."""
    return np.abs(_values(_checked(scores), sigmoid=sigmoid) - np.ravel(truth).astype(np.float64))


def _paired_p(differences: Floats) -> float:
    """Return the p-value of the two-sided paired t-test (Student 1908); 1 for a single row or equal rows."""
    rows, mean = len(differences), float(differences.mean())
    if rows < 2 or mean == 0:
        return 1.0
    deviation = float(differences.std(ddof=1)) / math.sqrt(rows)
    return float(2 * t.sf(abs(mean) / deviation, rows - 1)) if deviation > 0 else 0.0


def _values(scores: Floats, *, sigmoid: bool) -> Floats:
    if not sigmoid:
        return scores
    values: Floats = np.exp(-np.logaddexp(0, -scores))
    return values


def _checked(scores: npt.NDArray[np.floating]) -> Floats:
    """Return scores as [rows].

    Raises:
        TrainingError: one is not a finite number.
    """
    flat = np.ravel(scores).astype(np.float64)
    if not np.isfinite(flat).all():
        raise TrainingError(
            "The model's scores contain values that are not finite numbers. Train it again with a lower learning rate."
        )
    return flat
