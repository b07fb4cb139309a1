"""Sentences about the figures of a report, computed from these figures alone."""

import math
from collections.abc import Iterable, Sequence
from typing import Final

from sparserve.models.bundle.manifest import Interval, TokenTable
from sparserve.models.bundle.variants import DENSE, Variant
from sparserve.models.report.rendering import percent, plain_interval
from sparserve.models.report.schema import Report, SparseCost, VariantReport

# Latency ratios of equal graphs on a shared machine stay within this range.
SAME_SPEED: Final = (0.9, 1.1)
SIGNIFICANT: Final = 0.05
# Below this fraction of the most frequent label's errors avoided, a model has learned next to nothing.
BARELY_BETTER: Final = 0.1


def findings(rows: Sequence[VariantReport]) -> list[str]:
    """Return the findings about all variants, missing and incomparable figures and a weak teacher first."""
    dense = next((row for row in rows if row.variant == DENSE), None)
    sentences = [*_missing(rows), *_incomparable(rows), *(teacher_warnings(dense) if dense else ())]
    if dense is not None:
        sentences += _bigger_teacher_findings(dense)
    for row in rows:
        if row.variant != DENSE:
            sentences += [
                *_accuracy_findings(row),
                *_score_findings(row),
                *(_smaller_encoder_findings(row, dense) if dense else ()),
                *_zeros_findings(row),
                *_token_table_findings(row),
                *_speed_findings(row),
                *_sparse_findings(row),
            ]
    evaluation = next((row.evaluation for row in rows if row.evaluation), None)
    if evaluation:
        points = 50 * (evaluation.accuracy.high - evaluation.accuracy.low)
        sentences.append(
            f"With {evaluation.rows:,} test rows an accuracy is certain to about ±{points:.1f} points. For smaller "
            "differences between variants use the paired figures (accuracy kept, McNemar's test)."
        )
    return sentences


def warnings(report: Report) -> list[str]:
    """Return the findings that a user must see without opening the report."""
    return [sentence for row in report.variants if row.variant == DENSE for sentence in teacher_warnings(row)]


def teacher_warnings(dense: VariantReport) -> list[str]:
    """Return a sentence for each reason to distrust the dense model, with which all others are compared."""
    sentences = []
    training, figures = dense.teacher_training, dense.evaluation
    if training is not None and training.still_rising:
        found = bool(training.settings.trials)
        more = "more training rows may help" if found else "use more epochs, a larger learning rate, or teacher: auto"
        last = training.scores[-1]
        reached = f"{last:.3f}" if dense.score_evaluation else percent(last)
        sentences.append(
            f"The dense model has not converged: its score on validation still rose at the end of {training.epochs:g} "
            f"epochs, to {reached}. Figures relative to dense may flatter the others; {more}."
        )
    if figures is not None and len(figures.per_class) > 1 and sum(c.support for c in figures.per_class) == figures.rows:
        common = max(figures.per_class, key=lambda label: label.support)
        share = common.support / figures.rows
        if figures.accuracy.low <= share or figures.accuracy.value - share < BARELY_BETTER * (1 - share):
            sentences.append(
                f"The dense model is barely better than the most frequent label: its accuracy is "
                f"{percent(figures.accuracy.value)}, and {percent(share)} of the test rows are {common.label!r}. "
                "Comparisons with it say little; check the labels, or use more rows or another checkpoint."
            )
    scores = dense.score_evaluation
    if scores is not None and scores.spearman.low <= 0:
        sentences.append(
            "The dense model hardly orders the test rows: Spearman's correlation of its scores with the numbers is "
            f"{plain_interval(scores.spearman)}, and 0 is that of chance. Comparisons with it say little; check the "
            "numbers, or use more rows or another checkpoint."
        )
    return sentences


def _bigger_teacher_findings(dense: VariantReport) -> Iterable[str]:
    teacher = dense.lineage.bigger_teacher
    if teacher is None or dense.evaluation is None or not teacher.evaluation.accuracy.value:
        return
    own, other = dense.evaluation.accuracy.value, teacher.evaluation.accuracy.value
    yield (
        f"dense learned the answers of {teacher.name} ({teacher.architecture}, {teacher.parameters / 1e6:,.1f} million "
        f"parameters), which is right on {percent(other)} of the test rows; dense keeps {percent(own / other)} of that."
    )


def _accuracy_findings(row: VariantReport) -> Iterable[str]:
    agreement = row.evaluation.agreement if row.evaluation else None
    if agreement is None:
        return
    change = "loss" if agreement.only_reference_right > agreement.only_this_right else "gain"
    yield _judged(
        f"{row.variant} keeps {percent(agreement.accuracy_kept.value)} of the accuracy of dense",
        agreement.accuracy_kept,
        by_chance="the difference is not statistically significant on these rows",
        otherwise=f"the {change} is statistically significant",
        p=agreement.mcnemar_p,
        test="McNemar",
    )


def _score_findings(row: VariantReport) -> Iterable[str]:
    agreement = row.score_evaluation.agreement if row.score_evaluation else None
    if agreement is None:
        return
    nearer = "dense" if agreement.only_reference_nearer > agreement.only_this_nearer else "it"
    yield _judged(
        f"{row.variant} puts {percent(agreement.same_order.value)} of all pairs of test rows in the order of dense",
        agreement.same_order,
        by_chance="neither is nearer to the true numbers by more than chance",
        otherwise=f"{nearer} is nearer to the true numbers, which is statistically significant",
        p=agreement.nearer_p,
        test="sign test",
    )


def _judged(summary: str, interval: Interval, *, by_chance: str, otherwise: str, p: float, test: str) -> str:
    """Return a sentence on a figure, its interval, and the verdict of a test."""
    verdict = by_chance if p >= SIGNIFICANT else otherwise
    limits = f"95 % interval {percent(interval.low)} to {percent(interval.high)}"
    return f"{summary} ({limits}); {verdict} ({test} p = {p:.2g})."


def token_table_sentences(table: TokenTable | None, bits: int | None) -> list[str]:
    """Describe a reduced token table: shared rows, low rank, entries of `bits` bits."""
    sentences = []
    if table is not None and table.rows < table.tokens:
        sentences.append(
            f"The token table has {table.rows:,} rows for {table.tokens:,} tokens; each token without a row "
            "uses the row of its nearest token."
        )
    if table is not None and table.rank is not None:
        sentences.append(
            f"The token table has rank {table.rank}, which keeps {percent(table.energy_kept)} of the squared length of "
            "its rows, weighted by occurrences in the training texts."
        )
    if bits == 4:
        sentences.append("Each entry of the token table has 4 bits.")
    return sentences


def _smaller_encoder_findings(row: VariantReport, dense: VariantReport) -> Iterable[str]:
    kept = row.encoder_kept
    if kept is None or not kept.smaller or row.ratios is None:
        return
    summary = (
        f"The encoder of {row.variant} has {row.encoder_linear.parameters:,} of dense's "
        f"{dense.encoder_linear.parameters:,} weights in {kept.matrices_are} {'' if row.pruned else 'dense '}"
        f"matrices: {dense.flops.dense / max(row.flops.dense, 1):.1f}x fewer operations"
    )
    if row.pruned:
        yield f"{summary}, zeros included. {percent(kept.weights)} of dense's weights remain and are not zero."
    else:
        file = f"Its file{', in int8,' if row.precision == 'int8' else ''} is"
        yield f"{summary}. {file} {smaller(row.ratios.bytes)} than dense's."


def _token_table_findings(row: VariantReport) -> Iterable[str]:
    sentences = token_table_sentences(row.token_table, row.token_bits)
    if sentences:
        yield f"{row.variant} has a smaller token table. {' '.join(sentences)}"


def _zeros_findings(row: VariantReport) -> Iterable[str]:
    if not row.pruned or row.ratios is None:
        return
    yield (
        f"{row.variant} has {percent(row.encoder_linear.sparsity)} zeros in the linear layers of the encoder (the "
        f"usual figure in papers) and {percent(row.whole_model.sparsity)} in the whole model, embeddings included. Its "
        f"file is {smaller(row.ratios.bytes)} than dense's as stored and {smaller(row.ratios.bytes_zipped)} when "
        f"zipped. A runtime that skips zeros needs {row.ratios.flops:.1f}x fewer operations."
    )


def smaller(ratio: float) -> str:
    """Describe a ratio of bytes: `3.9x smaller`, or `no smaller`."""
    return f"{ratio:.1f}x smaller" if ratio >= 1.05 else "no smaller"


def _speed_findings(row: VariantReport) -> Iterable[str]:
    if row.cost is None or not row.cost.latency:
        return
    against_fp32 = _mean_ratio(point.speedup for point in row.cost.latency)
    ratios_int8 = [point.speedup_int8 for point in row.cost.latency if point.speedup_int8]
    against_int8 = _mean_ratio(ratios_int8) if ratios_int8 else None
    measured = f"{row.variant} runs at {against_fp32:.2f}x the speed of fp32 dense (geometric mean over the grid)"
    if row.precision == "fp32" and row.pruned and _same(against_fp32):
        yield f"{measured}: stock ONNX Runtime multiplies by zeros, so sparsity alone does not make it faster."
    elif row.precision == "int8" and row.pruned and against_int8 is not None and _same(against_int8):
        yield (
            f"{measured} and at {against_int8:.2f}x that of int8 dense: "
            "its speed-up comes from quantisation, not from its zeros."
        )
    elif against_int8 is not None and row.variant != str(Variant(DENSE, "int8")):
        yield f"{measured} and at {against_int8:.2f}x that of int8 dense."
    else:
        yield f"{measured}."


def _sparse_findings(row: VariantReport) -> Iterable[str]:
    if row.sparse is None or not row.sparse.latency:
        return
    points = row.sparse.latency
    against_fp32 = _mean_ratio(point.speedup for point in points)
    ratios_int8 = [point.speedup_int8 for point in points if point.speedup_int8]
    int8 = f" and {_mean_ratio(ratios_int8):.2f}x that of int8 dense" if ratios_int8 else ""
    slower = len(points) - len(row.sparse.faster_at)
    exception = "" if not slower else f"; in {slower} of {len(points)} cells stock ONNX Runtime is faster"
    yield (
        f"In the sparse runtime ({row.sparse.isa} kernels) {row.variant} runs at {against_fp32:.2f}x the speed of fp32 "
        f"dense{int8} (geometric means over the grid{exception}). {_sparse_agreement(row.sparse)}"
    )


def _sparse_agreement(sparse: SparseCost) -> str:
    if sparse.accuracy is None:
        return (
            f"{percent(sparse.same_labels)} of the pairs of {sparse.rows:,} test rows are in the same order as from "
            "stock ONNX Runtime."
        )
    return (
        f"{percent(sparse.same_labels)} of {sparse.rows:,} test rows get the same label as from stock ONNX Runtime; "
        f"the accuracy is {percent(sparse.accuracy)}."
    )


def _missing(rows: Sequence[VariantReport]) -> Iterable[str]:
    if all(row.variant != DENSE for row in rows):
        yield "There is no dense variant to compare with, so this report has no ratios."
    for row in rows:
        judged = row.evaluation or row.score_evaluation
        if judged is None:
            yield f"{row.variant} was not evaluated."
        elif judged.agreement is None and row.variant != DENSE:
            yield f"{row.variant} was not compared with dense on the same rows."
        if row.cost is None:
            yield f"{row.variant} was not measured."


def _incomparable(rows: Sequence[VariantReport]) -> Iterable[str]:
    if len({row.lineage.data_digest for row in rows}) > 1:
        yield "The variants come from different data; their accuracies are not comparable."
    dense = next((row for row in rows if row.variant == DENSE), None)
    for row in rows:
        judged = row.evaluation or row.score_evaluation
        agreement = judged.agreement if judged else None
        if dense and agreement and agreement.reference != dense.version:
            yield f"{row.variant} was compared with dense {agreement.reference}, which is not the current version."
    costs = [row.cost for row in rows if row.cost]
    if len({(cost.machine, cost.threads) for cost in costs}) > 1:
        yield "The variants were measured on different machines: compare speed-ups, not milliseconds."
    elif len({cost.measured_at for cost in costs}) > 1:
        yield (
            "The variants were measured in several sessions: compare speed-ups, which use the baselines of the same "
            "session, not milliseconds."
        )


def _mean_ratio(ratios: Iterable[float]) -> float:
    logarithms = [math.log(ratio) for ratio in ratios]
    return math.exp(sum(logarithms) / len(logarithms))


def _same(ratio: float) -> bool:
    return SAME_SPEED[0] <= ratio <= SAME_SPEED[1]
