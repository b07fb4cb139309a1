"""Speed tables of docs/benchmarks/accuracy.md: milliseconds of every file, and the least loss at each speed."""

from collections.abc import Sequence

from benchmarks.accuracy.cells import Record, mean_if_known
from benchmarks.accuracy.frontier import SHAPE, by_level, fastest, frontier, points
from benchmarks.accuracy.scores import shared_tasks
from benchmarks.markdown_tables import table


def conditions(latency: Sequence[Record]) -> str:
    """How latency was measured."""
    first = latency[0]
    return (
        f"Median milliseconds on one thread, all graphs of a row and the dense ones interleaved in one process "
        f"({first['machine']['cpu']}, onnxruntime {first['machine']['onnxruntime']}). "
        '"Sparse" is this project\'s runtime, "ORT" stock onnxruntime. Times faster are of the fastest graph of the '
        "row, against ORT fp32 dense and ORT int8 dense of the same session. Scores are the file's own, in its runtime."
    )


def speed(latency: Sequence[Record]) -> str:
    """Milliseconds by method and level; what is most times faster than int8 dense first."""
    shapes = list(next(iter(latency[0]["arms"].values()))["milliseconds"])
    kinds = ("fp32", "int8", "sparse fp32", "sparse int8")
    rows = []

    def against_int8(one: Record) -> float:
        return fastest(one, shapes[0]) / float(one["arms"]["dense-int8"]["milliseconds"][shapes[0]])

    for one in sorted(latency, key=against_int8):
        arms = one["arms"]
        for shape in shapes:
            best = fastest(one, shape)
            times = [f"{arms[kind]['milliseconds'][shape]:.2f}" if kind in arms else "-" for kind in kinds]
            dense, int8 = (arms[name]["milliseconds"][shape] for name in ("dense", "dense-int8"))
            smallest = min((arms[kind] for kind in kinds if kind in arms), key=lambda arm: arm["bytes"])
            rows.append(
                [
                    f"{one['method']} {one['level']} ({one['task']})",
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
    return table([*head, "times faster (fp32 / int8)", "smallest file, MB", "its score"], rows, figures=False)


def least_lost(runs: Sequence[Record], latency: Sequence[Record]) -> str:
    """What no other row beats in both speed and accuracy, the fastest first."""
    every = points(runs, latency)
    rows = [
        [
            f"{point.method} {point.level}",
            f"{point.dense / point.milliseconds:.1f} / {point.speed:.1f}",
            f"{point.lost:.1f}",
            mean_if_known(point.runs, "divergence", "{:.3f}"),
            mean_if_known(point.runs, "minutes", "{:.1f}"),
        ]
        for point in frontier(every)
    ]
    if not rows:
        return ""
    whole = by_level(runs, shared_tasks(runs))
    text = (
        f"Of the {len(every)} rows with all tasks and a latency, of {len(whole)} with all tasks, what none of the "
        "others beats in both: the fastest file against ORT fp32 and int8 dense, "
        f"{SHAPE.replace('x', ' x ')} tokens, and the mean of the points lost. Points and KL are of the network in "
        "fp32; each file's own score is in the table above. Rows nearer to each other than the intervals may change "
        "places with other seeds."
    )
    head = ["method", "times faster (fp32 / int8)", "mean drop", "KL", "minutes a run"]
    return f"{text}\n\n{table(head, rows)}"
