"""The base scale: a network of the size of BERT-base, whose runs need a GPU or hours."""

from collections.abc import Mapping
from typing import Any

from benchmarks.accuracy.scales.grid import AS_IN_RECIPE, Method, Scale
from benchmarks.accuracy.scales.levels import BY_MAGNITUDE, LAYER_BY_LAYER, sparsity_levels, weight_pruning

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
        # Fixed rates: the rows are older than `student.reference_width`, which would give 1e-3.
        weight_pruning("sparsebert-best", 0.95, 0.9, changes=OF_BASE),
        weight_pruning("sparsebert", 0.95, 0.9),
        weight_pruning("magnitude", 0.95, 0.9),
        *(
            weight_pruning(name, 0.95, 0.9, changes={"student.learning_rate": 1e-3})
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
                for name, level in sparsity_levels(0.95, 0.9).items()
            },
            only_if_named=True,
        ),
        # 31 times the steps of the other methods: needs a GPU.
        Method(
            "sparsebert-augmented",
            "sparsebert",
            "weights",
            {name: {**level, "augmentation": AS_IN_RECIPE} for name, level in sparsity_levels(0.95, 0.9).items()},
            only_if_named=True,
        ),
    ),
)
