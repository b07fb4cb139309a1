"""Expected seconds of a plan's steps."""

import math
import time
from typing import Any

import torch

from sparserve.models.data.tokenization import tokenize
from sparserve.models.pipeline.plan import Plan
from sparserve.models.training.word_candidates import has_masked_lm_head

# Of the matrix-multiplication rate, what a training step reaches: measured at 0.75-0.9 on two cores.
TRAINING_EFFICIENCY = 0.75
COPY_SECONDS = 1.0
EXPORT_SECONDS = 15.0
PACK_SECONDS = 5.0
SQUEEZE_SECONDS = 90.0
AUGMENTED_ROW_SECONDS = 0.0005
MASKS_A_TEXT = 7  # forward passes of each text, every seventh word masked at once


def estimate_seconds(plan: Plan) -> dict[str, float]:
    """Expected seconds of each step, from a quick measurement of this machine's matrix multiplication.

    A token costs 2 operations a parameter forwards and 4 backwards (Kaplan et al. 2020, arXiv 2001.08361, table 1).
    """
    job = plan.job
    config: Any = job.checkpoint.config
    width, inner = int(config.hidden_size), int(getattr(config, "intermediate_size", 4 * config.hidden_size))
    parameters = config.num_hidden_layers * (4 * width * width + 2 * width * inner)
    multi_label = job.dataset.problem_type == "multi_label_classification"
    tokenizer = job.checkpoint.tokenizer()
    tokens = {
        name: sum(
            tokenize(getattr(job.dataset, name), tokenizer, job.recipe.max_length, multi_label=multi_label).lengths
        )
        for name in ("train", "validation", "test")
    }
    rate = _multiplication_rate(width, inner) * TRAINING_EFFICIENCY
    forward: float = 2 * parameters / rate  # seconds a token

    def training(epochs: float, passes: int) -> float:
        return epochs * tokens["train"] * forward * passes + math.ceil(epochs) * tokens["validation"] * forward

    recipe = job.recipe
    live = recipe.distillation is not None and plan.teacher_outputs is None
    seconds = {"teacher": training(recipe.teacher.epochs, 3), "given teacher": COPY_SECONDS}
    copies = 1 + (recipe.augmentation.variants if recipe.augmentation else 0)
    by_model = recipe.augmentation is not None and recipe.augmentation.source != "embeddings"
    by_model = by_model and has_masked_lm_head(job.checkpoint)
    seconds["augmentation"] = copies * len(job.dataset.train) * AUGMENTED_ROW_SECONDS
    seconds["augmentation"] += MASKS_A_TEXT * tokens["train"] * forward if by_model else 0.0
    tokens["train"] *= copies
    seconds["teacher outputs"] = tokens["train"] * forward
    seconds["student"] = training(recipe.student.epochs, 4 if live else 3)
    seconds["squeeze"] = SQUEEZE_SECONDS
    for variant, step in plan.exports.items():
        seconds[step.title] = EXPORT_SECONDS if not variant.endswith("-int8") else EXPORT_SECONDS / 3
    seconds |= {step.title: PACK_SECONDS for step in plan.packs.values()}
    for step in (*plan.predictions.values(), *plan.sparse_predictions.values()):
        seconds[step.title] = tokens["test"] * forward + 1
    seconds[plan.measurement.title] = job.recipe.measurement.seconds + 15
    return seconds


def _multiplication_rate(width: int, inner: int) -> float:
    """Floating-point operations a second of a linear of this model on 1,024 tokens."""
    tokens, weight = torch.randn(1024, width), torch.randn(inner, width)
    rates: list[float] = []
    for _ in range(6):
        began = time.perf_counter()
        torch.nn.functional.linear(tokens, weight)
        rates.append(2 * 1024 * width * inner / (time.perf_counter() - began))
    return sorted(rates)[len(rates) // 2]
