"""The choice among the servings of all trials: the best, the nearest to the targets, and the Pareto frontier."""

from collections.abc import Sequence
from dataclasses import dataclass

from sparserve.models.search.ladders import Candidate
from sparserve.models.search.outcomes import Serving
from sparserve.models.search.search import Trial
from sparserve.models.search.targets import Target

DROP = Target("accuracy_drop", float("inf"))
SIZE = Target("size", float("inf"))


@dataclass(frozen=True)
class Point:
    """A serving of a trial or of the dense baseline, as a point in the plane of accuracy and cost."""

    candidate: Candidate | None
    """None for the baseline."""
    serving: Serving

    @property
    def title(self) -> str:
        """The recipe and its level, for people."""
        return self.candidate.title if self.candidate else f"{self.serving.variant}, nothing pruned"

    def meets(self, targets: Sequence[Target]) -> bool:
        """Return True if the serving meets all targets."""
        return all(target.met_by(self.serving) for target in targets)


def points(trials: Sequence[Trial]) -> list[Point]:
    """Return every serving of every trial."""
    return [Point(trial.candidate, serving) for trial in trials for serving in trial.outcome.servings]


def baseline_points(trials: Sequence[Trial]) -> list[Point]:
    """Return the dense variants as the first successful trial measured them. They may meet the targets too."""
    return [Point(None, serving) for serving in next((t.outcome.baseline for t in trials if t.outcome.baseline), ())]


def best(candidates: Sequence[Point], targets: Sequence[Target]) -> Point | None:
    """Return the best of the points that meet all targets, or None if no point does.

    With a constraint on cost it is the most accurate, then the smallest. With a constraint on the accuracy drop alone
    it is the smallest, then the most accurate.
    """
    costs = [target for target in targets if target.costs]

    def order(point: Point) -> tuple[float, ...]:
        serving = point.serving
        if not costs:
            return (serving.bytes, serving.drop_points, -point.candidate.rung if point.candidate else 1)
        return (serving.drop_points, serving.bytes, *(target.value(serving) for target in costs))

    return min((point for point in candidates if point.meets(targets)), key=order, default=None)


def nearest(candidates: Sequence[Point], targets: Sequence[Target]) -> Point | None:
    """Return the point with the smallest sum of excesses, each a fraction of its limit; None if there is no point."""
    return min(candidates, key=lambda point: sum(target.excess(point.serving) for target in targets), default=None)


def quantities(targets: Sequence[Target]) -> tuple[Target, ...]:
    """Return the quantities that a search trades off: the accuracy drop, and the constrained costs or else size."""
    return (DROP, *([target for target in targets if target.costs] or [SIZE]))


def frontier(candidates: Sequence[Point], targets: Sequence[Target]) -> list[Point]:
    """Return the Pareto frontier: the points that no other point beats.

    A point beats another if it is at least as good in every quantity that is traded off, and better in one. The most
    accurate point comes first; of equal points the first is kept.
    """
    axes = quantities(targets)
    places = [tuple(axis.value(point.serving) for axis in axes) for point in candidates]
    kept = {
        place: point
        for place, point in reversed(list(zip(places, candidates, strict=True)))
        if not any(
            other != place and all(theirs <= ours for theirs, ours in zip(other, place, strict=True))
            for other in places
        )
    }
    return [kept[place] for place in sorted(kept)]
