"""Which of the trials' servings is best, which comes nearest, and which no other one beats in everything."""

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
    """One serving of a trial, or of the dense baseline: a point in the plane of accuracy and cost."""

    candidate: Candidate | None
    """None: the baseline, which no candidate made."""
    serving: Serving

    @property
    def title(self) -> str:
        """The recipe and its level, for people."""
        return self.candidate.title if self.candidate else f"{self.serving.variant}, nothing pruned"

    def meets(self, targets: Sequence[Target]) -> bool:
        """Whether it meets all of them."""
        return all(target.met_by(self.serving) for target in targets)


def points(trials: Sequence[Trial]) -> list[Point]:
    """Every serving of every trial."""
    return [Point(trial.candidate, serving) for trial in trials for serving in trial.outcome.servings]


def baseline_points(trials: Sequence[Trial]) -> list[Point]:
    """The dense variants as the first trial that was made measured them: they may meet the targets, too."""
    return [Point(None, serving) for serving in next((t.outcome.baseline for t in trials if t.outcome.baseline), ())]


def best(found: Sequence[Point], targets: Sequence[Target]) -> Point | None:
    """The point that meets all targets and is best otherwise; None if none meets them.

    With a constraint on cost: the most accurate, then the smallest. With none but on the accuracy drop: the smallest,
    then the most accurate.
    """
    costs = [target for target in targets if target.costs]

    def order(point: Point) -> tuple[float, ...]:
        serving = point.serving
        if not costs:
            return (serving.bytes, serving.drop_points, -point.candidate.rung if point.candidate else 1)
        return (serving.drop_points, serving.bytes, *(target.value(serving) for target in costs))

    return min((point for point in found if point.meets(targets)), key=order, default=None)


def nearest(found: Sequence[Point], targets: Sequence[Target]) -> Point | None:
    """The point whose excesses over the limits, as fractions of them, have the smallest sum; None if there is none."""
    return min(found, key=lambda point: sum(target.excess(point.serving) for target in targets), default=None)


def quantities(targets: Sequence[Target]) -> tuple[Target, ...]:
    """What a search trades off: the accuracy drop against each cost that is constrained; against size if none is."""
    return (DROP, *([target for target in targets if target.costs] or [SIZE]))


def frontier(found: Sequence[Point], targets: Sequence[Target]) -> list[Point]:
    """The points that no other one beats: at least as good in every traded quantity, and better in one.

    The most accurate first; of equal points the first.
    """
    axes = quantities(targets)
    places = [tuple(axis.value(point.serving) for axis in axes) for point in found]
    kept = {
        place: point
        for place, point in reversed(list(zip(places, found, strict=True)))
        if not any(
            other != place and all(theirs <= ours for theirs, ours in zip(other, place, strict=True))
            for other in places
        )
    }
    return [kept[place] for place in sorted(kept)]
