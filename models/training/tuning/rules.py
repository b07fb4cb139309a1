"""Rules for a training from the size of its data and network; pure functions.

The numbers are those of MiniLM-L6 on tasks of 2 to 151 classes: few classes converge in about 800 steps, and each class
adds about 15.
"""

import math
from collections.abc import Sequence

STEPS, STEPS_PER_CLASS = 800, 15
MAX_EPOCHS = 12
# A network that has learned nothing in its trials needs so many times as many epochs. On cola, ten epochs in place of
# four raised the accuracy on validation rows from 72.8 to 75.6 %, a doubled learning rate with eight did not.
SLOW_FACTOR = 2.5
MAX_STUDENT_EPOCHS = 40
# More rows need fewer passes: the least number of epochs by the number of rows below which it holds.
MIN_EPOCHS = ((20_000, 4), (100_000, 3), (math.inf, 2))
SMALL_BATCH, LARGE_BATCH = 16, 32
FEW_ROWS, LONG_TEXT_TOKENS = 4_000, 200
# Usual learning rate of a teacher of this width. The best rate falls with the width.
WIDTH, TEACHER_RATE = 384, 1e-4
TEACHER_WARMUP = 0.1  # of the steps
# Of a student: pruned while distilled, dense and distilled, trained on labels alone.
PRUNED_RATE, DENSE_RATE, LABELS_RATE = 2e-3, 3e-4, 2e-4
# A trial has a tenth of the training's steps, or up to a fifth if a tenth is fewer than 150, within these limits.
# With 150 labels of 9 rows each, trials of 102 steps had the lowest loss at 2e-4. Those of 146 to 204 steps had it at
# 4e-4, which is best for the training of 1,020 steps.
TRIAL_STEPS, ENOUGH_STEPS = (40, 500), 150
LONGEST_PART, SHORTEST_PART = 5, 10
# Trials of a search: the limit, and the number for estimates.
MOST_TRIALS, USUAL_TRIALS = 4, 3
UNEVEN = 10
LEAST_GAIN = 0.005


def batch_size(rows: int, mean_tokens: float, processes: int = 1) -> int:
    """Return the rows per step: fewer for few rows, which need more steps, and for long texts, which need memory.

    It is a multiple of the number of processes that share it.
    """
    size = SMALL_BATCH if rows < FEW_ROWS or mean_tokens > LONG_TEXT_TOKENS else LARGE_BATCH
    return math.ceil(size / processes) * processes


def epochs(rows: int, labels: int, batch: int) -> int:
    """Return the passes over the training rows after which a teacher of so many labels has usually converged."""
    wanted = math.ceil((STEPS + STEPS_PER_CLASS * labels) / math.ceil(rows / batch))
    least = next(epochs for below, epochs in MIN_EPOCHS if rows < below)
    return min(max(wanted, least), MAX_EPOCHS)


def slow_epochs(epochs: int) -> int:
    """Return the passes of a teacher that would have so many, if none of its trials has learned anything."""
    return min(math.ceil(SLOW_FACTOR * epochs), MAX_EPOCHS)


def student_epochs(epochs: float, least_steps: int, rows: int, batch: int) -> float:
    """Return the passes of a student over its training rows: `epochs`, or more where few rows make too few steps."""
    wanted = math.ceil(least_steps / math.ceil(rows / batch))
    return max(epochs, min(wanted, MAX_STUDENT_EPOCHS))


def teacher_rate(width: int) -> float:
    """Return the peak learning rate that a teacher of this hidden size usually needs."""
    return scaled_rate(TEACHER_RATE, WIDTH, width)


def scaled_rate(rate: float, reference: int, width: int) -> float:
    """Return the learning rate of a network of a hidden size for which `rate` is that of the size `reference`."""
    return rate if width == reference else float(f"{rate * reference / width:.2g}")


def trial_steps(steps: int) -> int:
    """Return the steps of a trial before a training of so many steps; 0 if it is too short for trials.

    They are a tenth of the training's, or a fifth, but not more than 150, if a tenth is fewer than that. Few validation
    rows cannot compare the trials of a short training.
    """
    least, most = TRIAL_STEPS
    part = min(max(round(steps / SHORTEST_PART), min(steps // LONGEST_PART, ENOUGH_STEPS)), most)
    return part if part >= least else 0


def trial_rate(rate: float, steps: int, trial: int) -> float:
    """Return the learning rate of a student's trial that stands for `rate` in a training of so many steps.

    A student that is pruned in fewer steps needs a higher rate: by the root of how many times fewer, up to ten times.
    On cola, trials of 150 of 960 steps chose half of the rate that the recipe has, and the whole run's divergence from
    the teacher fell from 0.288 to 0.273; trials of 96 steps at twice the rate chose twice the recipe's, and the run was
    worse. A teacher's trials run at the rate itself: their best rate was not higher than that of the training.
    """
    return rate * math.sqrt(min(steps / trial, SHORTEST_PART))


def student_rate(width: int, *, pruned: bool, distilled: bool) -> float:
    """Return the peak learning rate that a student of this hidden size usually needs."""
    rate = LABELS_RATE if not distilled else PRUNED_RATE if pruned else DENSE_RATE
    return scaled_rate(rate, WIDTH, width)


def are_uneven(counts: Sequence[int]) -> bool:
    """Return True if the most frequent label has many times the rows of the rarest that occurs."""
    occurring = [count for count in counts if count]
    return len(occurring) > 1 and max(occurring) >= UNEVEN * min(occurring)


def still_rising(scores: Sequence[float], rows: int) -> bool:
    """Return True if the last quarter of a training raised its best score on so many validation rows markedly.

    That is by more than a standard error of the score, and by more than half a point. `scores` are in order, 0-1.
    """
    late = max(round(len(scores) / 4), 1)
    earlier = scores[:-late]
    if not earlier:
        return False
    best = max(scores)
    return best - max(earlier) > max(math.sqrt(max(best * (1 - best), 0.0) / rows), LEAST_GAIN)
