"""Settings that were tried for sparsebert-best, compared on validation rows."""

from collections.abc import Mapping
from typing import Any

from benchmarks.accuracy.scales.grid import Method, Scale
from benchmarks.accuracy.scales.levels import BY_MAGNITUDE, LAYER_BY_LAYER
from benchmarks.accuracy.scales.small import SMALL

# Candidates for sparsebert-best, compared on validation rows. Each level changes one setting of the first.
FIRST_SETTINGS: Mapping[str, Any] = {
    **BY_MAGNITUDE,
    "pruning.initial_sparsity": 0.5,
    "pruning.end": 0.5,
    "student.start": "teacher",
    "student.learning_rate": 1e-3,
    "student.schedule": "decay_last",
    "student.decay": 0.6,
    "distillation.hidden": 20.0,
    "distillation.logits": 1.0,
    "distillation.labels": 0.0,
    "distillation.temperature": 2.0,
}
CHANGES: Mapping[str, Mapping[str, Any]] = {
    "first settings": {},
    "global allocation": {"pruning.allocation": "global"},
    "first update to 70 %": {"pruning.initial_sparsity": 0.7},
    "first update to 95 %": {"pruning.initial_sparsity": 0.95},
    "learning rate 2e-3": {"student.learning_rate": 2e-3},
    "learning rate 4e-3": {"student.learning_rate": 4e-3},
    "learning rate 5e-4": {"student.learning_rate": 5e-4},
    "hidden states weigh 80": {"distillation.hidden": 80.0},
    "hidden states weigh 5": {"distillation.hidden": 5.0},
    "3 rewinds of the learning rate": {"student.schedule": "cosine_restarts", "student.cycles": 3},
    "recovery of 70 %": {"pruning.end": 0.3},
    "recovery of 30 %": {"pruning.end": 0.7},
    "T = 1": {"distillation.temperature": 1.0},
    "T = 4": {"distillation.temperature": 4.0},
    "gold labels, too": {"distillation.labels": 0.5},
    "from the pre-trained checkpoint": {"student.start": "pretrained"},
    "global, 70 % at first, hidden states 80": {
        "pruning.allocation": "global",
        "pruning.initial_sparsity": 0.7,
        "distillation.hidden": 80.0,
    },
    "learning rate 2e-3, 70 % at first, hidden states 80": {
        "student.learning_rate": 2e-3,
        "pruning.initial_sparsity": 0.7,
        "distillation.hidden": 80.0,
    },
}
CHANGES_OF_SHIPPED: Mapping[str, Mapping[str, Any]] = {
    "as shipped": {},
    "as shipped, uniform allocation": {"pruning.allocation": "uniform"},
    "as shipped, first update to 70 %": {"pruning.initial_sparsity": 0.7},
    "as shipped, recovery of 70 %": {"pruning.end": 0.3},
    "as shipped, recovery of 30 %": {"pruning.end": 0.7},
    "layer by layer": LAYER_BY_LAYER,
    "layer by layer, learning rate 1e-3": {**LAYER_BY_LAYER, "student.learning_rate": 1e-3},
    "layer by layer, learning rate 3e-3": {**LAYER_BY_LAYER, "student.learning_rate": 3e-3},
    "layer by layer, batches of 16": {**LAYER_BY_LAYER, "student.batch_size": 16},
    "layer by layer, recovery of 70 %": {**LAYER_BY_LAYER, "pruning.end": 0.3},
}
CHOICES = Scale(
    "choices",
    SMALL.checkpoint,
    SMALL.teacher_rate,
    {task: SMALL.epochs[task] for task in ("sst2", "cola", "mrpc")},
    (
        Method(
            "sparsebert-best",
            "sparsebert-best",
            "weights",
            {name: {**FIRST_SETTINGS, **change} for name, change in CHANGES.items()} | CHANGES_OF_SHIPPED,
        ),
        # Ablation of the number of steps, with the same rows or new ones.
        Method(
            "sparsebert-best, three times the steps",
            "sparsebert-best",
            "weights",
            {
                "three times the epochs": {"student.epochs": 9},
                "two augmented rows of each": {"augmentation": {"variants": 2}},
            },
            only_if_named=True,
        ),
        # Other methods with other learning rates, to show that they do not lose for lack of tuning.
        Method(
            "magnitude",
            "magnitude",
            "weights",
            {
                "as shipped": {"pruning.sparsity": 0.95},
                "learning rate 1e-3": {"pruning.sparsity": 0.95, "student.learning_rate": 1e-3},
            },
        ),
        Method(
            "distilbert",
            "distilbert",
            "layers",
            {
                "as shipped": {"student.layers": 3},
                "learning rate 1e-3": {"student.layers": 3, "student.learning_rate": 1e-3},
            },
        ),
    ),
)
