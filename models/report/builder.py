"""Build and write the compression report of a task from the bundles of a store."""

import datetime
import math
import re
from collections.abc import Iterable

from rich.table import Table

from sparserve.models.bundle.bundle import Bundle
from sparserve.models.bundle.manifest import Interval, Manifest
from sparserve.models.bundle.store import Store
from sparserve.models.bundle.variants import DENSE
from sparserve.models.errors import BundleError, StoreError
from sparserve.models.files import write_atomically
from sparserve.models.report.findings import findings
from sparserve.models.report.plots import plots
from sparserve.models.report.rendering import percent, plain_interval, render
from sparserve.models.report.schema import (
    PREFERRED_CELL,
    Cost,
    EncoderKept,
    Matrix,
    Ratios,
    Report,
    SparseCost,
    Speed,
    VariantReport,
    Zeros,
    token_bits,
)


def build_report(store: Store, task: str) -> Report:
    """Return the report of a task from the current bundles of its variants. Does not read their weights.

    Raises:
        StoreError: there is no such task, or none of its bundles is readable.
    """
    default = store.default_variant(task)
    bundles: list[Bundle] = []
    unreadable: list[str] = []
    for variant in store.variants(task):
        try:
            bundles.append(store.open(task, variant, verify=False))
        except (BundleError, StoreError) as error:
            unreadable.append(f"{variant} is not in this report: {error}")
    if not bundles:
        raise StoreError(f"no bundle of task {task!r} is readable: {'; '.join(unreadable)}")
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
    """Write a task's report into the store as JSON, Markdown and HTML, each file atomically.

    Raises:
        StoreError: there is no such task, or none of its bundles is readable.
        EnvironmentFault: the disk is full or the store is not writable.
    """
    report = build_report(store, task)
    write_atomically(store.report_path(task, "json"), report.model_dump_json(indent=1) + "\n")
    write_atomically(store.report_path(task, "markdown"), to_markdown(report))
    write_atomically(store.report_path(task, "html"), to_html(report))
    return report


def to_markdown(report: Report) -> str:
    """Return the report as GitHub-flavoured Markdown."""
    return render("report.md.j2", report=report)


def to_html(report: Report) -> str:
    """Return the report as one offline HTML page of about 5 MB, nearly all of it the plotting library."""
    # Imported here because only HTML needs this 5 MB source.
    from plotly.offline import get_plotlyjs

    return render("report.html.j2", report=report, plots=plots(report), plotly=get_plotlyjs())


def terminal_table(report: Report) -> Table:
    """Return the summary table for a terminal."""
    batch, length = report.cell or PREFERRED_CELL
    table = Table(title=f"{report.task}: compression against accuracy", title_justify="left")
    table.add_column("variant", no_wrap=True)
    quality = "Spearman [95 % CI]" if report.one_score else "accuracy [95 % CI]"
    for heading in (
        quality, "kept", "encoder\nweights", "MB\n(zipped)", f"p50 ms\n{batch} x {length}",
        "x fp32", "x int8", "agree-\nment",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    if teacher := report.bigger_teacher:
        accuracy, size = percent_interval(teacher.evaluation.accuracy), f"{4 * teacher.parameters / 1e6:.1f}"
        table.add_row("bigger teacher", accuracy, "", "", size, "", "", "", "")
    for row in report.variants:
        speed = row.speed(report.cell)
        table.add_row(
            f"{row.variant} *" if row.variant == report.default_variant else row.variant,
            *_quality(row),
            percent(row.encoder_kept.weights) if row.encoder_kept else "-",
            f"{row.sizes.onnx / 1e6:.1f} ({row.sizes.onnx_zipped / 1e6:.1f})",
            f"{1000 * speed.p50_seconds:.1f}" if speed else "-",
            f"{speed.speedup:.2f}" if speed else "-",
            f"{speed.speedup_int8:.2f}" if speed and speed.speedup_int8 else "-",
            "-" if row.same_as_dense is None else percent(row.same_as_dense),
        )
        if row.sparse and (speed := row.sparse.speed(report.cell)):
            table.add_row(
                "  sparse runtime",
                "-" if row.sparse.accuracy is None else percent(row.sparse.accuracy),
                "",
                "",
                f"{row.sparse.bytes / 1e6:.1f}",
                f"{1000 * speed.p50_seconds:.1f}",
                f"{speed.speedup:.2f}",
                f"{speed.speedup_int8:.2f}" if speed.speedup_int8 else "-",
                "",
            )
    table.caption = (
        f"* default variant. kept, encoder weights, agreement{' (order of pairs of rows)' * report.one_score}: "
        "relative to dense. x: speed-up over dense ONNX Runtime."
    )
    table.caption_justify = "left"
    return table


def _quality(row: VariantReport) -> tuple[str, str]:
    """Return the accuracy or Spearman's correlation, and the part of dense's accuracy that is kept; "-" if unknown."""
    if row.score_evaluation:
        return plain_interval(row.score_evaluation.spearman), "-"
    figures = row.evaluation
    agreement = figures.agreement if figures else None
    return (
        percent_interval(figures.accuracy) if figures else "-",
        percent(agreement.accuracy_kept.value) if agreement else "-",
    )


def percent_interval(interval: Interval) -> str:
    """Format an interval in percent, such as `86.3 [84.1, 88.4]`."""
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


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
        score_evaluation=manifest.score_evaluation,
        calibration=manifest.calibration,
        encoder_linear=Zeros.of(manifest.sparsity.encoder_linear),
        encoder_kept=EncoderKept.of(manifest.sparsity, dense.sparsity) if dense else None,
        all_linear=Zeros.of(manifest.sparsity.all_linear),
        whole_model=Zeros.of(manifest.sparsity.whole_model),
        matrices=tuple(_matrices(manifest)),
        token_table=manifest.token_table,
        token_bits=token_bits(manifest.sparsity),
        sizes=manifest.sizes,
        flops=manifest.flops,
        cost=cost,
        sparse=_sparse(manifest, dense),
        ratios=_ratios(manifest, dense) if dense else None,
        teacher_training=manifest.teacher_training,
        student_training=manifest.student_training,
        recipe=manifest.recipe,
        lineage=manifest.lineage,
    )


def _sparse(manifest: Manifest, dense: Manifest | None) -> SparseCost | None:
    measured = manifest.measurement.sparse if manifest.measurement else None
    if measured is None or manifest.packed is None:
        return None
    return SparseCost(
        **{name: value for name, value in measured if name != "latency"},
        bytes=manifest.packed.bytes,
        encoder_bytes=manifest.packed.encoder_bytes,
        bytes_ratio=dense.sizes.onnx / max(manifest.packed.bytes, 1) if dense else None,
        latency=tuple(map(Speed.of, measured.latency)),
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
    """Return the encoder's matrices, sorted by layer and name."""
    matrices = []
    for tensor in manifest.sparsity.tensors:
        place = re.search(r"\.(\d+)\.(.+?)(?:\.weight)?$", tensor.name)
        if tensor.group == "encoder_linear" and place:
            parameters = math.prod(tensor.shape)
            sparsity = 1 - tensor.nonzero / parameters if parameters else 0.0
            matrices.append(
                Matrix(
                    layer=int(place[1]),
                    matrix=place[2],
                    parameters=parameters,
                    nonzero=tensor.nonzero,
                    sparsity=round(sparsity, 6),
                )
            )
    return sorted(matrices, key=lambda matrix: (matrix.layer, matrix.matrix))
