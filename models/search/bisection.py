"""The search itself: bisection on each ladder, since cost falls and the accuracy drop rises along it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from models.search.ladders import Candidate, Ladder
from models.search.outcomes import Outcome, Serving
from models.search.targets import Target

Kind = tuple[str, str]
MakeTrial = Callable[[Candidate], Outcome]


@dataclass(frozen=True)
class Trial:
    """A candidate that was made, and what came of it."""

    candidate: Candidate
    outcome: Outcome


def search(ladders: Sequence[Ladder], targets: Sequence[Target], make: MakeTrial) -> list[Trial]:
    """Every trial that was needed to find each ladder's best level, in their order.

    With a constraint on cost that is the least compressed level where one serving meets all targets; with none but on
    the accuracy drop it is the most compressed one. Where cost and drop are monotone along the ladder for each kind
    of file, that level is found if there is one, and with one kind in at most ceil(log2 levels) + 1 trials. Where they
    are not (training is noisy), a level may be missed: whoever chooses looks at each trial's own figures.
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

    def between(self, low: int, high: int, kinds: frozenset[Kind] | None) -> bool:
        """Search the rungs from `low` to `high`, both included, for servings of these kinds; None: of all.

        True if a serving there meets every target.
        """
        if low > high or (kinds is not None and not kinds):
            return False
        middle = (low + high) // 2
        candidate = self.ladder.candidate(middle)
        outcome = self.make(candidate)
        self.trials.append(Trial(candidate, outcome))
        if not outcome.servings:  # a network that could not be made: a more compressed one will not be, either
            return self.between(low, middle - 1, kinds)
        servings = [serving for serving in outcome.servings if kinds is None or serving.kind in kinds]
        lossy = frozenset(serving.kind for serving in servings if not self._meets(serving, costs=False))
        costly = frozenset(serving.kind for serving in servings if not self._meets(serving, costs=True))
        fit = frozenset(serving.kind for serving in servings) - lossy - costly
        if not any(target.costs for target in self.targets):
            if fit:
                self.between(middle + 1, high, fit)
                return True
            return self.between(low, middle - 1, lossy)
        # What costs too much here costs too much on every lower rung; what loses too much does on every higher one.
        if fit:
            self.between(low, middle - 1, fit | (lossy - costly))
            return True
        return self.between(low, middle - 1, lossy - costly) or self.between(middle + 1, high, costly - lossy)

    def _meets(self, serving: Serving, *, costs: bool) -> bool:
        return all(target.met_by(serving) for target in self.targets if target.costs == costs)
