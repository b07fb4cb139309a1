"""Successive halving (Jamieson & Talwalkar 2016, arXiv 1502.07943): the better half of the candidates trains on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

# Losses within this fraction of the lowest count as equal.
EQUAL = 0.01


@dataclass(frozen=True)
class Trial:
    """Loss of a candidate on held-out rows after some steps; infinite if its training diverged."""

    candidate: float
    steps: int
    loss: float


def halve(
    candidates: Sequence[float], steps: int, measure: Callable[[float, int], float]
) -> tuple[float, tuple[Trial, ...]]:
    """Return the candidate with the lowest loss, and every trial.

    All candidates are measured after `steps` steps, then the better half after twice as many, until one of two wins.
    Of equal candidates the earlier one is better.
    """
    trials: list[Trial] = []
    survivors = list(candidates)
    while len(survivors) > 1:
        measured = [Trial(candidate, steps, measure(candidate, steps)) for candidate in survivors]
        trials += measured
        survivors = better_half(measured)
        steps *= 2
    return survivors[0], tuple(trials)


def total_steps(candidates: int, steps: int) -> int:
    """Return the steps of all trials of so many candidates together; a trial continues that of the round before."""
    total, before = 0, 0
    while candidates > 1:
        total += candidates * (steps - before)
        candidates, before, steps = candidates // 2, steps, 2 * steps
    return total


def better_half(trials: Sequence[Trial]) -> list[float]:
    """Return the half of the candidates with the lower losses, the best first."""
    remaining, better = list(trials), []
    for _ in range(max(len(trials) // 2, 1)):
        limit = min(trial.loss for trial in remaining) * (1 + EQUAL)
        best = next(trial for trial in remaining if trial.loss <= limit)
        remaining.remove(best)
        better.append(best.candidate)
    return better
