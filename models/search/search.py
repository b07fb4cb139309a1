"""The search: bisection on each ladder, since cost falls and the accuracy drop rises along it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sparserve.models.search.ladders import Candidate, Ladder
from sparserve.models.search.outcomes import Outcome, Serving
from sparserve.models.search.targets import Target

Kind = tuple[str, str]
MakeTrial = Callable[[Candidate], Outcome]


@dataclass(frozen=True)
class Trial:
    """A candidate and its outcome."""

    candidate: Candidate
    outcome: Outcome


def search(ladders: Sequence[Ladder], targets: Sequence[Target], make: MakeTrial) -> list[Trial]:
    """Return the trials that were needed to find the best level of each ladder, in their order.

    With a constraint on cost the best level has a serving that meets all targets with the least accuracy drop; with a
    constraint on the drop alone, with the least cost. If cost and drop are monotone along the ladder for each kind of
    file, the best level is found if any level meets the targets. That takes at most ceil(log2 levels) + 1 trials for
    one kind, and a few more for several, since their best levels differ. Training is noisy: if cost and drop are not
    monotone, a level may be missed. The figures of each trial are exact in any case.
    """
    trials: list[Trial] = []
    for ladder in ladders:
        bisection = _Bisection(ladder, targets, make, trials)
        bisection.between(0, len(ladder) - 1, None)
    return trials


@dataclass(frozen=True)
class _Bisection:
    """The search on one ladder."""

    ladder: Ladder
    targets: Sequence[Target]
    make: MakeTrial
    trials: list[Trial]

    def between(self, low: int, high: int, kinds: frozenset[Kind] | None) -> None:
        """Search the rungs from `low` to `high`, both included, for servings of these kinds; None means all kinds."""
        if low > high or (kinds is not None and not kinds):
            return
        middle = (low + high) // 2
        candidate = self.ladder.candidate(middle)
        outcome = self.make(candidate)
        self.trials.append(Trial(candidate, outcome))
        if not outcome.servings:  # a failed level: more compressed levels would fail too
            self.between(low, middle - 1, kinds)
            return
        servings = [serving for serving in outcome.servings if kinds is None or serving.kind in kinds]
        lossy = frozenset(serving.kind for serving in servings if not self._meets(serving, costs=False))
        costly = frozenset(serving.kind for serving in servings if not self._meets(serving, costs=True))
        fit = frozenset(serving.kind for serving in servings) - lossy - costly
        # A kind that costs too much here does so on every lower rung; one that loses too much, on every higher rung.
        # A kind that fits does not end the search for the others, whose best level may be better.
        if any(target.costs for target in self.targets):
            self.between(low, middle - 1, fit | (lossy - costly))
            self.between(middle + 1, high, costly - lossy)
        else:
            self.between(middle + 1, high, fit)
            self.between(low, middle - 1, lossy)

    def _meets(self, serving: Serving, *, costs: bool) -> bool:
        return all(target.met_by(serving) for target in self.targets if target.costs == costs)
