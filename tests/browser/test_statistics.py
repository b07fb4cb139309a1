"""Statistics of the page: those of the job and of the service."""

from typing import Any

import numpy as np
import pytest

from sparserve.models.evaluation.one_score import compare_scores, evaluate_scores
from sparserve.models.evaluation.scores import mcnemar_p
from sparserve.service.experiments.statistics import RunningAgreement
from tests.browser.conftest import Evaluate, module

pytestmark = pytest.mark.browser
CALL = "async ([path, name, values]) => { const module = await import(path); return module[name](...values); }"
# Intervals of correlations and of pairs are the job's bootstrap there and formulas here.
INTERVAL_TOLERANCE = 0.04


def test_intervals_and_tests_of_labels_are_those_of_the_job(evaluate: Evaluate) -> None:
    for hits, total in ((0, 5), (5, 5), (37, 41), (9950, 10_000)):
        interval = evaluate(CALL, [module("figures/statistics"), "proportion", [hits, total]])
        expected = RunningAgreement(labelled=total, agreed=hits).interval()
        assert (interval["low"], interval["high"]) == pytest.approx(expected)
    for counts in ((0, 0), (0, 1), (3, 9), (9, 3), (300, 350), (2000, 2000)):
        assert evaluate(CALL, [module("figures/statistics"), "mcnemar", counts]) == pytest.approx(
            mcnemar_p(*counts), rel=1e-5
        )


def test_figures_of_one_score_are_those_of_the_job(evaluate: Evaluate) -> None:
    random = np.random.default_rng(5)
    truth = random.integers(0, 3, size=300) / 2
    queries = [f"query {row % 30}" for row in range(300)]
    reference = truth + random.normal(scale=0.6, size=300).round(1)
    scores = truth + random.normal(scale=0.8, size=300).round(1)

    def call(name: str, *values: Any) -> Any:
        plain = [value.tolist() if isinstance(value, np.ndarray) else value for value in values]
        return evaluate(CALL, [module("figures/one_score"), name, plain])

    def expect_interval(shown: dict[str, float], expected: Any) -> None:
        assert shown["value"] == pytest.approx(expected.value, abs=1e-6)
        assert (shown["low"], shown["high"]) == pytest.approx((expected.low, expected.high), abs=INTERVAL_TOLERANCE)

    # A relevance is the sigmoid of the job's score; the service's scores are such already.
    figures = evaluate_scores(scores, truth, bootstrap_samples=200)
    assert call("correlation", scores, truth) == pytest.approx(figures.pearson.value, abs=1e-6)
    assert call("squaredError", scores, truth) == pytest.approx(figures.mean_squared_error, abs=1e-6)
    expect_interval(call("rankCorrelation", scores, truth), figures.spearman)
    ranking = evaluate_scores(scores, truth, queries=queries, bootstrap_samples=10).ranking
    assert ranking is not None
    shown = call("ranking", scores, truth, queries)
    assert shown["queries"] == ranking.queries == 30
    assert shown["ndcg10"] == pytest.approx(ranking.ndcg10.value, abs=1e-6)
    assert shown["mrr"] == pytest.approx(ranking.mrr.value, abs=1e-6)
    agreement = compare_scores(
        figures, scores, reference, truth, sigmoid=False, reference_version="0" * 16, bootstrap_samples=200
    ).agreement
    assert agreement is not None
    expect_interval(call("sameOrder", scores, reference), agreement.same_order)
    nearer = call("nearer", reference, scores, truth)
    counts = (nearer["onlyReference"], nearer["onlyCandidate"])
    assert counts == (agreement.only_reference_nearer, agreement.only_this_nearer)
    assert nearer["p"] == pytest.approx(agreement.nearer_p, rel=1e-5)
