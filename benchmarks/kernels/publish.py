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
    """Return the section of one run."""
    isa = NAMES.get(results["isa"], results["isa"])
    machine = results["machine"]
    parts = [
        f"### {isa}",
        f"`python -m benchmarks.kernels --shapes {' '.join(results['shapes'])} --seconds "
        f"{results['settings']['seconds_a_cell']:g}`, {results['measured_at']}: {machine['cpu']} "
        f"({', '.join(machine['isa'])}), {machine['cores']} cores, onnxruntime {machine['onnxruntime']}, "
        f"{results['isa']} kernels. Random weights; "
        'medians; all arms of a cell ran interleaved in one process. "ORT fp32 dense" is a graph with fused Attention '
        'and GELU, "ORT int8 dense" its dynamic quantisation. The other arms are this runtime. "dense" has no zeros: '
        "it shows the gain from fusion and from computing the last layer for the first token only. "
        '"55 %" is near the threshold between scattered nonzeros and dense matrices in the packer; it is scattered '
        f"here. Each cell took {results['settings']['seconds_a_cell']:g} seconds, at least five rounds."
        + peers(results),
    ]
    for name, shape in results["shapes"].items():
        heading = f"#### {name}, {isa}"
        parts += [f"{heading}: milliseconds", milliseconds(shape), f"{heading}: speed-up", ratios(shape)]
        if shape["profiles"]:
            parts += [f"{heading}: time by stage, one thread, ms", profiles(shape), limits(shape)]
        parts += [f"{heading}: files", files(shape)]
    return "\n\n".join(parts) + "\n"


def peers(results: dict[str, Any]) -> str:
    """Describe the peers of a run."""
    sentences = []
    for kind, version in results["peers"].items():
        lengths = f", from {PEER_LENGTHS[kind]} tokens" if PEER_LENGTHS[kind] > 1 else ""
        sentences.append(f"{PEERS[kind]} ({kind} {version}{lengths})")
    return f" Peers ran in a separate process after each cell: {', '.join(sentences)}." if sentences else ""


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
    """Return the speed-ups of each arm over ORT fp32 dense / ORT int8 dense."""
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
    return "Speed-up over ORT fp32 dense / ORT int8 dense:\n\n" + table(["arm", *map(title, shape["cells"])], rows)


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
        f"Peak of this machine in the same run, one thread: {peak / 1e9:.1f} billion float32 multiply-adds per second "
        f"(the best of many 1024 x 1024 matrix products), {copied / 1e9:.1f} GB/s copied. Multiply-adds exclude zeros. "
        "In the last layer all except keys and values are counted for the first token only."
    )
    head = ["arm", "linear layers: 10^6", "10^9/s", "of fp32 peak", "attention: 10^6", "10^9/s", "of fp32 peak"]
    return note + "\n\n" + table(head, rows)


def files(shape: dict[str, Any]) -> str:
    rows = [
        [arm, f"{record['bytes'] / 1e6:.1f}", f"{record['encoder_bytes'] / 1e6:.1f}"]
        for arm, record in shape["files"].items()
    ]
    note = "The int8 files of ORT keep float embeddings. This runtime has int8 embeddings with one scale per row."
    return note + "\n\n" + table(["arm", "file, MB", "encoder in it, MB"], rows)


def main() -> None:
    runs = [json.loads(path.read_bytes()) for path in sorted(RESULTS.glob("kernels-*.json"))]
    write_between(PAGE, "\n".join(section(run) for run in runs))


if __name__ == "__main__":
    main()
