"""Runs of the accuracy benchmark (a method at a level, on a task with a seed) and their order.

All methods of a scale share the teacher and the training rows. They also share the number of epochs, except methods
whose levels set it or keep their recipe's (`AS_IN_RECIPE`). A level is a fraction of zeros in the linear layers of the
encoder, or a fraction of its operations for methods that produce smaller dense matrices.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.accuracy.tasks import TASKS
from sparserve.models.recipes.schema import AUTO, Training

Kind = Literal["weights", "units", "layers", "dense"]
SEEDS = (0, 1, 2)
AS_IN_RECIPE = object()  # value of a level for a field that keeps the value of the recipe
WITHOUT_TRAINING = ("post-training", "obert-one-shot")


@dataclass(frozen=True)
class Method:
    """A compression method: a recipe and the fields that each level changes in it.

    One of the kind "dense" prunes nothing: it is the int8 twin of the teacher, which every recipe makes.

    With `only_if_named` it runs only if --method names it. With `as_served` its figures are those of its int8 file in
    the sparse runtime; other figures are those of the network. With `unlabeled` the student learns from the unlabelled
    rows of its task, too. `taught_by` is the scale of a bigger teacher, whose logits for the rows take the place of
    the labels; what it makes is still compared with the dense teacher that learned the labels.
    """

    name: str
    recipe: str
    kind: Kind
    levels: Mapping[str, Mapping[str, Any]]
    only_if_named: bool = False
    as_served: bool = False
    unlabeled: bool = False
    taught_by: "Scale | None" = None


@dataclass(frozen=True)
class Scale:
    """A checkpoint, its tasks with the epochs of a fixed teacher and of students, and the methods to run.

    With `finds_teacher` the teacher finds its own training in place of `teacher_rate` and its epochs.
    """

    name: str
    checkpoint: str
    teacher_rate: float
    epochs: Mapping[str, tuple[float, float]]
    methods: tuple[Method, ...]
    seeded: tuple[str, ...] = ()
    finds_teacher: bool = False

    def fixed_teacher(self, task: str) -> Training:
        """Return the settings of a dense teacher of a task that does not find them."""
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
        """Fields that replace those of the recipe: the level, and settings that all methods of the scale share."""
        fixed = self.scale.fixed_teacher(self.task).model_dump()
        shared = {"teacher": AUTO if self.scale.finds_teacher else fixed, "augmentation": None}
        max_length = TASKS[self.task].max_length
        if max_length is not None:
            shared["max_length"] = max_length
        if self.method.recipe not in WITHOUT_TRAINING:
            shared["student.epochs"] = self.scale.epochs[self.task][1]
        fields = {**shared, **self.method.levels[self.level]}
        return {name: value for name, value in fields.items() if value is not AS_IN_RECIPE}

    @property
    def title(self) -> str:
        """A short description of the cell."""
        return f"{self.scale.name} {self.task} {self.method.name} {self.level} seed {self.seed}"


def cells(
    scale: Scale,
    tasks: Sequence[str],
    methods: Sequence[str] | None = None,
    levels: Sequence[str] | None = None,
    *,
    seeds: int = len(SEEDS),
) -> Iterator[Cell]:
    """Yield the runs of a scale: all methods at their first level, then other levels, then more seeds."""
    selected = [m for m in scale.methods if (not m.only_if_named if methods is None else m.name in methods)]
    deepest = max((len(method.levels) for method in selected), default=0)
    for seed in SEEDS[:seeds]:
        for depth in range(deepest):
            for task in tasks:
                for method in selected:
                    names = list(method.levels)
                    if depth >= len(names) or (levels and names[depth] not in levels):
                        continue
                    if method.unlabeled and TASKS[task].unlabeled is None:
                        continue
                    if method.taught_by is not None and task not in method.taught_by.epochs:
                        continue
                    if seed == SEEDS[0] or (method.name in scale.seeded and depth == 0):
                        yield Cell(scale, method, names[depth], task, seed)
