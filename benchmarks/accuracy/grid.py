"""What a run of the accuracy benchmark is: a method at a level, on a task with a seed, and the order of the runs.

Every method of a scale has the same teacher, training rows and number of epochs; a level is a share of zeros in the
encoder's linears, or for methods that leave smaller dense matrices a share of its operations.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sparserve.models.recipes.schema import Training

Kind = Literal["weights", "units", "layers"]
SEEDS = (0, 1, 2)
AS_IN_RECIPE = object()  # a level's value for a field that must not be replaced
WITHOUT_TRAINING = ("post-training", "obert-one-shot")


@dataclass(frozen=True)
class Method:
    """One way to compress: a recipe, and what each of its levels changes in it.

    With `only_if_named` it is run only where it is asked for by name.
    """

    name: str
    recipe: str
    kind: Kind
    levels: Mapping[str, Mapping[str, Any]]
    only_if_named: bool = False


@dataclass(frozen=True)
class Scale:
    """One checkpoint: its tasks with the epochs of their teacher and of every student, and the methods run on it."""

    name: str
    checkpoint: str
    teacher_rate: float
    epochs: Mapping[str, tuple[float, float]]
    methods: tuple[Method, ...]
    seeded: tuple[str, ...] = ()

    def teacher(self, task: str) -> Training:
        """How the dense teacher of a task is fine-tuned."""
        return Training(
            epochs=self.epochs[task][0], batch_size=32, learning_rate=self.teacher_rate, freeze_embeddings=True
        )


@dataclass(frozen=True)
class Cell:
    """One run: a method at a level on a task with a seed."""

    scale: Scale
    method: Method
    level: str
    task: str
    seed: int

    @property
    def overrides(self) -> dict[str, Any]:
        """Fields that replace the recipe's: the level, and what is the same for all methods of the scale."""
        same = {"teacher": self.scale.teacher(self.task).model_dump(), "augmentation": None}
        if self.method.recipe not in WITHOUT_TRAINING:
            same["student.epochs"] = self.scale.epochs[self.task][1]
        fields = {**same, **self.method.levels[self.level]}
        return {name: value for name, value in fields.items() if value is not AS_IN_RECIPE}

    @property
    def title(self) -> str:
        """The cell in a few words."""
        return f"{self.scale.name} {self.task} {self.method.name} {self.level} seed {self.seed}"


def cells(
    scale: Scale,
    tasks: Sequence[str],
    methods: Sequence[str] | None = None,
    levels: Sequence[str] | None = None,
    *,
    seeds: int = len(SEEDS),
) -> Iterator[Cell]:
    """The runs of a scale, what says most first: all methods at their first level, then the others, then more seeds."""
    chosen = [m for m in scale.methods if (not m.only_if_named if methods is None else m.name in methods)]
    deepest = max((len(method.levels) for method in chosen), default=0)
    for seed in SEEDS[:seeds]:
        for depth in range(deepest):
            for task in tasks:
                for method in chosen:
                    names = list(method.levels)
                    if depth >= len(names) or (levels and names[depth] not in levels):
                        continue
                    if seed == SEEDS[0] or (method.name in scale.seeded and depth == 0):
                        yield Cell(scale, method, names[depth], task, seed)
