"""Search of a curve with one minimum on a geometric grid: from a start, in the direction that improves."""

import math
from collections.abc import Callable
from dataclasses import dataclass

FACTOR = 2.0
# A loss must fall by this fraction to be lower: less is equal.
EQUAL = 0.01


@dataclass(frozen=True)
class Trial:
    """Loss of a candidate on held-out rows after some steps; infinite if its training diverged."""

    candidate: float
    steps: int
    loss: float


def climb(
    start: float, steps: int, most: int, measure: Callable[[float, int], float]
) -> tuple[float, tuple[Trial, ...]]:
    """Return the candidate with the lowest loss after `steps` steps, and every trial, at most `most`.

    The start is compared with its double. The search continues upwards while the loss falls markedly, or downwards if
    the double is no better. A start that diverges is halved until a candidate does not.
    """

    def trial(candidate: float) -> Trial:
        return Trial(candidate, steps, measure(candidate, steps))

    trials = [trial(start)]
    best = trials[0]
    for factor in (FACTOR, 1 / FACTOR) if math.isfinite(best.loss) else (1 / FACTOR,):
        while len(trials) < most:
            trials.append(trial(best.candidate * factor))
            improved = trials[-1].loss < best.loss * (1 - EQUAL)
            if not improved and math.isfinite(best.loss):
                break
            best = trials[-1]
        if best is not trials[0]:
            break
    return best.candidate, tuple(trials)
