"""Expected seconds of a job's steps, from the size of its data and a quick measurement of this machine."""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from sparserve.models.pipeline.inputs import Job

if TYPE_CHECKING:
    from sparserve.models.pipeline.step_cache import Step

# Of the matrix-multiplication rate, the fraction that a training step reaches: measured at 0.75-0.9 on two cores.
TRAINING_EFFICIENCY = 0.75


@dataclass(frozen=True)
class Costs:
    """The quantities that a step's duration depends on."""

    token_seconds: float
    """Seconds of one token's forward pass through the checkpoint."""
    train: int
    """Tokens of the training split."""
    validation: int
    """Tokens of the validation split."""
    test: int
    """Tokens of the test split."""
    unlabeled: int = 0
    """Tokens of the unlabelled rows that the student learns from."""

    def forward(self, tokens: int) -> float:
        """Return the seconds of a forward pass over so many tokens."""
        return tokens * self.token_seconds

    def student(self, copies: int) -> int:
        """Return the tokens that the student learns from: `copies` of the training split, and the unlabelled rows."""
        return copies * self.train + self.unlabeled

    def training(self, epochs: float, *, passes: int, tokens: int | None = None, validated: bool = True) -> float:
        """Return the seconds of a training on so many tokens; None means those of the training split.

        Each costs `passes` forward passes per epoch. Every epoch ends with a validation if the training is `validated`.
        """
        learned = self.train if tokens is None else tokens
        validations = math.ceil(epochs) if validated else 0
        return epochs * self.forward(learned) * passes + validations * self.forward(self.validation)


def measure_costs(job: Job) -> Costs:
    """Count the tokens of a job's data and measure the speed of matrix multiplication.

    A token costs 2 operations per parameter forwards and 4 backwards (Kaplan et al. 2020, arXiv 2001.08361, table 1).
    """
    config: Any = job.checkpoint.config
    architecture = job.checkpoint.architecture
    width, inner = int(config.hidden_size), int(getattr(config, architecture.config_name("intermediate_size")))
    matrices = 2 if architecture.layer.gate is None else 3
    parameters = config.num_hidden_layers * (4 * width * width + matrices * width * inner)
    rows = job.rows(job.checkpoint)
    rate = _multiplication_rate(width, inner) * TRAINING_EFFICIENCY
    unlabeled = job.unlabeled_rows(job.checkpoint)
    return Costs(
        2 * parameters / rate,
        train=sum(rows.train.lengths),
        validation=sum(rows.validation.lengths),
        test=sum(rows.test.lengths),
        unlabeled=sum(unlabeled.lengths) if unlabeled is not None else 0,
    )


def encoder_parameters(config: Any) -> int:
    """Return the weights of the linears of a network with this configuration, as far as it names their sizes."""
    width = int(getattr(config, "hidden_size", 0))
    inner = int(getattr(config, "intermediate_size", None) or 4 * width)
    return int(getattr(config, "num_hidden_layers", 0)) * (4 * width * width + 2 * width * inner)


def estimate_seconds(job: Job, steps: Iterable["Step"]) -> dict[str, float]:
    """Return the expected seconds of each step by its name."""
    costs = measure_costs(job)
    return {step.name: step.estimate(costs) for step in steps}


def duration(seconds: float) -> str:
    """Return a duration for people: seconds, or minutes."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _multiplication_rate(width: int, inner: int) -> float:
    """Return the floating-point operations per second of a linear of this model on 1,024 tokens."""
    tokens, weight = torch.randn(1024, width), torch.randn(inner, width)
    rates: list[float] = []
    for _ in range(6):
        began = time.perf_counter()
        torch.nn.functional.linear(tokens, weight)
        rates.append(2 * 1024 * width * inner / (time.perf_counter() - began))
    return sorted(rates)[len(rates) // 2]
