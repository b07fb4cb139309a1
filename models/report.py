"""The compression/accuracy report of a task: what each variant costs and keeps, from the bundles of a store."""

import datetime
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, Self

from pydantic import Field
from rich.table import Table

from models.bundle import Bundle
from models.errors import BundleError, StoreError
from models.files import write_atomically
from models.manifest import (
    Count,
    Density,
    Evaluation,
    Flops,
    Fraction,
    Interval,
    LatencyPoint,
    Lineage,
    Machine,
    Manifest,
    Name,
    ProblemType,
    Record,
    Seconds,
    Sizes,
    Version,
)
from models.store import Store
from models.templates import percent, render

REPORT_SCHEMA_VERSION: Final = 1
DENSE: Final = "dense"
PREFERRED_CELL: Final = (1, 64)
# Ratios of latencies this near to 1 are within what a shared machine's noise makes of equal graphs.
SAME_SPEED: Final = (0.9, 1.1)
SIGNIFICANT: Final = 0.05
PRUNED_FROM: Final = 0.25


class Zeros(Record):
    """A group of parameters: how many, how many not zero, and the fraction that is zero."""

    parameters: Count
    nonzero: Count
    sparsity: Fraction

    @classmethod
    def of(cls, density: Density) -> Self:
        """The same figures with the fraction spelled out for readers of the JSON."""
        return cls(parameters=density.parameters, nonzero=density.nonzero, sparsity=round(density.sparsity, 6))


class Matrix(Record):
    """One of the encoder's matrices."""

    layer: Count
    matrix: str = Field(description="the parameter's name inside its layer")
    parameters: Count
    nonzero: Count
    sparsity: Fraction


class Speed(Record):
    """One cell of the latency grid; speed-ups are ratios of medians taken interleaved in one process."""

    batch: Count
    length: Count
    p50_seconds: Seconds
    p95_seconds: Seconds
    items_per_second: float
    speedup: float = Field(description="times faster than ONNX Runtime fp32 dense")
    speedup_int8: float | None = Field(description="times faster than ONNX Runtime int8 dense")

    @classmethod
    def of(cls, point: LatencyPoint) -> Self:
        """A latency point with its ratios."""
        return cls(
            **point.model_dump(exclude={"dense_p50_seconds", "dense_int8_p50_seconds"}),
            speedup=point.speedup,
            speedup_int8=point.speedup_int8,
        )


class Cost(Record):
    """What a variant costs to run, and where that was measured."""

    measured_at: str
    machine: Machine
    threads: Count
    repeats: Count
    resident_bytes: Count
    latency: tuple[Speed, ...]


class Ratios(Record):
    """How many times less than the dense variant of the same report."""

    bytes: float
    bytes_zipped: float
    flops: float
    resident_bytes: float | None


class VariantReport(Record):
    """One row of the report."""

    variant: Name
    version: Version
    architecture: str
    precision: Literal["fp32", "int8"]
    evaluation: Evaluation | None
    encoder_linear: Zeros
    all_linear: Zeros
    whole_model: Zeros
    matrices: tuple[Matrix, ...]
    sizes: Sizes
    flops: Flops
    cost: Cost | None
    ratios: Ratios | None = Field(description="None where there is no dense variant")
    recipe: dict[str, Any]
    lineage: Lineage

    def speed(self, cell: tuple[int, int] | None) -> Speed | None:
        """The latency of a cell (batch, length), if it was measured."""
        points = self.cost.latency if self.cost else ()
        return next((point for point in points if (point.batch, point.length) == cell), None)

    @property
    def pruned(self) -> bool:
        """Whether the encoder has more zeros than rounding makes."""
        return self.encoder_linear.sparsity >= PRUNED_FROM


class Report(Record):
    """What compression cost and what it brought, for all variants of a task; dense first."""

    schema_version: Literal[1] = REPORT_SCHEMA_VERSION
    task: Name
    created_at: str = Field(description="UTC, ISO 8601")
    default_variant: Name
    labels: tuple[str, ...]
    problem_type: ProblemType
    findings: tuple[str, ...] = Field(description="what the figures say, computed from them")
    variants: tuple[VariantReport, ...] = Field(min_length=1)

    @property
    def cells(self) -> list[tuple[int, int]]:
        """Every (batch, length) that was measured for some variant."""
        return sorted({(p.batch, p.length) for row in self.variants if row.cost for p in row.cost.latency})

    @property
    def cell(self) -> tuple[int, int] | None:
        """The cell that summaries show: 1 x 64 tokens, or the nearest that was measured; None if none was."""
        batch, length = PREFERRED_CELL
        near = sorted(self.cells, key=lambda c: (abs(c[0] - batch), abs(c[1] - length), c))
        return near[0] if near else None

    @property
    def headline(self) -> VariantReport:
        """The variant to speak of first: the default one if it is compressed, else the last that is."""
        by_name = {row.variant: row for row in self.variants}
        if self.default_variant != DENSE and self.default_variant in by_name:
            return by_name[self.default_variant]
        return self.variants[-1]


def build_report(store: Store, task: str) -> Report:
    """The report of a task from the current bundles of its variants, whose weights are not read.

    Raises:
        StoreError: there is no such task, or none of its bundles can be read.
    """
    default = store.default_variant(task)
    bundles: list[Bundle] = []
    unreadable: list[str] = []
    for variant in store.variants(task):
        try:
            bundles.append(store.open(task, variant, verify=False))
        except (BundleError, StoreError) as error:
            unreadable.append(f"{variant} is left out: {error}")
    if not bundles:
        raise StoreError(f"no bundle of task {task!r} can be read: {'; '.join(unreadable)}")
    manifests = [bundle.manifest for bundle in bundles]
    dense = next((m for m in manifests if m.variant == DENSE), None)
    rows = tuple(_row(manifest, dense) for manifest in manifests)
    return Report(
        task=task,
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        default_variant=default,
        labels=manifests[0].labels,
        problem_type=manifests[0].problem_type,
        findings=(*findings(rows), *unreadable),
        variants=rows,
    )


def write_report(store: Store, task: str) -> Report:
    """Write a task's report into the store as JSON, Markdown and HTML, each file whole or not at all.

    Raises:
        StoreError: there is no such task, or none of its bundles can be read.
        EnvironmentFault: the disk is full or the store cannot be written.
    """
    report = build_report(store, task)
    write_atomically(store.report_path(task, "json"), report.model_dump_json(indent=1) + "\n")
    write_atomically(store.report_path(task, "markdown"), to_markdown(report))
    write_atomically(store.report_path(task, "html"), to_html(report))
    return report


def to_markdown(report: Report) -> str:
    """The report as GitHub-flavoured Markdown."""
    return render("report.md.j2", report=report)


def to_html(report: Report) -> str:
    """The report as one page that needs no network: about 5 MB, nearly all of it the plots' library."""
    # Imported late: the library's source is 5 MB, and only pages need it.
    from plotly.offline import get_plotlyjs

    from models.plots import plots

    return render("report.html.j2", report=report, plots=plots(report), plotly=get_plotlyjs())


def terminal_table(report: Report) -> Table:
    """The report's summary for a terminal."""
    batch, length = report.cell or PREFERRED_CELL
    table = Table(title=f"{report.task}: compression against accuracy", title_justify="left")
    table.add_column("variant", no_wrap=True)
    for heading in (
        "accuracy [95 % CI]", "kept", "encoder\nsparsity", "MB\n(zipped)", f"p50 ms\n{batch} x {length}",
        "x fp32", "x int8", "agree-\nment",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for row in report.variants:
        figures, speed = row.evaluation, row.speed(report.cell)
        agreement = figures.agreement if figures else None
        table.add_row(
            f"{row.variant} *" if row.variant == report.default_variant else row.variant,
            percent_interval(figures.accuracy) if figures else "-",
            percent(agreement.accuracy_kept.value) if agreement else "-",
            percent(row.encoder_linear.sparsity),
            f"{row.sizes.onnx / 1e6:.1f} ({row.sizes.onnx_zipped / 1e6:.1f})",
            f"{1000 * speed.p50_seconds:.1f}" if speed else "-",
            f"{speed.speedup:.2f}" if speed else "-",
            f"{speed.speedup_int8:.2f}" if speed and speed.speedup_int8 else "-",
            percent(agreement.agreement.value) if agreement else "-",
        )
    table.caption = "* answers by default. kept, agreement: against dense. x: times faster than ONNX Runtime dense."
    table.caption_justify = "left"
    return table


def percent_interval(interval: Interval) -> str:
    """`86.3 [84.1, 88.4]`, in percent."""
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def findings(rows: Sequence[VariantReport]) -> list[str]:
    """What the figures of all variants say, one sentence each; nothing is claimed that the figures do not show."""
    found = [*_what_is_missing(rows), *_what_cannot_be_compared(rows)]
    for row in rows:
        if row.variant != DENSE:
            found += [*_accuracy_findings(row), *_size_findings(row), *_speed_findings(row)]
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


def _size_findings(row: VariantReport) -> Iterable[str]:
    if not row.pruned or row.ratios is None:
        return
    yield (
        f"{row.variant} has {percent(row.encoder_linear.sparsity)} zeros in the encoder's linears, the figure that the "
        f"literature quotes; of the whole model, embeddings included, {percent(row.whole_model.sparsity)}. Its file is "
        f"{_smaller(row.ratios.bytes)} than dense's as stored and {_smaller(row.ratios.bytes_zipped)} deflated; "
        f"skipping the zeros would take {row.ratios.flops:.1f}x fewer operations."
    )


def _smaller(ratio: float) -> str:
    return f"{ratio:.1f}x smaller" if ratio >= 1.05 else "no smaller"


def _speed_findings(row: VariantReport) -> Iterable[str]:
    if row.cost is None or not row.cost.latency:
        return
    against_fp32 = _mean_ratio(point.speedup for point in row.cost.latency)
    ratios_int8 = [point.speedup_int8 for point in row.cost.latency if point.speedup_int8]
    against_int8 = _mean_ratio(ratios_int8) if ratios_int8 else None
    measured = f"{row.variant} runs at {against_fp32:.2f}x the speed of fp32 dense (geometric mean over the grid)"
    if row.precision == "fp32" and row.pruned and _same(against_fp32):
        yield f"{measured}: the runtime multiplies by the zeros, so sparsity alone buys no speed in it."
    elif row.precision == "int8" and row.pruned and against_int8 is not None and _same(against_int8):
        yield (
            f"{measured} and at {against_int8:.2f}x that of int8 dense: "
            "what it gains in speed comes from quantisation, not from its zeros."
        )
    elif against_int8 is not None and row.variant != f"{DENSE}-int8":
        yield f"{measured} and at {against_int8:.2f}x that of int8 dense."
    else:
        yield f"{measured}."


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


def _row(manifest: Manifest, dense: Manifest | None) -> VariantReport:
    measurement = manifest.measurement
    cost = None
    if measurement:
        latency = tuple(map(Speed.of, measurement.latency))
        cost = Cost(
            **{name: getattr(measurement, name) for name in Cost.model_fields if name != "latency"}, latency=latency
        )
    return VariantReport(
        variant=manifest.variant,
        version=manifest.version,
        architecture=manifest.architecture,
        precision=manifest.precision,
        evaluation=manifest.evaluation,
        encoder_linear=Zeros.of(manifest.sparsity.encoder_linear),
        all_linear=Zeros.of(manifest.sparsity.all_linear),
        whole_model=Zeros.of(manifest.sparsity.whole_model),
        matrices=tuple(_matrices(manifest)),
        sizes=manifest.sizes,
        flops=manifest.flops,
        cost=cost,
        ratios=_ratios(manifest, dense) if dense else None,
        recipe=manifest.recipe,
        lineage=manifest.lineage,
    )


def _ratios(manifest: Manifest, dense: Manifest) -> Ratios:
    resident = None
    if manifest.measurement and dense.measurement and manifest.measurement.resident_bytes:
        resident = dense.measurement.resident_bytes / manifest.measurement.resident_bytes
    return Ratios(
        bytes=dense.sizes.onnx / max(manifest.sizes.onnx, 1),
        bytes_zipped=dense.sizes.onnx_zipped / max(manifest.sizes.onnx_zipped, 1),
        flops=dense.flops.dense / max(manifest.flops.effective, 1),
        resident_bytes=resident,
    )


def _matrices(manifest: Manifest) -> Iterable[Matrix]:
    """The encoder's matrices, by layer, in the order of their names."""
    found = []
    for tensor in manifest.sparsity.tensors:
        place = re.search(r"\.(\d+)\.(.+?)(?:\.weight)?$", tensor.name)
        if tensor.group == "encoder_linear" and place:
            parameters = math.prod(tensor.shape)
            sparsity = 1 - tensor.nonzero / parameters if parameters else 0.0
            found.append(
                Matrix(
                    layer=int(place[1]),
                    matrix=place[2],
                    parameters=parameters,
                    nonzero=tensor.nonzero,
                    sparsity=round(sparsity, 6),
                )
            )
    return sorted(found, key=lambda matrix: (matrix.layer, matrix.matrix))


def _mean_ratio(ratios: Iterable[float]) -> float:
    logarithms = [math.log(ratio) for ratio in ratios]
    return math.exp(sum(logarithms) / len(logarithms))


def _same(ratio: float) -> bool:
    return SAME_SPEED[0] <= ratio <= SAME_SPEED[1]
