"""SVG plots of accuracy against sparsity and of accuracy against latency."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib import pyplot
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from benchmarks.accuracy.publish.cells import Record
from benchmarks.accuracy.publish.frontier import SHAPE, by_level, points, points_lost
from benchmarks.accuracy.scores import mean_over_tasks, shared_tasks

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "sparserve"  # equal figures give an equal file

# Each method has a unique pair of colour and marker; there are more methods than distinguishable colours.
LOOKS = cycler(marker=["o", "s", "^"]) * cycler(color=matplotlib.colormaps["tab10"].colors)


def accuracy_against_sparsity(runs: Sequence[Record], path: Path) -> None:
    """Plot points lost (mean over shared tasks) against the fraction of removed encoder weights."""
    tasks = shared_tasks(runs)
    figure, axes = pyplot.subplots(figsize=(8, 5))
    axes.set_prop_cycle(LOOKS)
    lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for (method, _level), group in by_level(runs, tasks).items():
        lines[method].append((100 * (1 - _mean(group, "encoder_kept")), mean_over_tasks(group, points_lost)))
    for method, places in sorted(lines.items()):
        axes.plot(*zip(*sorted(places), strict=True), label=method)
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_xlabel("removed encoder weights (%)")
    axes.set_ylabel(f"points lost (mean of {', '.join(tasks)})")
    _save(figure, axes, path)


def accuracy_against_latency(runs: Sequence[Record], latency: Sequence[Record], path: Path) -> None:
    """Plot points lost against the milliseconds of each method's fastest file for one sequence of 64 tokens."""
    figure, axes = pyplot.subplots(figsize=(8, 5))
    axes.set_prop_cycle(LOOKS)
    lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
    times = sorted(one["arms"]["dense-int8"]["milliseconds"][SHAPE] for one in latency)
    usual = times[len(times) // 2]
    # Sessions on a shared machine differ, so times are scaled to a common time of the int8 dense model.
    for point in points(runs, latency):
        lines[point.method].append((usual / point.speed, point.lost))
    for method, places in sorted(lines.items()):
        axes.plot(*zip(*sorted(places), strict=True), label=method)
    for name, style in (("dense", "--"), ("dense-int8", ":")):
        scaled = sorted(usual * _against_int8(one, name) for one in latency)
        axes.axvline(scaled[len(scaled) // 2], color="grey", linestyle=style, linewidth=1, label=f"onnxruntime {name}")
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel("milliseconds of the fastest file, 1 x 64 tokens, one thread")
    axes.set_ylabel(f"points lost (mean of {', '.join(shared_tasks(runs))})")
    _save(figure, axes, path)


def _against_int8(one: Record, name: str) -> float:
    arms = one["arms"]
    return float(arms[name]["milliseconds"][SHAPE] / arms["dense-int8"]["milliseconds"][SHAPE])


def _mean(runs: Sequence[Record], name: str) -> float:
    return sum(float(run[name]) for run in runs) / len(runs)


def _save(figure: Any, axes: Any, path: Path) -> None:
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
