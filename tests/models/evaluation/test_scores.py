"""Scores, their intervals, and the comparison with a reference."""

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from sparserve.models.bundle.manifest import Agreement, Evaluation, ProblemType
from sparserve.models.errors import TrainingError
from sparserve.models.evaluation.scores import (
    calibration_error,
    compare_with_reference,
    evaluate,
    mcnemar_p,
    shorten,
)

SINGLE: ProblemType = "single_label_classification"
MULTI: ProblemType = "multi_label_classification"


def task(seed: int, rows: int, width: int, problem_type: ProblemType) -> tuple[np.ndarray, np.ndarray]:
    """Return logits [rows, width] that are right more often than not, and labels."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(rows, width)).astype(np.float32)
    if problem_type == MULTI:
        labels = random.integers(0, 2, size=(rows, width))
        return (logits + 2 * labels - 1).astype(np.float32), labels
    labels = random.integers(0, width, size=rows)
    logits[np.arange(rows), labels] += 1
    return logits, labels


def names(width: int) -> list[str]:
    return [f"label {index}" for index in range(width)]


def figures(logits: np.ndarray, labels: np.ndarray, problem_type: ProblemType, **options: Any) -> Evaluation:
    columns = names(logits.shape[1])
    return evaluate(logits, labels, label_names=columns, problem_type=problem_type, bootstrap_samples=200, **options)


def compared(
    logits: np.ndarray, reference: np.ndarray, labels: np.ndarray, problem_type: ProblemType = SINGLE, **options: Any
) -> Agreement:
    defaults: dict[str, Any] = {"texts": [f"row {row}" for row in range(len(labels))], "bootstrap_samples": 200}
    agreement = compare_with_reference(
        figures(logits, labels, problem_type),
        logits,
        reference,
        labels,
        label_names=names(logits.shape[1]),
        problem_type=problem_type,
        reference_version="0" * 16,
        **defaults | options,
    ).agreement
    assert agreement is not None
    return agreement


Case = tuple[int, int, int, ProblemType]
cases: st.SearchStrategy[Case] = st.tuples(
    st.integers(0, 10_000), st.integers(1, 60), st.integers(2, 6), st.sampled_from([SINGLE, MULTI])
)  # fmt: skip
few = settings(max_examples=40, deadline=None)


@few
@given(cases)
def test_evaluate_equals_scikit_learn(case: Case) -> None:
    logits, labels = task(*case)
    result = figures(logits, labels, case[3])
    single = case[3] == SINGLE
    predicted = logits.argmax(axis=1) if single else (logits > 0).astype(int)
    all_labels = list(range(case[2]))
    assert result.accuracy.value == pytest.approx(metrics.accuracy_score(labels, predicted), abs=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # for means over no labels
        f1 = metrics.f1_score(labels, predicted, labels=all_labels, average="macro", zero_division=np.nan)
    f1 = np.nan_to_num(f1)  # no label occurs at all
    assert result.macro_f1.value == pytest.approx(f1, abs=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # for a single label, whose correlation is 0
        if single:
            mcc = metrics.matthews_corrcoef(labels, predicted)
        else:
            mcc = np.mean([metrics.matthews_corrcoef(labels[:, k], predicted[:, k]) for k in all_labels])
    assert result.mcc.value == pytest.approx(mcc, abs=1e-6)
    expected = metrics.precision_recall_fscore_support(labels, predicted, labels=all_labels, zero_division=0)
    for row, (precision, recall, f1, support) in zip(result.per_class, zip(*expected, strict=True), strict=True):
        assert (row.precision, row.recall, row.f1, row.support) == pytest.approx(
            (precision, recall, f1, support), abs=1e-6
        )


@few
@given(cases)
def test_evaluate_intervals_contain_the_value_and_stay_in_range(case: Case) -> None:
    result = figures(*task(*case), case[3])
    for interval, least in ((result.accuracy, 0), (result.macro_f1, 0), (result.mcc, -1)):
        assert least <= interval.low <= interval.value <= interval.high <= 1


@few
@given(cases)
def test_evaluate_ignores_the_order_of_rows(case: Case) -> None:
    logits, labels = task(*case)
    order = np.random.default_rng(1).permutation(len(labels))
    assert figures(logits, labels, case[3]) == figures(logits[order], labels[order], case[3])


@few
@given(cases)
def test_compare_with_itself_is_full_agreement(case: Case) -> None:
    logits, labels = task(*case)
    result = compared(logits, logits, labels, case[3])
    assert (result.agreement.low, result.agreement.value, result.agreement.high) == (1, 1, 1)
    assert (result.mcnemar_p, result.only_reference_right, result.only_this_right, result.lost) == (1, 0, 0, ())
    if figures(logits, labels, case[3]).accuracy.value:
        assert result.accuracy_kept.value == 1


@few
@given(st.integers(0, 500), st.integers(0, 500))
def test_mcnemar_p_is_symmetric_and_a_probability(a: int, b: int) -> None:
    assert mcnemar_p(a, b) == mcnemar_p(b, a)
    assert 0 <= mcnemar_p(a, b) <= 1


def test_mcnemar_p_of_known_counts() -> None:
    assert mcnemar_p(0, 0) == 1
    assert mcnemar_p(5, 5) == 1
    assert mcnemar_p(0, 10) == pytest.approx(2 / 1024, rel=1e-5)
    assert 0 < mcnemar_p(0, 60) < 1e-15  # six significant digits, not six decimals


def test_evaluate_interval_equals_that_of_resampled_rows() -> None:
    logits, labels = task(0, 400, 3, SINGLE)
    right = logits.argmax(axis=1) == labels
    resampled = np.random.default_rng(0).choice(right, size=(4000, 400)).mean(axis=1)
    accuracy = figures(logits, labels, SINGLE).accuracy
    assert [accuracy.low, accuracy.high] == pytest.approx(np.quantile(resampled, [0.025, 0.975]), abs=0.012)


def test_evaluate_interval_is_narrower_with_more_rows() -> None:
    short, long = (figures(*task(0, rows, 2, SINGLE), SINGLE).accuracy for rows in (50, 5000))
    assert long.high - long.low < (short.high - short.low) / 4


def test_evaluate_seed_changes_only_the_intervals() -> None:
    logits, labels = task(0, 100, 3, SINGLE)
    one, same, other = (figures(logits, labels, SINGLE, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert one.accuracy.value == other.accuracy.value


def test_evaluate_rounds_to_six_decimals() -> None:
    result = figures(*task(3, 97, 3, SINGLE), SINGLE)
    for value in (result.accuracy.low, result.macro_f1.value, result.mcc.high, result.calibration_error):
        assert value == round(value, 6)


def test_calibration_error_of_known_probabilities() -> None:
    logits = np.log(np.array([[0.8, 0.2]] * 10, dtype=np.float32))
    truth = np.zeros((10, 2), dtype=bool)
    truth[:6, 0] = truth[6:, 1] = True
    assert calibration_error(logits, truth, SINGLE) == pytest.approx(0.2, abs=1e-6)
    confident = np.array([[20.0, -20.0]], dtype=np.float32)
    assert calibration_error(confident, np.array([[True, False]]), MULTI) == pytest.approx(0, abs=1e-6)
    assert calibration_error(confident, np.array([[False, True]]), MULTI) == pytest.approx(1, abs=1e-6)


def test_compare_lists_the_most_confident_errors_first() -> None:
    reference = np.array([[2, 0], [2, 0], [0, 2], [2, 0]], dtype=np.float32)
    logits = np.array([[0, 1], [0, 3], [0, 2], [2, 0]], dtype=np.float32)
    labels = np.array([0, 0, 1, 1])
    result = compared(logits, reference, labels, text_pairs=["x" * 400, None, None, None])
    assert [example.text for example in result.lost] == ["row 1", "row 0"]
    assert (result.only_reference_right, result.only_this_right) == (2, 0)
    first, second = result.lost
    assert (first.expected, first.predicted) == ("label 0", "label 1")
    assert first.probability == pytest.approx(1 / (1 + np.exp(-3)), abs=1e-6)
    assert first.text_pair is None
    assert second.text_pair == "x" * 299 + "…"
    assert result.accuracy_kept.value == pytest.approx(1 / 3, abs=1e-6)
    assert compared(logits, reference, labels, examples=1).lost == result.lost[:1]


def test_evaluate_multi_label_accuracy_needs_the_exact_set() -> None:
    logits = np.array([[1, 1, -1], [1, -1, -1]], dtype=np.float32)
    labels = np.array([[1, 1, 0], [1, 1, 0]])
    assert figures(logits, labels, MULTI).accuracy.value == 0.5
    result = compared(logits, np.where(labels, 1, -1).astype(np.float32), labels, MULTI)
    (lost,) = result.lost
    assert (lost.expected, lost.predicted) == ("label 0, label 1", "label 0")
    assert lost.probability == pytest.approx(1 / (1 + np.exp(-1)), abs=1e-6)
    assert compared(-abs(logits), -abs(logits), np.zeros((2, 3), int), MULTI).lost == ()


def test_compare_with_a_reference_that_is_never_right() -> None:
    labels = np.array([0, 0])
    wrong, right = np.array([[0, 1]] * 2, dtype=np.float32), np.array([[1, 0]] * 2, dtype=np.float32)
    assert compared(right, wrong, labels).accuracy_kept.value == 2
    assert compared(wrong, wrong, labels).accuracy_kept.value == 0


def test_shorten_keeps_short_texts() -> None:
    assert shorten("a" * 300) == "a" * 300
    assert shorten("ab cd", limit=4) == "ab…"


@pytest.mark.parametrize(
    ("logits", "labels", "problem_type", "message"),
    [
        (np.zeros((2, 3)), np.zeros(2, int), SINGLE, "rows, 2"),
        (np.zeros((0, 2)), np.zeros(0, int), SINGLE, "at least one row"),
        (np.zeros((2, 2)), np.zeros(3, int), SINGLE, "labels must be"),
        (np.zeros((2, 2)), np.array([0, 2]), SINGLE, "from 0 to 1"),
        (np.zeros((2, 2)), np.zeros(2, int), MULTI, "labels must be"),
        (np.zeros((2, 2)), np.zeros(2, int), "regression", "regression task"),
    ],
)
def test_evaluate_refuses_shapes_that_do_not_match(
    logits: np.ndarray, labels: np.ndarray, problem_type: ProblemType, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(logits.astype(np.float32), labels, label_names=names(2), problem_type=problem_type)


def test_evaluate_refuses_logits_that_are_not_finite() -> None:
    with pytest.raises(TrainingError, match="not finite"):
        figures(np.array([[np.nan, 0]], dtype=np.float32), np.array([0]), SINGLE)
