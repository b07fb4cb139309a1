"""The small scale: every method, with a MiniLM of 6 layers, and its rival of 3 layers from pre-training on."""

from collections.abc import Mapping
from typing import Any

from benchmarks.accuracy.scales.base import BASE
from benchmarks.accuracy.scales.grid import AS_IN_RECIPE, Method, Scale
from benchmarks.accuracy.scales.levels import BY_MAGNITUDE, LAYER_BY_LAYER, sparsity_levels, weight_pruning
from sparserve.models.recipes.schema import AUTO

LEVELS = (0.95, 0.9, 0.8)
# More steps, with the same rows or new ones. The numbers differ somewhat, as passes are whole: records have them.
STEPS = 2000
MORE_STEPS: Mapping[str, Any] = {"student.epochs": 1, "student.least_steps": STEPS}
# New texts of each row: at most, since texts that come out unchanged or alike are dropped.
VARIANTS = 8
SWAP_DELETE: Mapping[str, Any] = {"variants": VARIANTS, "probability": 0.15, "source": "swap-delete"}
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
        weight_pruning("sparsebert-best", *LEVELS),
        Method(
            "sparsebert-best, as shipped",
            "sparsebert-best",
            "weights",
            {level: {**own, "student.epochs": AS_IN_RECIPE} for level, own in sparsity_levels(*LEVELS).items()},
            as_served=True,
        ),
        Method(
            "sparsebert-best, rate by trials",
            "sparsebert-best",
            "weights",
            {
                level: {**own, "student.epochs": AS_IN_RECIPE, **OWN_RATE}
                for level, own in sparsity_levels(0.95).items()
            },
            only_if_named=True,
            as_served=True,
        ),
        *(
            Method(
                f"sparsebert-best, {STEPS:,} steps{name}",
                "sparsebert-best",
                "weights",
                {level: {**own, **MORE_STEPS, **changes} for level, own in sparsity_levels(0.95).items()},
                only_if_named=True,
                as_served=True,
                unlabeled=name == ", unlabelled rows",
            )
            for name, changes in {
                "": {},
                ", swapped and deleted words": {"augmentation": SWAP_DELETE},
                ", similar words": {"augmentation": SIMILAR_WORDS},
                ", unlabelled rows": {},
            }.items()
        ),
        Method(
            "sparsebert-best, taught by MPNet-base",
            "sparsebert-best",
            "weights",
            {level: {**own, "student.epochs": AS_IN_RECIPE} for level, own in sparsity_levels(0.95).items()},
            only_if_named=True,
            as_served=True,
            taught_by=BASE,
        ),
        weight_pruning("magnitude", *LEVELS),
        weight_pruning("sparsebert", *LEVELS),
        weight_pruning("movement", *LEVELS),
        weight_pruning("soft-movement", *LEVELS),
        weight_pruning("platon", *LEVELS),
        weight_pruning("obert", *LEVELS),
        Method("sparsebert-best, layer by layer", "sparsebert-best", "weights", {"95 %": LAYER_BY_LAYER}),
        Method("sparsebert-best, by magnitude", "sparsebert-best", "weights", {"95 %": BY_MAGNITUDE}),
        weight_pruning("group-lasso", *LEVELS),
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
        Method("obert-one-shot", "obert-one-shot", "weights", sparsity_levels(0.5)),
        Method(
            "layerwise-obs-one-shot",
            "obert-one-shot",
            "weights",
            {"50 %": {"pruning.sparsity": 0.5, "pruning.method": "layerwise-obs", "pruning.allocation": "uniform"}},
        ),
    ),
    seeded=(
        "sparsebert-best",
        "sparsebert-best, as shipped",
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
            taught_by=SMALL,
        ),
    ),
    finds_teacher=True,
)
