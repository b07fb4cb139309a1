"""The search itself: bisection on each ladder, since cost falls and the accuracy drop rises along it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sparserve.models.search.ladders import Candidate, Ladder
from sparserve.models.search.outcomes import Outcome, Serving
from sparserve.models.search.targets import Target

Kind = tuple[str, str]
MakeTrial = Callable[[Candidate], Outcome]


@dataclass(frozen=True)
class Trial:
    """A candidate that was made, and what came of it."""

    candidate: Candidate
    outcome: Outcome


def search(ladders: Sequence[Ladder], targets: Sequence[Target], make: MakeTrial) -> list[Trial]:
    """Every trial that was needed to find each ladder's best level, in their order.

    With a constraint on cost that is the level where a serving meets all targets with the least drop; with none but on
    the accuracy drop it is the one with the least cost. Where cost and drop are monotone along the ladder for each kind
    of file, that level is found if there is one: with one kind in at most ceil(log2 levels) + 1 trials, with more of
    them in a few more, since each has a best level of its own. Where they are not (training is noisy), a level may be
    missed: whoever chooses looks at each trial's own figures.
    """
    trials: list[Trial] = []
    for ladder in ladders:
        climb = _Climb(ladder, targets, make, trials)
        climb.between(0, len(ladder) - 1, None)
    return trials


@dataclass(frozen=True)
class _Climb:
    ladder: Ladder
    targets: Sequence[Target]
    make: MakeTrial
    trials: list[Trial]

    def between(self, low: int, high: int, kinds: frozenset[Kind] | None) -> None:
        """Search the rungs from `low` to `high`, both included, for servings of these kinds; None: of all."""
        if low > high or (kinds is not None and not kinds):
            return
        middle = (low + high) // 2
        candidate = self.ladder.candidate(middle)
        outcome = self.make(candidate)
        self.trials.append(Trial(candidate, outcome))
        if not outcome.servings:  # a network that could not be made: a more compressed one will not be, either
            self.between(low, middle - 1, kinds)
            return
        servings = [serving for serving in outcome.servings if kinds is None or serving.kind in kinds]
        lossy = frozenset(serving.kind for serving in servings if not self._meets(serving, costs=False))
        costly = frozenset(serving.kind for serving in servings if not self._meets(serving, costs=True))
        fit = frozenset(serving.kind for serving in servings) - lossy - costly
        # What costs too much here costs too much on every lower rung; what loses too much does on every higher one.
        # One kind that fits ends the search of no other: that may fit elsewhere, and better.
        if any(target.costs for target in self.targets):
            self.between(low, middle - 1, fit | (lossy - costly))
            self.between(middle + 1, high, costly - lossy)
        else:
            self.between(middle + 1, high, fit)
            self.between(low, middle - 1, lossy)

    def _meets(self, serving: Serving, *, costs: bool) -> bool:
        return all(target.met_by(serving) for target in self.targets if target.costs == costs)
