"""The output of a search: a line per trial, the frontier as a table, and both as records for machines."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from sparserve.models.search.frontier import DROP, SIZE, Point, best, nearest, points, quantities
from sparserve.models.search.outcomes import Serving
from sparserve.models.search.search import Trial
from sparserve.models.search.targets import Target, phrase


def trial_line(trial: Trial, targets: Sequence[Target]) -> str:
    """Return a line with a trial's recipe, level and the figures of its best or nearest serving."""
    own = points([trial])
    meets = best(own, targets)
    shown = meets or nearest(own, targets)
    if shown is None:
        return f"{trial.candidate.title}: failed: {trial.outcome.failure}"
    return f"{trial.candidate.title}: {figures(shown.serving, targets)}: {'meets' if meets else 'does not meet'}"


def figures(serving: Serving, targets: Sequence[Target]) -> str:
    """Return a serving's name, size, accuracy drop and the other quantities of the targets."""
    shown = [axis.spell(axis.value(serving)) for axis in _axes(targets) if axis != DROP]
    return f"{serving.title}, {', '.join(shown)}, drop {DROP.spell(serving.drop_points)}"


def frontier_table(shown: Sequence[Point], chosen: Point | None, targets: Sequence[Target]) -> Table:
    """Return the frontier as a table for a terminal. A star marks the chosen point; `meets` refers to all targets."""
    axes = _axes(targets)
    table = Table(title=f"Accuracy against cost: {phrase(targets)}", title_justify="left")
    table.add_column("recipe and level")
    table.add_column("variant", no_wrap=True)
    for axis in axes:
        if axis == DROP:
            table.add_column("drop\n(points)", justify="right")
        elif axis == SIZE:
            table.add_column("MB", justify="right")
        elif axis.cell is not None:
            table.add_column(f"p50 ms\n{axis.cell[0]} x {axis.cell[1]}", justify="right")
    table.add_column("meets")
    for point in shown:
        values = [axis.value(point.serving) for axis in axes]
        scales = [1.0 if axis == DROP else 1e-6 if axis == SIZE else 1e3 for axis in axes]
        table.add_row(
            point.title,
            point.serving.title + (" *" if point == chosen else ""),
            *(f"{value * scale:.3g}" for value, scale in zip(values, scales, strict=True)),
            "yes" if point.meets(targets) else "no",
        )
    table.caption = "* answers by default. drop: against dense, on the validation split."
    table.caption_justify = "left"
    return table


def as_record(point: Point, targets: Sequence[Target]) -> dict[str, Any]:
    """Return a point as a record: seconds, bytes and percentage points. The baseline has no recipe."""
    included = {"variant", "version", "precision", "runtime", "preferred", "bytes"}
    return {
        "recipe": point.candidate.ladder if point.candidate else None,
        "setting": point.candidate.setting if point.candidate else "",
        **point.serving.model_dump(mode="json", include=included),
        "accuracy": point.serving.accuracy,
        "drop_points": point.serving.drop_points,
        "latency": [
            {"batch": target.cell[0], "length": target.cell[1], "p50_seconds": target.value(point.serving)}
            for target in targets
            if target.cell is not None
        ],
        "meets": point.meets(targets),
    }


def trial_record(trial: Trial, targets: Sequence[Target]) -> dict[str, Any]:
    """Return a trial as a record with all its servings."""
    return {
        "recipe": trial.candidate.ladder,
        "setting": trial.candidate.setting,
        "variant": trial.candidate.variant,
        "failure": trial.outcome.failure,
        "meets": best(points([trial]), targets) is not None,
        "servings": [as_record(point, targets) for point in points([trial])],
    }


def _axes(targets: Sequence[Target]) -> list[Target]:
    """Return the quantities to show: the accuracy drop, the size, and the latency of every target's cell."""
    cells = dict.fromkeys(target.cell for target in quantities(targets) if target.cell is not None)
    return [DROP, SIZE, *(Target("latency", float("inf"), cell) for cell in cells)]
