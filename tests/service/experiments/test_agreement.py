"""Running figures of two variants, against scipy and numpy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sparserve.service.experiments.agreement import predicted_label, same_prediction
from sparserve.service.experiments.statistics import RunningAgreement, RunningMean


@settings(deadline=None)
@given(st.integers(1, 400), st.data(), st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_running_agreement_wilson_interval(inputs: int, data: st.DataObject, confidence: float) -> None:
    agreed = data.draw(st.integers(0, inputs))
    expected = stats.binomtest(agreed, inputs).proportion_ci(confidence, method="wilson")
    low, high = RunningAgreement(labelled=inputs, agreed=agreed).interval(confidence)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@settings(deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=50))
def test_running_mean_matches_mean(values: list[float]) -> None:
    running = RunningMean()
    for value in values:
        running.add(value)
    assert running.mean == pytest.approx(np.mean(values), abs=1e-9)
    interval = running.interval()
    assert interval is not None
    assert (interval[1] - interval[0]) / 2 == pytest.approx(1.959964 * stats.sem(values), rel=1e-5, abs=1e-9)


def test_running_agreement_empty() -> None:
    nothing = RunningAgreement()
    assert nothing.rate is None
    assert nothing.interval() == (0.0, 1.0)
    assert not nothing.is_below(1.0, 0.99)
    assert RunningMean().interval() is None


def test_running_agreement_is_below_needs_evidence() -> None:
    assert not RunningAgreement(labelled=10, agreed=8).is_below(0.95, 0.99)
    assert RunningAgreement(labelled=1000, agreed=800).is_below(0.95, 0.99)
    assert not RunningAgreement(labelled=1000, agreed=990).is_below(0.95, 0.99)


def test_running_agreement_counts_inputs() -> None:
    seen = RunningAgreement()
    for agree, difference in ((True, 0.1), (False, 0.2), (True, 0.0)):
        seen.add(agree, difference)
    assert (seen.inputs, seen.agreed) == (3, 2)
    assert seen.drift.mean == pytest.approx(0.1)


def test_running_agreement_of_numbers_is_unknown() -> None:
    seen = RunningAgreement()
    seen.add(None, 0.1)
    assert (seen.inputs, seen.rate) == (1, None)
    assert not seen.is_below(1.0, 0.99)


def test_same_prediction_by_problem_type() -> None:
    one, other = np.array([[0.6, 0.7]], dtype=np.float32), np.array([[0.9, 0.4]], dtype=np.float32)
    assert same_prediction("regression", one, other) is None
    assert same_prediction("multi_label_classification", one, other).tolist() == [False]
    assert same_prediction("multi_label_classification", one, one + 0.1).tolist() == [True]
    assert same_prediction("single_label_classification", one, other).tolist() == [False]


def test_predicted_label_by_problem_type() -> None:
    labels, scores = ("toxic", "rude", "spam"), np.array([0.7, 0.2, 0.5])
    assert predicted_label("single_label_classification", labels, scores) == "toxic"
    assert predicted_label("multi_label_classification", labels, scores) == "toxic, spam"
    assert predicted_label("multi_label_classification", labels, scores / 2) == ""
    assert [predicted_label("single_label_classification", ("toxic",), np.array([score])) for score in (0.4, 0.6)] == [
        "",
        "toxic",
    ]
