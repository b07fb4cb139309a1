"""Write the demo's report into benchmarks/results/ and the README's tables from it: no figure is typed by hand."""

import argparse
from pathlib import Path

from benchmarks.markdown_tables import table, write_between
from sparserve.models.bundle.store import Store
from sparserve.models.files import write_atomically
from sparserve.models.report.builder import build_report
from sparserve.models.report.schema import Report, VariantReport

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "demo.json"
CELLS = ((1, 16), (1, 64), (1, 128), (8, 64))


def variants(report: Report) -> str:
    """The report's main figures as a Markdown table, and the machine that they were taken on."""
    cells = [f"ms {batch} x {length}" for batch, length in CELLS]
    header = ["variant", "accuracy [95 %]", "of dense", "encoder zeros", "MB (zipped)", *cells, "x fp32", "x int8"]
    rows = []
    for variant in report.variants:
        rows += [_row(variant), _sparse_row(variant)] if variant.sparse else [_row(variant)]
    machines = {
        f"{v.cost.machine.cpu}, {' '.join(v.cost.machine.isa)}; {v.cost.threads} threads"
        for v in report.variants
        if v.cost is not None
    }
    (sentences,) = {v.evaluation.rows for v in report.variants if v.evaluation is not None}
    measured = f"{sentences:,} test sentences. Measured on: {'; '.join(sorted(machines))}."
    return f"{table(header, rows, figures=False)}\n\n{measured}\n"


def _row(variant: VariantReport) -> list[str]:
    evaluation, cost = variant.evaluation, variant.cost
    assert evaluation is not None and cost is not None
    accuracy = evaluation.accuracy
    kept = evaluation.agreement.accuracy_kept if evaluation.agreement else None
    speeds = {(speed.batch, speed.length): speed for speed in cost.latency}
    reference = speeds[1, 64]
    return [
        f"`{variant.variant}`",
        f"{100 * accuracy.value:.1f} [{100 * accuracy.low:.1f}, {100 * accuracy.high:.1f}]",
        f"{100 * kept.value:.1f} %" if kept else "-",
        f"{100 * variant.encoder_linear.sparsity:.1f} %",
        f"{variant.sizes.onnx / 1e6:.1f} ({variant.sizes.onnx_zipped / 1e6:.1f})",
        *(f"{1000 * speeds[cell].p50_seconds:.1f}" for cell in CELLS),
        f"{reference.speedup:.2f}",
        f"{reference.speedup_int8:.2f}" if reference.speedup_int8 else "-",
    ]


def _sparse_row(variant: VariantReport) -> list[str]:
    sparse = variant.sparse
    assert sparse is not None
    speeds = {(speed.batch, speed.length): speed for speed in sparse.latency}
    reference = speeds[1, 64]
    return [
        "+ sparse runtime",
        f"{100 * sparse.accuracy:.1f}",
        "",
        "",
        f"{sparse.bytes / 1e6:.1f}",
        *(f"{1000 * speeds[cell].p50_seconds:.1f}" for cell in CELLS),
        f"**{reference.speedup:.2f}**",
        f"**{reference.speedup_int8:.2f}**" if reference.speedup_int8 else "-",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("store"))
    parser.add_argument("--task", default="movie-sentiment")
    arguments = parser.parse_args()
    report = build_report(Store(arguments.store), arguments.task)
    write_atomically(RESULT, report.model_dump_json(indent=1) + "\n")
    content = variants(report)
    write_between(ROOT / "README.md", content, begin="<!-- demo table -->", end="<!-- end -->")
    print(content)


if __name__ == "__main__":
    main()
