"""Scales of the accuracy benchmark: methods with their levels, and the settings tried for sparsebert-best."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from benchmarks.accuracy.grid import AS_IN_RECIPE, Method, Scale
from sparserve.models.recipes.schema import AUTO


def _sparsities(*levels: float) -> dict[str, dict[str, Any]]:
    return {f"{100 * level:g} %": {"pruning.sparsity": level} for level in levels}


def _weights(name: str, *levels: float, changes: Mapping[str, Any] = MappingProxyType({})) -> Method:
    return Method(name, name, "weights", {level: {**own, **changes} for level, own in _sparsities(*levels).items()})


LEVELS = (0.95, 0.9, 0.8)
# Ablation of the output gradients in layer-wise Optimal Brain Surgeon: uniform allocation instead of a global ranking,
# which needs them.
LAYER_BY_LAYER: Mapping[str, Any] = {
    "pruning.sparsity": 0.95,
    "pruning.allocation": "uniform",
    "pruning.begin": 0.02,
    "pruning.options": {},
}
# Ablation of layer-wise Optimal Brain Surgeon: the same recipe with the score of SparseBERT.
BY_MAGNITUDE: Mapping[str, Any] = {
    **LAYER_BY_LAYER,
    "pruning.method": "magnitude",
    "pruning.begin": 0.0,
    "pruning.updates": 30,
}
# More steps, with the same rows or new ones: as many for all, so that their difference is that of the rows.
STEPS = 2000
MORE_STEPS: Mapping[str, Any] = {"student.epochs": 1, "student.least_steps": STEPS}
# New texts of each row, so that one pass over cola has these steps.
VARIANTS = 8
REORDERED: Mapping[str, Any] = {"variants": VARIANTS, "probability": 0.15, "source": "word-order"}
SIMILAR_WORDS: Mapping[str, Any] = {"variants": VARIANTS, "probability": 0.15, "source": "embeddings"}
# Small dense students are rivals: each has its own best learning rate.
OWN_RATE: Mapping[str, Any] = {"student.learning_rate": AUTO}
# The rival without pruning: the teacher in int8. Its recipe is any that trains no student.
DENSE_INT8 = Method("dense int8", "post-training", "dense", {"nothing pruned": {"temperature_scaling": False}})
SMALL = Scale(
    "minilm-l6",
    "sentence-transformers/all-MiniLM-L6-v2",
    1e-4,
    {"sst2": (2, 2), "mrpc": (4, 3), "cola": (4, 3), "rte": (5, 3), "clinc150": (8, 4), "imdb": (5, 8)},
    (
        _weights("sparsebert-best", *LEVELS),
        Method(
            "sparsebert-best, as shipped",
            "sparsebert-best",
            "weights",
            {level: {**own, "student.epochs": AS_IN_RECIPE} for level, own in _sparsities(*LEVELS).items()},
            as_served=True,
        ),
        Method(
            "sparsebert-best, rate by trials",
            "sparsebert-best",
            "weights",
            {level: {**own, "student.epochs": AS_IN_RECIPE, **OWN_RATE} for level, own in _sparsities(0.95).items()},
            only_if_named=True,
            as_served=True,
        ),
        *(
            Method(
                f"sparsebert-best, {STEPS:,} steps{name}",
                "sparsebert-best",
                "weights",
                {level: {**own, **MORE_STEPS, **changes} for level, own in _sparsities(0.95).items()},
                only_if_named=True,
                as_served=True,
                unlabeled=name == ", unlabelled rows",
            )
            for name, changes in {
                "": {},
                ", reordered words": {"augmentation": REORDERED},
                ", similar words": {"augmentation": SIMILAR_WORDS},
                ", unlabelled rows": {},
            }.items()
        ),
        Method(
            "sparsebert-best, taught by MPNet-base",
            "sparsebert-best",
            "weights",
            {level: {**own, "student.epochs": AS_IN_RECIPE} for level, own in _sparsities(0.95).items()},
            only_if_named=True,
            as_served=True,
            taught_by="mpnet-base",
        ),
        _weights("magnitude", *LEVELS),
        _weights("sparsebert", *LEVELS),
        _weights("movement", *LEVELS),
        _weights("soft-movement", *LEVELS),
        _weights("platon", *LEVELS),
        _weights("obert", *LEVELS),
        Method("sparsebert-best, layer by layer", "sparsebert-best", "weights", {"95 %": LAYER_BY_LAYER}),
        Method("sparsebert-best, by magnitude", "sparsebert-best", "weights", {"95 %": BY_MAGNITUDE}),
        _weights("group-lasso", *LEVELS),
        Method(
            "mutual-information",
            "mutual-information",
            "units",
            {
                "operations 1/4": {"squeeze.heads": 0.25, "squeeze.units": 0.25, **OWN_RATE},
                "operations 1/2": {"squeeze.heads": 0.5, "squeeze.units": 0.5, **OWN_RATE},
                "operations 1/6": {"squeeze.heads": 1 / 6, "squeeze.units": 1 / 6, **OWN_RATE},
                "operations 1/12": {"squeeze.heads": 1 / 12, "squeeze.units": 1 / 12, **OWN_RATE},
            },
        ),
        DENSE_INT8,
        Method(
            "post-training",
            "post-training",
            "units",
            {
                "operations 1/2": {"squeeze.flops": 0.5},
                "operations 1/2, rearranged": {"squeeze.flops": 0.5, "squeeze.options": {"rearrange": True}},
            },
        ),
        Method(
            "distilbert",
            "distilbert",
            "layers",
            {f"{count} layer{'s' if count > 1 else ''}": {"student.layers": count, **OWN_RATE} for count in (3, 2, 1)},
        ),
        Method("tinybert", "tinybert", "layers", {"4 x 192": OWN_RATE}),
        Method(
            "squeeze-sparsify",
            "squeeze-sparsify",
            "units",
            {
                "half, 90 %": {"pruning.sparsity": 0.9},
                "half, 80 %": {},
                "quarter, 80 %": {"squeeze.heads": 0.25, "squeeze.units": 0.25},
                "quarter, 80 %, 3 layers": {"squeeze.heads": 0.25, "squeeze.units": 0.25, "student.layers": 3},
            },
        ),
        Method("obert-one-shot", "obert-one-shot", "weights", _sparsities(0.5)),
        Method(
            "layerwise-obs-one-shot",
            "obert-one-shot",
            "weights",
            {"50 %": {"pruning.sparsity": 0.5, "pruning.method": "layerwise-obs", "pruning.allocation": "uniform"}},
        ),
    ),
    seeded=(
        "sparsebert-best",
        "sparsebert-best, layer by layer",
        "platon",
        "obert",
        "soft-movement",
        "squeeze-sparsify",
        "mutual-information",
    ),
    finds_teacher=True,
)
# A rival of pruning: a smaller network from pre-training on. Its dense scores count, in fp32 and in int8.
SMALLER = Scale(
    "minilm-l3",
    "sentence-transformers/paraphrase-MiniLM-L3-v2",
    SMALL.teacher_rate,
    SMALL.epochs,
    (
        DENSE_INT8,
        Method(
            "dense int8, taught by MiniLM-L6",
            DENSE_INT8.recipe,
            "dense",
            DENSE_INT8.levels,
            taught_by=SMALL.name,
        ),
    ),
    finds_teacher=True,
)
OF_BASE: Mapping[str, Any] = {
    "student.learning_rate": 5e-4,
    "pruning.options": {"batches": 4, "output_fisher": True},
}
BASE_LAYER_BY_LAYER: Mapping[str, Any] = {**OF_BASE, **LAYER_BY_LAYER, "pruning.options": {"batches": 4}}
# Texts of cola are short: 4 batches have fewer inputs than a matrix has columns.
BATCHES_16: Mapping[str, Any] = {
    **OF_BASE,
    "pruning.sparsity": 0.95,
    "pruning.options": {"batches": 16, "output_fisher": True},
}
CHANGES_OF_BASE: Mapping[str, Mapping[str, Any]] = {
    "layer by layer": BASE_LAYER_BY_LAYER,
    "layer by layer, learning rate 1e-3": {**BASE_LAYER_BY_LAYER, "student.learning_rate": 1e-3},
    "16 batches": BATCHES_16,
    # Three times the steps of cola, of which the base scale has few.
    "16 batches, three times the steps": {**BATCHES_16, "student.epochs": 12},
    "recovery of 70 %": {**OF_BASE, "pruning.sparsity": 0.95, "pruning.end": 0.3},
    "by magnitude, learning rate 1e-3": {**BY_MAGNITUDE, "student.learning_rate": 1e-3},
}
BASE = Scale(
    "mpnet-base",
    "sentence-transformers/all-mpnet-base-v2",
    3e-5,
    {"cola": (3, 4), "mrpc": (3, 5), "rte": (5, 8), "sst2": (2, 3)},
    (
        # The learning rate of the recipes is meant for a network of half the width.
        _weights("sparsebert-best", 0.95, 0.9, changes=OF_BASE),
        _weights("sparsebert", 0.95, 0.9),
        _weights("magnitude", 0.95, 0.9),
        *(
            _weights(name, 0.95, 0.9, changes={"student.learning_rate": 1e-3})
            for name in ("movement", "obert", "platon", "soft-movement")
        ),
        *(
            Method(
                f"sparsebert-best, {name}",
                "sparsebert-best",
                "weights",
                {"95 %": change, "90 %": {**change, "pruning.sparsity": 0.9}},
                only_if_named=True,
            )
            for name, change in CHANGES_OF_BASE.items()
        ),
        # Ten times the rows, and so ten times the steps.
        Method(
            "sparsebert-best, ten times the rows",
            "sparsebert-best",
            "weights",
            {
                name: {**OF_BASE, **level, "augmentation": {"variants": 9}}
                for name, level in _sparsities(0.95, 0.9).items()
            },
            only_if_named=True,
        ),
        # 31 times the steps of the other methods: needs a GPU.
        Method(
            "sparsebert-augmented",
            "sparsebert",
            "weights",
            {name: {**level, "augmentation": AS_IN_RECIPE} for name, level in _sparsities(0.95, 0.9).items()},
            only_if_named=True,
        ),
    ),
)
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
SCALES = {scale.name: scale for scale in (SMALL, SMALLER, BASE, CHOICES)}
