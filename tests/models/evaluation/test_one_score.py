"""Figures of models with one score."""

import random
from itertools import permutations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr, ttest_rel
from sklearn.metrics import ndcg_score

from sparserve.models.errors import TrainingError
from sparserve.models.evaluation.one_score import (
    compare_scores,
    evaluate_scores,
    paired_distances,
    paired_errors,
    rank_correlation,
    same_order,
)

QUERIES = ["a", "a", "a", "b", "b", "c"]
RELEVANCE = np.array([1.0, 0.0, 0.5, 0.0, 1.0, 1.0])


def noisy(rows: int, noise: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    generator = np.random.default_rng(0)
    truth = generator.normal(size=rows)
    return truth + noise * generator.normal(size=rows), truth


def test_evaluate_scores_has_the_correlations_and_their_intervals() -> None:
    scores, truth = noisy(300, 0.5)
    figures = evaluate_scores(scores[:, None].astype(np.float32), truth, bootstrap_samples=200)
    assert figures.pearson.value == pytest.approx(pearsonr(scores, truth).statistic, abs=1e-5)
    assert figures.spearman.value == pytest.approx(spearmanr(scores, truth).statistic, abs=1e-5)
    assert figures.mean_squared_error == pytest.approx(np.square(scores - truth).mean(), abs=1e-5)
    for interval in (figures.pearson, figures.spearman):
        assert 0.7 < interval.low < interval.value < interval.high < 1
    assert figures.ranking is None


def test_evaluate_scores_ranks_the_documents_of_each_query() -> None:
    # Query a: the best document is second. Query b: it is first. Query c has one document, so it counts for neither.
    logits = np.array([1.0, 2.0, -1.0, -2.0, 3.0, 0.5])
    ranking = evaluate_scores(logits, RELEVANCE, queries=QUERIES, bootstrap_samples=100).ranking
    assert ranking is not None
    best = 1 + 0.5 / np.log2(3)
    found = 1 / np.log2(3) + 0.5 / np.log2(4)
    assert ranking.queries == 2
    assert ranking.ndcg10.value == pytest.approx((found / best + 1) / 2, abs=1e-6)
    assert ranking.mrr.value == pytest.approx((1 / 2 + 1) / 2)
    assert ranking.accuracy.value == pytest.approx(4 / 6, abs=1e-6)


@given(
    grades=st.lists(st.lists(st.integers(0, 4), min_size=2, max_size=25), min_size=1, max_size=4),
    chance=st.randoms(use_true_random=False),
)
@settings(max_examples=40)
def test_ndcg_is_that_of_scikit_learn_at_any_scale_of_grades(grades: list[list[int]], chance: random.Random) -> None:
    truth = np.concatenate(grades).astype(np.float64)
    scores = np.array(chance.choices(range(chance.choice((3, 1000))), k=len(truth)), dtype=np.float64)  # with ties
    queries = [f"query {query}" for query, rows in enumerate(grades) for _ in rows]
    parts = np.split(scores, np.cumsum([len(rows) for rows in grades])[:-1])
    pairs = [(rows, part) for rows, part in zip(grades, parts, strict=True) if len(set(rows)) > 1]
    assume(pairs)
    expected = np.mean([ndcg_score([rows], [part], k=10) for rows, part in pairs])
    for scale in (1, truth.max()):
        ranking = evaluate_scores(scores, truth / scale, queries=queries, bootstrap_samples=2).ranking
        assert ranking is not None
        assert ranking.ndcg10.value == pytest.approx(expected, abs=1e-6)


@given(scores=st.lists(st.integers(0, 2), min_size=5, max_size=5), relevant=st.integers(1, 4))
@settings(max_examples=20)
def test_mrr_is_the_mean_over_the_orders_of_equal_scores(scores: list[int], relevant: int) -> None:
    relevance = np.array([1.0] * relevant + [0.0] * (5 - relevant))
    ranking = evaluate_scores(
        np.array(scores, dtype=np.float64), relevance, queries=["q"] * 5, bootstrap_samples=2
    ).ranking
    assert ranking is not None
    places = [
        1 + next(place for place, row in enumerate(sorted(order, key=lambda row: -scores[row])) if relevance[row])
        for order in permutations(range(5))
    ]
    assert ranking.mrr.value == pytest.approx(np.mean([1 / place for place in places]), abs=1e-6)


def test_evaluate_scores_without_a_query_of_several_grades_has_no_ranking() -> None:
    logits = np.array([1.0, -1.0])
    assert evaluate_scores(logits, np.array([1.0, 0.0]), queries=["a", "b"], bootstrap_samples=100).ranking is None


def test_same_order_counts_pairs() -> None:
    assert same_order(np.array([1.0, 2.0, 3.0]), np.array([10.0, 30.0, 20.0])) == pytest.approx(2 / 3, abs=1e-6)
    assert same_order(np.array([1.0]), np.array([2.0])) == 1.0


def test_compare_scores_counts_rows_that_are_nearer() -> None:
    truth = np.arange(40.0)
    worse, reference = truth + 2, truth + 1
    figures = evaluate_scores(worse, truth, bootstrap_samples=100)
    compared = compare_scores(
        figures, worse, reference, truth, sigmoid=False, reference_version="0" * 16, bootstrap_samples=100
    )
    agreement = compared.agreement
    assert agreement is not None
    assert (agreement.only_reference_nearer, agreement.only_this_nearer) == (40, 0)
    assert agreement.nearer_p < 1e-9
    assert agreement.same_order.value == agreement.same_order.low == 1.0
    assert paired_distances(reference, worse, truth, sigmoid=False).only_this_right == 40
    assert paired_distances(worse, reference, truth, sigmoid=False).is_worse


def test_paired_errors_ignore_a_shift_that_does_not_matter() -> None:
    generator = np.random.default_rng(0)
    truth = generator.normal(size=400)
    reference = truth + 0.3 + 0.2 * generator.normal(size=400)  # biased, so any shift moves most errors the same way
    shifted = reference + 0.001
    assert paired_distances(shifted, reference, truth, sigmoid=False).is_worse
    small, large = (paired_errors(scores, reference, truth, sigmoid=False) for scores in (shifted, reference + 0.03))
    assert small.p < 0.05 and not small.is_worse
    assert large.error == pytest.approx(1.08 * large.reference_error, rel=0.01)
    assert large.is_worse


def test_paired_errors_by_the_paired_t_test() -> None:
    truth, generator = np.zeros(30), np.random.default_rng(1)
    scores, reference = generator.normal(size=(2, 30))
    errors = paired_errors(scores, reference, truth, sigmoid=False)
    assert errors.p == pytest.approx(ttest_rel(scores**2, reference**2).pvalue)
    assert paired_errors(reference, reference, truth, sigmoid=False).p == 1.0
    assert not paired_errors(scores[:1], reference[:1], truth[:1], sigmoid=True).is_worse
    # By the same amount in each row.
    assert paired_errors(truth + 2, truth + 1, truth, sigmoid=False).p == 0.0


def test_rank_correlation_of_a_constant_is_zero() -> None:
    assert rank_correlation(np.ones(5), np.arange(5.0)) == 0.0


def test_evaluate_scores_refuses_numbers_that_are_not_finite() -> None:
    with pytest.raises(TrainingError, match="not finite"):
        evaluate_scores(np.array([1.0, np.nan]), np.array([1.0, 0.0]))
