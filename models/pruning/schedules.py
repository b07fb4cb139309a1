"""How sparsity rises over training: pure functions of progress (0 at the first update, 1 at the last)."""

from sparserve.models.recipes.schema import Pruning


def cubic(progress: float, initial: float, final: float) -> float:
    """Fast at first, gentle at the end: s = s_f + (s_i - s_f) (1 - t)^3 (Zhu & Gupta 2017, equation 1)."""
    return final + (initial - final) * (1 - progress) ** 3


def linear(progress: float, initial: float, final: float) -> float:
    """Equal rises: s = s_i + (s_f - s_i) t."""
    return initial + (final - initial) * progress


def constant(progress: float, initial: float, final: float) -> float:
    """All at once: s = s_f from the first update on."""
    return final


SCHEDULES = {"cubic": cubic, "linear": linear, "constant": constant}


def sparsity_at(step: int, total_steps: int, pruning: Pruning) -> float | None:
    """Sparsity to reach after optimiser step `step` (1 to `total_steps`), or None if no update is due then.

    The updates lie evenly between `begin` and `end` (fractions of the steps). The last one brings the final
    sparsity exactly and falls within the run however short it is.
    """
    first, last = _span(total_steps, pruning)
    if not first <= step <= last:
        return None
    if step == last:
        return pruning.sparsity
    updates = min(pruning.updates, last - first + 1)
    if updates == 1:
        return None
    # Update number k of n falls on the first step at or after k/n of the way.
    before = (step - 1 - first) * (updates - 1) // (last - first)
    now = (step - first) * (updates - 1) // (last - first)
    if step > first and before == now:
        return None
    return SCHEDULES[pruning.schedule](now / max(updates - 1, 1), pruning.initial_sparsity, pruning.sparsity)


def next_update(step: int, total_steps: int, pruning: Pruning) -> int | None:
    """Optimiser steps from `step` until masks change next: 0 if they do after it, None if they never do again."""
    _, last = _span(total_steps, pruning)
    return next(
        (later - step for later in range(step, last + 1) if sparsity_at(later, total_steps, pruning) is not None), None
    )


def _span(total_steps: int, pruning: Pruning) -> tuple[int, int]:
    """First and last step with an update."""
    first = max(round(pruning.begin * total_steps), 1)
    return first, max(min(round(pruning.end * total_steps), total_steps), first)
