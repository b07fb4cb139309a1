"""Write the tables of docs/benchmarks/kernels.md from benchmarks/results/kernels-*.json.

One section for each result file, which has one measured instruction set.
"""

import json
from pathlib import Path
from typing import Any, Final

from benchmarks.kernels.arms import FP32, INT8
from benchmarks.kernels.run import PEER_LENGTHS, PEERS, RESULTS
from benchmarks.markdown_tables import table, write_between

PAGE: Final = Path(__file__).parent.parent.parent / "docs" / "benchmarks" / "kernels.md"
STAGES: Final = ("quantize", "projections", "attention", "attention_output", "norm", "intermediate", "output")
LINEAR_STAGES: Final = ("projections", "attention_output", "intermediate", "output")
NAMES: Final = {
    "avx2": "AVX2",
    "avx2-vnni": "AVX-VNNI",
    "avx512": "AVX-512",
    "avx512-vnni": "AVX-512 VNNI",
    "neon": "NEON",
}
LEGEND: Final = (
    'Medians; all arms of a cell ran interleaved in one process. "ORT fp32 dense" is, for BERT, a graph with fused '
    'Attention and GELU, else the exported graph, which ONNX Runtime optimises itself; "ORT int8 dense" its dynamic '
    'quantisation. The other arms are this runtime. "dense" has no zeros: it shows the gain from fusion and from '
    'computing the last layer for the first token only. "55 %" is near the threshold between scattered nonzeros and '
    'dense matrices in the packer; it is scattered here. With "int8 attention" the products of attention are in bytes '
    "too (`packing.attention`). At least five rounds ran."
)


def section(results: dict[str, Any]) -> str:
    """Return the section of a result file."""
    shapes = results["shapes"]
    isa = next(iter(shapes.values()))["conditions"]["isa"]
    parts = [f"### {NAMES.get(isa, isa)}", LEGEND]
    for name, shape in shapes.items():
        heading = f"#### {name}, {NAMES.get(isa, isa)}"
        parts += [heading, run_of(name, shape), f"{heading}: milliseconds", milliseconds(shape)]
        parts += [f"{heading}: speed-up", ratios(shape)]
        if shape["profiles"]:
            parts += [f"{heading}: time by stage, one thread, ms", profiles(shape), limits(shape)]
        parts += [f"{heading}: files", files(shape)]
    return "\n\n".join(parts) + "\n"


def run_of(name: str, shape: dict[str, Any]) -> str:
    """Describe the run of a shape."""
    conditions = shape["conditions"]
    machine = conditions["machine"]
    trained = name.endswith(" (trained)")
    chosen = f"--store STORE --task {name.removesuffix(' (trained)')}" if trained else f"--shapes {name}"
    noisy = "**Other programs ran at the time, so these figures are preliminary.** " if conditions.get("noisy") else ""
    return (
        f"{noisy}`python -m benchmarks.kernels {chosen} --seconds {conditions['seconds_a_cell']:g}`, "
        f"{shape['measured_at']}: {machine['cpu']} ({', '.join(machine['isa'])}), {machine['cores']} cores, "
        f"onnxruntime {machine['onnxruntime']}, {conditions['isa']} kernels. "
        f"{'Trained' if trained else 'Random'} weights." + peers(conditions["peers"])
    )


def peers(versions: dict[str, Any]) -> str:
    """Describe the peers of a run."""
    sentences = []
    for kind, version in versions.items():
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
    """Return the multiply-adds per second of linears and attention, compared with the peaks of the same run."""
    peak = shape["peak_one_thread"]
    floats, in_bytes = peak["fp32_multiply_adds_per_second"], peak.get("byte_multiply_adds_per_second")
    head = ["arm"]
    for part in ("linear layers", "attention"):
        head += [f"{part}: 10^6", "10^9/s", "of fp32 peak", *(["of byte peak"] if in_bytes else [])]
    rows = []
    for name, record in shape["profiles"].items():
        seconds, row = record["seconds"], [name]
        spent = {"linears": sum(seconds[stage] for stage in LINEAR_STAGES), "attention": seconds["attention"]}
        for part, work in record["multiply_adds"].items():
            rate = work / spent[part]
            row += [f"{work / 1e6:,.0f}", f"{rate / 1e9:.1f}", f"{100 * rate / floats:.0f} %"]
            row += [f"{100 * rate / in_bytes:.0f} %"] if in_bytes else []
        rows.append(row)
    note = (
        f"Peak of this machine in the same run, one thread: {floats / 1e9:.1f} billion float32 multiply-adds per "
        "second (the best of many 1024 x 1024 matrix products), "
        + (f"{in_bytes / 1e9:.1f} billion in byte dot products on registers, " if in_bytes else "")
        + f"{peak['copy_bytes_per_second'] / 1e9:.1f} GB/s copied. Multiply-adds exclude zeros. In the last layer all "
        "except keys and values are counted for the first token only."
    )
    return note + "\n\n" + table(head, rows)


def files(shape: dict[str, Any]) -> str:
    records = shape["files"]
    measured = any("accuracy" in record for record in records.values())
    rows = [
        [
            arm,
            f"{record['bytes'] / 1e6:.1f}",
            f"{record['encoder_bytes'] / 1e6:.1f}",
            *([f"{100 * record['accuracy']:.2f} %" if "accuracy" in record else "-"] if measured else []),
        ]
        for arm, record in records.items()
    ]
    note = "The int8 files of ORT keep float embeddings. This runtime has int8 embeddings with one scale per row."
    if measured:
        note = "Accuracy is that of the same file on the test split, as the job measured it."
    accuracy = ["accuracy"] if measured else []
    return note + "\n\n" + table(["arm", "file, MB", "encoder in it, MB", *accuracy], rows)


def main() -> None:
    runs = [json.loads(path.read_bytes()) for path in sorted(RESULTS.glob("kernels-*.json"))]
    write_between(PAGE, "\n".join(section(run) for run in runs))


if __name__ == "__main__":
    main()
