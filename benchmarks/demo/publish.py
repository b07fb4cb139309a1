"""Write the demo's tables and picture from benchmarks/results/demo.json.

With `--store`, first write that file from the report of a store. The README gets four rows and the picture,
docs/benchmarks/demo.md the whole table.
"""

import argparse
from pathlib import Path

import matplotlib
from matplotlib import pyplot
from matplotlib.ticker import NullLocator

from benchmarks.markdown_tables import table, write_between
from sparserve.models.bundle.store import Store
from sparserve.models.files import write_atomically
from sparserve.models.report.builder import build_report
from sparserve.models.report.schema import Report, VariantReport

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "demo.json"
README = ROOT / "README.md"
PAGE = ROOT / "docs" / "benchmarks" / "demo.md"
PICTURE = ROOT / "docs" / "benchmarks" / "demo.svg"
CELLS = ((1, 16), (1, 64), (1, 128), (8, 64))
HEADLINE = ((1, 64), ("dense", "dense-int8", "sparse90-int8", "sparse95-int8"))


def headline(report: Report) -> str:
    """Return four rows as a Markdown table: what is served for each variant, against ONNX Runtime's dense models."""
    cell, names = HEADLINE
    variants = {variant.variant: variant for variant in report.variants}
    header = ["", "accuracy [95 %]", "encoder zeros", "file, MB", "x ORT fp32", "x ORT int8"]
    rows = []
    for name in names:
        variant = variants[name]
        evaluation = variant.evaluation
        assert evaluation is not None
        interval = f"[{100 * evaluation.accuracy.low:.1f}, {100 * evaluation.accuracy.high:.1f}]"
        accuracy, size, speedup, speedup_int8 = _served(variant, cell)
        runtime = "the sparse runtime" if variant.sparse else "ONNX Runtime"
        rows.append(
            [
                f"`{name}` in {runtime}",
                f"{100 * accuracy:.1f} {interval}",
                f"{100 * variant.encoder_linear.sparsity:.0f} %",
                f"{size / 1e6:.1f}",
                f"{speedup:.2f}",
                f"{speedup_int8:.2f}",
            ]
        )
    return f"{table(header, rows)}\n"


def picture(report: Report, path: Path) -> None:
    """Draw accuracy against latency, relative to ONNX Runtime's dense fp32 model, of the same four."""
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "sparserve"  # the same figures give the same file
    cell, names = HEADLINE
    variants = {variant.variant: variant for variant in report.variants}
    figure, axes = pyplot.subplots(figsize=(7.5, 3))
    dense = variants["dense"].evaluation
    assert dense is not None
    axes.axhspan(100 * dense.accuracy.low, 100 * dense.accuracy.high, color="0.93", label="95 % interval of dense")
    looks = (("#555555", "left"), ("#1f77b4", "center"), ("#00897b", "left"), ("#00897b", "left"))
    for name, (colour, side) in zip(names, looks, strict=True):
        accuracy, _, speedup, _ = _served(variants[name], cell)
        axes.plot(1 / speedup, 100 * accuracy, "o", color=colour, markersize=9)
        note = f"{name}, {speedup:.1f} x as fast" if speedup != 1 else f"{name} fp32"
        shift = (9, -3) if side == "left" else (0, 9)
        axes.annotate(note, (1 / speedup, 100 * accuracy), shift, textcoords="offset points", ha=side, fontsize=9)
    axes.set_xscale("log")
    axes.set_xlim(0.1, 1.6)
    axes.set_ylim(85, 91)
    axes.set_xticks([0.1, 0.2, 0.5, 1], ["0.1", "0.2", "0.5", "1"])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(f"latency relative to dense fp32 ({cell[0]} x {cell[1]} tokens); left is faster")
    axes.set_ylabel("accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)


def _served(variant: VariantReport, cell: tuple[int, int]) -> tuple[float, int, float, float]:
    """Return accuracy, bytes and speed against ORT fp32 and int8 of the file that the service runs."""
    if variant.sparse is not None:
        accuracy, size, latency = variant.sparse.accuracy, variant.sparse.bytes, variant.sparse.latency
    else:
        assert variant.evaluation is not None and variant.cost is not None
        accuracy, size, latency = variant.evaluation.accuracy.value, variant.sizes.onnx, variant.cost.latency
    (speed,) = (speed for speed in latency if (speed.batch, speed.length) == cell)
    assert speed.speedup_int8 is not None
    return accuracy, size, speed.speedup, speed.speedup_int8


def variants(report: Report) -> str:
    """Return the main figures of the report as a Markdown table, with the machine of the measurement."""
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
    parser.add_argument("--store", type=Path, help="store whose report replaces benchmarks/results/demo.json")
    parser.add_argument("--task", default="movie-sentiment")
    arguments = parser.parse_args()
    if arguments.store is not None:
        report = build_report(Store(arguments.store), arguments.task)
        write_atomically(RESULT, report.model_dump_json(indent=1) + "\n")
    report = Report.model_validate_json(RESULT.read_bytes())
    write_between(README, headline(report))
    write_between(PAGE, variants(report))
    picture(report, PICTURE)
    print(variants(report))


if __name__ == "__main__":
    main()
