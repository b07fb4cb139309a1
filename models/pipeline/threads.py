"""Threads of the training, chosen while it runs: all of them, or one where that is faster.

Two threads of torch beside a program that keeps one of two processors busy were 20 times slower than one: at the end of
every operation each thread waits for the last one, which waits for a processor.
"""

import time
from collections import deque
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from sparserve.models.progress import Reporter

TOKENS = 256
ROUNDS, LONGEST_SECONDS = 5, 1.0
# A training that takes this many times as long for so many steps as it did before is measured again.
SLOWER, WINDOW_STEPS = 3.0, 20
PAUSE_SECONDS = 30.0


def faster_threads(most: int, width: int) -> int:
    """Return 1 or `most`: the number of threads that trains a layer of this hidden size faster now.

    It is measured on a feed-forward block, forwards and backwards, in turns. The number of threads of this process
    becomes the result.
    """
    seconds = {most: 0.0, 1: 0.0}  # of equals the first is the faster
    # The caller may be anywhere in a step: its random numbers stay the same.
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        block = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        states = torch.randn(TOKENS, width)
        begin = time.perf_counter()
        for turn in range(1 + ROUNDS):
            for threads in seconds:
                torch.set_num_threads(threads)
                began = time.perf_counter()
                functional.layer_norm(states + block(states), (width,)).sum().backward()  # type: ignore[no-untyped-call]
                seconds[threads] += (time.perf_counter() - began) * (turn > 0)  # the first turn allocates
            if turn and time.perf_counter() - begin > LONGEST_SECONDS:
                break
    fastest = min(seconds, key=seconds.__getitem__)
    torch.set_num_threads(fastest)
    return fastest


class ThreadChooser:
    """Reporter that passes everything on, and chooses the threads at the start of steps and when one becomes slow."""

    def __init__(self, reporter: Reporter, *, most: int, width: int) -> None:
        """Choose between one thread and `most` for networks of this hidden size."""
        self._reporter, self._most, self._width = reporter, most, width
        self._chosen_at = -PAUSE_SECONDS
        self._times: deque[float] = deque(maxlen=WINDOW_STEPS + 1)
        self._fastest_window = float("inf")

    def begin(self, step: str) -> None:
        """Report that a step begins."""
        self._choose()
        self._reporter.begin(step)

    def advance(self, done: int, total: int, note: str) -> None:
        """Report the progress of a step."""
        self._reporter.advance(done, total, note)
        self._times.append(time.monotonic())
        if len(self._times) <= WINDOW_STEPS:
            return
        window = self._times[-1] - self._times[0]
        self._fastest_window = min(self._fastest_window, window)
        if window > SLOWER * self._fastest_window:
            self._choose()

    def say(self, line: str) -> None:
        """Report a sentence for the user."""
        self._reporter.say(line)

    def end(self, step: str, *, cached: bool, seconds: float) -> None:
        """Report that a step has ended."""
        self._reporter.end(step, cached=cached, seconds=seconds)

    def result(self, name: str, value: Any) -> None:
        """Report a result in machine-readable form."""
        self._reporter.result(name, value)

    def _choose(self) -> None:
        self._times.clear()
        self._fastest_window = float("inf")
        if time.monotonic() - self._chosen_at < PAUSE_SECONDS:
            return
        before, chosen = torch.get_num_threads(), faster_threads(self._most, self._width)
        self._chosen_at = time.monotonic()
        if chosen < before:
            self.say(
                f"Training uses 1 thread: {self._most} are slower now, beside other programs (--threads fixes the "
                "number)"
            )
        elif chosen > before:
            self.say(f"Training uses {chosen} threads again")
