"""Speed tables of docs/benchmarks/accuracy.md: milliseconds of every file, and the frontier of speed and loss."""

from collections.abc import Sequence

from benchmarks.accuracy.publish.cells import Record, mean_if_known
from benchmarks.accuracy.publish.frontier import SHAPE, by_level, fastest, frontier, points
from benchmarks.accuracy.scores import shared_tasks
from benchmarks.markdown_tables import table


def conditions(latency: Sequence[Record]) -> str:
    """Describe the conditions of the latency measurement."""
    first = latency[0]
    return (
        f"Median milliseconds on one thread. All graphs of a row and the dense ones ran interleaved in one process "
        f"({first['machine']['cpu']}, onnxruntime {first['machine']['onnxruntime']}). "
        '"Sparse" is this project\'s runtime, "ORT" is stock onnxruntime. The speed-up is that of the fastest graph of '
        "the row over ORT fp32 dense and ORT int8 dense in the same session. Scores are those of the file "
        "in its runtime."
    )


def speed(latency: Sequence[Record]) -> str:
    """Return the table of milliseconds by method and level, largest speed-up over int8 dense first."""
    shapes = list(next(iter(latency[0]["arms"].values()))["milliseconds"])
    kinds = ("fp32", "int8", "sparse fp32", "sparse int8")
    rows = []

    def against_int8(record: Record) -> float:
        return fastest(record, shapes[0]) / float(record["arms"]["dense-int8"]["milliseconds"][shapes[0]])

    for record in sorted(latency, key=against_int8):
        arms = record["arms"]
        for shape in shapes:
            best = fastest(record, shape)
            times = [f"{arms[kind]['milliseconds'][shape]:.2f}" if kind in arms else "-" for kind in kinds]
            dense, int8 = (arms[name]["milliseconds"][shape] for name in ("dense", "dense-int8"))
            smallest = min((arms[kind] for kind in kinds if kind in arms), key=lambda arm: arm["bytes"])
            rows.append(
                [
                    f"{record['method']} {record['level']} ({record['task']})",
                    shape.replace("x", " x "),
                    f"{dense:.2f}",
                    f"{int8:.2f}",
                    *times,
                    f"{dense / best:.1f} / {int8 / best:.1f}",
                    f"{smallest['bytes'] / 1e6:.1f} of {arms['dense']['bytes'] / 1e6:.1f}",
                    f"{smallest['score']:.1f} of {arms['dense']['score']:.1f}, int8 {arms['dense-int8']['score']:.1f}",
                ]
            )
    head = ["method", "batch x tokens", "ORT dense", "ORT dense int8", "ORT", "ORT int8", "sparse", "sparse int8"]
    return table([*head, "speed-up (fp32 / int8)", "smallest file, MB", "its score"], rows, figures=False)


def frontier_table(runs: Sequence[Record], latency: Sequence[Record]) -> str:
    """Return the rows that no other row beats in both speed and accuracy, fastest first."""
    candidates = points(runs, latency)
    rows = [
        [
            f"{point.method} {point.level}",
            f"{point.dense / point.milliseconds:.1f} / {point.speed:.1f}",
            f"{point.lost:.1f}",
            mean_if_known(point.runs, "divergence", "{:.3f}"),
            mean_if_known(point.runs, "minutes", "{:.1f}"),
        ]
        for point in frontier(candidates)
    ]
    if not rows:
        return ""
    complete = by_level(runs, shared_tasks(runs))
    text = (
        f"The Pareto frontier of speed and accuracy, from {len(candidates)} rows with all tasks and a latency "
        f"({len(complete)} rows have all tasks). Speed-up: the fastest file over ORT fp32 dense and int8 dense at "
        f"{SHAPE.replace('x', ' x ')} tokens. Mean drop and KL are those of the network in fp32; the table above has "
        "the score of each file. With other seeds, rows whose difference is within the intervals may change places."
    )
    head = ["method", "speed-up (fp32 / int8)", "mean drop", "KL", "minutes per run"]
    return f"{text}\n\n{table(head, rows)}"
