"""Sparsity schedules: pure functions of progress (0 at the first update, 1 at the last)."""

from sparserve.models.recipes.schema import Pruning


def cubic(progress: float, initial: float, final: float) -> float:
    """Return s_f + (s_i - s_f) (1 - t)^3, which rises fast at first (Zhu & Gupta 2017, equation 1)."""
    return final + (initial - final) * (1 - progress) ** 3


def linear(progress: float, initial: float, final: float) -> float:
    """Return s_i + (s_f - s_i) t, which rises evenly."""
    return initial + (final - initial) * progress


def constant(progress: float, initial: float, final: float) -> float:
    """Return s_f, reached at the first update."""
    return final


SCHEDULES = {"cubic": cubic, "linear": linear, "constant": constant}


def sparsity_at(step: int, total_steps: int, pruning: Pruning) -> float | None:
    """Return the sparsity to reach after optimiser step `step` (1 to `total_steps`), or None if no update is due.

    Updates are spread evenly between `begin` and `end` (fractions of the steps). The last update reaches the final
    sparsity exactly and falls within the run, however short the run is.
    """
    first, last = _span(total_steps, pruning)
    if not first <= step <= last:
        return None
    if step == last:
        return pruning.sparsity
    updates = min(pruning.updates, last - first + 1)
    if updates == 1:
        return None
    # Update k of n falls on the first step at or after the fraction k/n of the span.
    before = (step - 1 - first) * (updates - 1) // (last - first)
    now = (step - first) * (updates - 1) // (last - first)
    if step > first and before == now:
        return None
    return SCHEDULES[pruning.schedule](now / max(updates - 1, 1), pruning.initial_sparsity, pruning.sparsity)


def next_update(step: int, total_steps: int, pruning: Pruning) -> int | None:
    """Return the steps from `step` to the next mask update: 0 if it follows this step, None if none is left."""
    _, last = _span(total_steps, pruning)
    return next(
        (later - step for later in range(step, last + 1) if sparsity_at(later, total_steps, pruning) is not None), None
    )


def _span(total_steps: int, pruning: Pruning) -> tuple[int, int]:
    """Return the first and last step with an update."""
    first = max(round(pruning.begin * total_steps), 1)
    return first, max(min(round(pruning.end * total_steps), total_steps), first)
