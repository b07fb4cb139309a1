"""Write the tables of docs/benchmarks/kernels.md from benchmarks/results/kernels-*.json.

One result file and one section for each measured instruction set.
"""

import json
from pathlib import Path
from typing import Any

from benchmarks.kernels.arms import FP32, INT8
from benchmarks.kernels.run import PEER_LENGTHS, PEERS, RESULTS
from benchmarks.markdown_tables import table, write_between

PAGE = Path(__file__).parent.parent.parent / "docs" / "benchmarks" / "kernels.md"
STAGES = ("quantize", "projections", "attention", "attention_output", "norm", "intermediate", "output")


NAMES = {"avx2": "AVX2", "avx2-vnni": "AVX-VNNI", "avx512": "AVX-512", "avx512-vnni": "AVX-512 VNNI", "neon": "NEON"}


def section(results: dict[str, Any]) -> str:
    """What one run measured."""
    isa = NAMES.get(results["isa"], results["isa"])
    machine = results["machine"]
    parts = [
        f"### {isa}",
        f"`python -m benchmarks.kernels --shapes {' '.join(results['shapes'])} --seconds "
        f"{results['settings']['seconds_a_cell']:g}`, {results['measured_at']}: {machine['cpu']} "
        f"({', '.join(machine['isa'])}), {machine['cores']} cores, onnxruntime {machine['onnxruntime']}, "
        f"{results['isa']} kernels. Random weights; "
        'all arms of a cell interleaved in one process, medians. "ORT fp32 dense" is a graph with fused Attention and '
        'GELU, "ORT int8 dense" its dynamic quantisation. The arms without ORT are this runtime: "dense" has no '
        "zeros and shows what fusion, and computing the last layer for the first token only, are worth without any. "
        '"55 %" is near where the packer changes over from scattered nonzeros to dense matrices, and scattered here. '
        f"A cell took {results['settings']['seconds_a_cell']:g} seconds, at least five rounds." + peers(results),
    ]
    for name, shape in results["shapes"].items():
        heading = f"#### {name}, {isa}"
        parts += [f"{heading}: milliseconds", milliseconds(shape), f"{heading}: times faster", ratios(shape)]
        if shape["profiles"]:
            parts += [f"{heading}: where the time goes, one thread, ms", profiles(shape), limits(shape)]
        parts += [f"{heading}: files", files(shape)]
    return "\n\n".join(parts) + "\n"


def peers(results: dict[str, Any]) -> str:
    """Which peers ran, and how."""
    found = []
    for kind, version in results["peers"].items():
        lengths = f", from {PEER_LENGTHS[kind]} tokens on" if PEER_LENGTHS[kind] > 1 else ""
        found.append(f"{PEERS[kind]} ({kind} {version}{lengths})")
    return f" Peers ran in their own process after each cell: {', '.join(found)}." if found else ""


def title(cell: dict[str, Any]) -> str:
    threads = "" if cell["threads"] == 1 else f", {cell['threads']} threads"
    return f"{cell['batch']} x {cell['length']}{threads}"


def arms(shape: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(arm for cell in shape["cells"] for arm in cell["median_seconds"]))


def milliseconds(shape: dict[str, Any]) -> str:
    rows = [
        [
            arm,
            *(f"{1000 * c['median_seconds'][arm]:.1f}" if arm in c["median_seconds"] else "-" for c in shape["cells"]),
        ]
        for arm in arms(shape)
    ]
    return table(["arm", *map(title, shape["cells"])], rows)


def ratios(shape: dict[str, Any]) -> str:
    """Each arm against ORT fp32 dense / against ORT int8 dense."""
    rows = []
    for arm in arms(shape):
        if arm in (FP32, INT8):
            continue
        cells = []
        for cell in shape["cells"]:
            medians = cell["median_seconds"]
            ours = medians.get(arm)
            cells.append(f"{medians[FP32] / ours:.1f} / {medians[INT8] / ours:.1f}" if ours else "-")
        rows.append([arm, *cells])
    return "Against ORT fp32 dense / against ORT int8 dense:\n\n" + table(["arm", *map(title, shape["cells"])], rows)


def profiles(shape: dict[str, Any]) -> str:
    rows = []
    for name, record in shape["profiles"].items():
        seconds = record["seconds"]
        rest = seconds["whole"] - sum(seconds[stage] for stage in STAGES)
        rows.append(
            [name, *(f"{1000 * value:.1f}" for value in (*(seconds[s] for s in STAGES), rest, seconds["whole"]))]
        )
    return table(["arm", *(stage.replace("_", " ") for stage in STAGES), "rest", "whole"], rows)


def limits(shape: dict[str, Any]) -> str:
    peak = shape["peak_one_thread"]["fp32_multiply_adds_per_second"]
    rows = []
    for name, record in shape["profiles"].items():
        seconds, work = record["seconds"], record["multiply_adds"]
        linear = sum(seconds[s] for s in ("projections", "attention_output", "intermediate", "output"))
        rows.append(
            [
                name,
                f"{work['linears'] / 1e6:,.0f}",
                f"{work['linears'] / linear / 1e9:.1f}",
                f"{100 * work['linears'] / linear / peak:.0f} %",
                f"{work['attention'] / 1e6:,.0f}",
                f"{work['attention'] / seconds['attention'] / 1e9:.1f}",
                f"{100 * work['attention'] / seconds['attention'] / peak:.0f} %",
            ]
        )
    copied = shape["peak_one_thread"]["copy_bytes_per_second"]
    note = (
        f"This machine's peak in the same run, one thread: {peak / 1e9:.1f} billion float32 multiply-adds a second "
        f"(the best of many 1024 x 1024 matrix products), {copied / 1e9:.1f} GB/s copied. Multiply-adds are counted "
        "without zeros; in the last layer, but for keys and values, for the first token alone."
    )
    head = ["arm", "linears: 10^6", "10^9/s", "of fp32 peak", "attention: 10^6", "10^9/s", "of fp32 peak"]
    return note + "\n\n" + table(head, rows)


def files(shape: dict[str, Any]) -> str:
    rows = [
        [arm, f"{record['bytes'] / 1e6:.1f}", f"{record['encoder_bytes'] / 1e6:.1f}"]
        for arm, record in shape["files"].items()
    ]
    note = "ORT's int8 keeps float embeddings; this runtime's int8 files have them in int8 too, a scale a row."
    return note + "\n\n" + table(["arm", "file, MB", "of it the encoder"], rows)


def main() -> None:
    runs = [json.loads(path.read_bytes()) for path in sorted(RESULTS.glob("kernels-*.json"))]
    write_between(PAGE, "\n".join(section(run) for run in runs))


if __name__ == "__main__":
    main()
