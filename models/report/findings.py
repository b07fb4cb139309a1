"""What a report's figures say, in sentences computed from them: nothing is claimed that they do not show."""

import math
from collections.abc import Iterable, Sequence
from typing import Final

from sparserve.models.bundle.manifest import TokenTable
from sparserve.models.bundle.variants import DENSE, Variant
from sparserve.models.report.rendering import percent
from sparserve.models.report.schema import VariantReport

# Ratios of latencies this near to 1 are within what a shared machine's noise makes of equal graphs.
SAME_SPEED: Final = (0.9, 1.1)
SIGNIFICANT: Final = 0.05


def findings(rows: Sequence[VariantReport]) -> list[str]:
    """What the figures of all variants say, one sentence each; nothing is claimed that the figures do not show."""
    found = [*_what_is_missing(rows), *_what_cannot_be_compared(rows)]
    dense = next((row for row in rows if row.variant == DENSE), None)
    for row in rows:
        if row.variant != DENSE:
            found += [
                *_accuracy_findings(row),
                *(_smaller_encoder_findings(row, dense) if dense else ()),
                *_zeros_findings(row),
                *_token_table_findings(row),
                *_speed_findings(row),
                *_sparse_findings(row),
            ]
    sized = next((row.evaluation for row in rows if row.evaluation), None)
    if sized:
        points = 50 * (sized.accuracy.high - sized.accuracy.low)
        found.append(
            f"{sized.rows:,} test rows fix an accuracy to about ±{points:.1f} points: smaller differences between "
            "variants are settled by the paired figures (accuracy kept, McNemar's test), if at all."
        )
    return found


def _accuracy_findings(row: VariantReport) -> Iterable[str]:
    agreement = row.evaluation.agreement if row.evaluation else None
    if agreement is None:
        return
    kept = agreement.accuracy_kept
    says = (
        f"{row.variant} keeps {percent(kept.value)} of dense's accuracy "
        f"(95 % interval {percent(kept.low)} to {percent(kept.high)})"
    )
    p = f"McNemar p = {agreement.mcnemar_p:.2g}"
    if agreement.mcnemar_p >= SIGNIFICANT:
        yield f"{says}; the difference cannot be told from chance on these rows ({p})."
    elif agreement.only_reference_right > agreement.only_this_right:
        yield f"{says}; the loss is real, not chance ({p})."
    else:
        yield f"{says}; it is better than dense beyond chance ({p})."


def token_table_sentences(table: TokenTable | None, bits: int | None) -> list[str]:
    """What a reader must know of a token table: that tokens share rows, its low rank, its entries of `bits` bits."""
    said = []
    if table is not None and table.rows < table.tokens:
        said.append(
            f"Of {table.tokens:,} tokens {table.rows:,} have embeddings of their own; every other is read as its "
            "nearest."
        )
    if table is not None and table.rank is not None:
        said.append(
            f"The token table has the rank {table.rank}: that keeps {percent(table.energy_kept)} of the rows' squared "
            "length, each row weighted by its occurrences in the training texts."
        )
    if bits == 4:
        said.append("Each entry of the token table has 4 bits.")
    return said


def _smaller_encoder_findings(row: VariantReport, dense: VariantReport) -> Iterable[str]:
    kept = row.encoder_kept
    if kept is None or not kept.smaller or row.ratios is None:
        return
    says = (
        f"{row.variant}'s encoder has {row.encoder_linear.parameters:,} of dense's {dense.encoder_linear.parameters:,} "
        f"weights in {kept.matrices_are} {'' if row.pruned else 'dense '}matrices: "
        f"{dense.flops.dense / max(row.flops.dense, 1):.1f}x fewer operations"
    )
    if row.pruned:
        yield f"{says}, zeros included; {percent(kept.weights)} of dense's weights are there and not zero."
    else:
        stored = f"its file{', in int8,' if row.precision == 'int8' else ''} is"
        yield f"{says}; {stored} {smaller(row.ratios.bytes)} than dense's."


def _token_table_findings(row: VariantReport) -> Iterable[str]:
    said = token_table_sentences(row.token_table, row.token_bits)
    if said:
        yield f"{row.variant} has a smaller token table. {' '.join(said)}"


def _zeros_findings(row: VariantReport) -> Iterable[str]:
    if not row.pruned or row.ratios is None:
        return
    yield (
        f"{row.variant} has {percent(row.encoder_linear.sparsity)} zeros in the encoder's linears, the figure that the "
        f"literature quotes; of the whole model, embeddings included, {percent(row.whole_model.sparsity)}. Its file is "
        f"{smaller(row.ratios.bytes)} than dense's as stored and {smaller(row.ratios.bytes_zipped)} deflated; "
        f"skipping the zeros would take {row.ratios.flops:.1f}x fewer operations."
    )


def smaller(ratio: float) -> str:
    """A ratio of bytes in words: `3.9x smaller`, or `no smaller`."""
    return f"{ratio:.1f}x smaller" if ratio >= 1.05 else "no smaller"


def _speed_findings(row: VariantReport) -> Iterable[str]:
    if row.cost is None or not row.cost.latency:
        return
    against_fp32 = _mean_ratio(point.speedup for point in row.cost.latency)
    ratios_int8 = [point.speedup_int8 for point in row.cost.latency if point.speedup_int8]
    against_int8 = _mean_ratio(ratios_int8) if ratios_int8 else None
    measured = f"{row.variant} runs at {against_fp32:.2f}x the speed of fp32 dense (geometric mean over the grid)"
    if row.precision == "fp32" and row.pruned and _same(against_fp32):
        yield f"{measured}: stock ONNX Runtime multiplies by the zeros, so sparsity alone buys no speed in it."
    elif row.precision == "int8" and row.pruned and against_int8 is not None and _same(against_int8):
        yield (
            f"{measured} and at {against_int8:.2f}x that of int8 dense: "
            "what it gains in speed comes from quantisation, not from its zeros."
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
    where = "" if not slower else f"; in {slower} of {len(points)} cells stock ONNX Runtime is faster"
    yield (
        f"In the sparse runtime ({row.sparse.isa} kernels) {row.variant} runs at {against_fp32:.2f}x the speed of fp32 "
        f"dense{int8} (geometric means over the grid{where}). It gives {percent(row.sparse.same_labels)} of "
        f"{row.sparse.rows:,} test rows the same label as in stock ONNX Runtime; its accuracy is "
        f"{percent(row.sparse.accuracy)}."
    )


def _what_is_missing(rows: Sequence[VariantReport]) -> Iterable[str]:
    if all(row.variant != DENSE for row in rows):
        yield "There is no dense variant to compare with: ratios are left out."
    for row in rows:
        if row.evaluation is None:
            yield f"{row.variant} was not evaluated."
        elif row.evaluation.agreement is None and row.variant != DENSE:
            yield f"{row.variant} was not compared with dense on the same rows."
        if row.cost is None:
            yield f"{row.variant} was not measured."


def _what_cannot_be_compared(rows: Sequence[VariantReport]) -> Iterable[str]:
    if len({row.lineage.data_digest for row in rows}) > 1:
        yield "The variants come from different data: their accuracies cannot be compared."
    dense = next((row for row in rows if row.variant == DENSE), None)
    for row in rows:
        agreement = row.evaluation.agreement if row.evaluation else None
        if dense and agreement and agreement.reference != dense.version:
            yield f"{row.variant} was compared with dense {agreement.reference}, which is not the current one."
    costs = [row.cost for row in rows if row.cost]
    if len({(cost.machine, cost.threads) for cost in costs}) > 1:
        yield "The variants were measured on different machines: compare their speed-ups, not their milliseconds."
    elif len({cost.measured_at for cost in costs}) > 1:
        yield (
            "The variants were measured in more than one session: compare their speed-ups, each against baselines "
            "of its own session, rather than their milliseconds."
        )


def _mean_ratio(ratios: Iterable[float]) -> float:
    logarithms = [math.log(ratio) for ratio in ratios]
    return math.exp(sum(logarithms) / len(logarithms))


def _same(ratio: float) -> bool:
    return SAME_SPEED[0] <= ratio <= SAME_SPEED[1]
