"""Ladders: one recipe from its least to its most compressed level."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from sparserve.models.errors import RecipeError
from sparserve.models.recipes.schema import Recipe

SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98)
KEPT = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
NAME_CHARACTERS = 40
# The fields that make and evaluate the dense baseline: shared by all recipes of a search, so that drops compare.
SHARED = ("max_length", "long_texts", "teacher", "temperature_scaling", "export", "evaluation", "measurement")
SHARED_QUANTIZATION = ("embeddings", "reduce_range")


@dataclass(frozen=True)
class Candidate:
    """A recipe at one level. `rung` 0 is the least compressed level of the ladder."""

    ladder: str
    setting: str
    rung: int
    recipe: Recipe

    @property
    def variant(self) -> str:
        """Name of the variant in the store, such as `demo-sparsity90`."""
        return self.recipe.variant_name

    @property
    def title(self) -> str:
        """The recipe and its level."""
        return f"{self.ladder} at {self.setting}" if self.setting else self.ladder


@dataclass(frozen=True)
class Ladder:
    """The fields of a recipe that set its compression, and their values, least compressed first.

    A level is the value of the first field. The other fields keep their ratio to it, up to 1, so that the recipe's own
    level gives the recipe back. A recipe without such a field is a ladder of one rung: the recipe unchanged.
    """

    name: str
    recipe: Recipe
    fields: tuple[str, ...]
    levels: tuple[float, ...]

    def __len__(self) -> int:
        return max(len(self.levels), 1)

    def values(self, rung: int) -> dict[str, float]:
        """Return the value of each field at a level."""
        first, *others = self.fields
        level = self.levels[rung]
        # The quotient is exactly 1 at the recipe's own level.
        return {first: level} | {field: min(1.0, self._own(field) * (level / self._own(first))) for field in others}

    def _own(self, field: str) -> float:
        section, _, name = field.partition(".")
        return float(getattr(getattr(self.recipe, section), name))

    def candidate(self, rung: int) -> Candidate:
        """Return the recipe at a level, with the level in the name of its variant.

        Raises:
            RecipeError: the recipe has no such level.
        """
        content: dict[str, Any] = self.recipe.model_dump() | {"variant": slug(self.name)}
        setting = ""
        if self.fields:
            level, values = self.levels[rung], self.values(rung)
            for field, value in values.items():
                section, _, name = field.partition(".")
                content[section][name] = value
            setting = ", ".join(f"{field}={value:g}" for field, value in values.items())
            kind = self.fields[0].rpartition(".")[2]
            content["variant"] += f"-{kind}{level if kind == 'layers' else 100 * level:g}"
        try:
            recipe = Recipe.model_validate(content)
        except ValidationError as error:
            reasons = "; ".join(problem["msg"].removeprefix("Value error, ") for problem in error.errors())
            change = setting or "a variant named after it"
            raise RecipeError(f"recipe {self.name} cannot have {change}: {reasons}") from error
        return Candidate(self.name, setting, rung, recipe)


def make_ladder(name: str, recipe: Recipe, *, layers: int, levels: Sequence[float] | None = None) -> Ladder:
    """Return the ladder of a recipe over its sparsity, its squeeze, or else its number of layers.

    `layers` is the number of the checkpoint's transformer layers; `levels`, in any order, replaces the usual levels.
    The recipe's own level is one of the usual levels. A recipe that narrows heads, units or hidden dimensions by
    different fractions is narrowed further in the same ratio.

    Raises:
        RecipeError: levels are given, but the recipe has no level.
    """
    fields: tuple[str, ...] = ()
    usual: tuple[float, ...] = ()
    growing = False
    if recipe.pruning is not None:
        fields, growing = ("pruning.sparsity",), True
        usual = (*(s for s in SPARSITIES if s >= recipe.pruning.initial_sparsity), recipe.pruning.sparsity)
    elif recipe.squeeze is not None:
        squeeze = recipe.squeeze
        narrowed = [part for part in ("heads", "units", "hidden") if getattr(squeeze, part) < 1]
        fields = tuple(f"squeeze.{part}" for part in narrowed) or ("squeeze.flops",)
        usual = (*KEPT, getattr(squeeze, narrowed[0]) if narrowed else squeeze.flops or KEPT[0])
    elif recipe.student.layers is not None:
        fields, usual = ("student.layers",), tuple(range(1, layers + 1))
    if levels is not None and not fields:
        raise RecipeError(f"recipe {name} has no level to search: it has neither pruning, squeeze nor student.layers")
    ordered = sorted(set(usual if levels is None else levels), reverse=not growing)
    return Ladder(name, recipe, fields, tuple(ordered))


def with_shared(recipe: Recipe, first: Recipe) -> Recipe:
    """Return a recipe with the fields that make and evaluate the dense baseline taken from another recipe.

    The baseline does not depend on the recipe's int8 variant and the bits of its token table: these stay.
    """
    quantization = {name: getattr(first.quantization, name) for name in SHARED_QUANTIZATION}
    shared = {name: getattr(first, name) for name in SHARED}
    return recipe.model_copy(update={**shared, "quantization": recipe.quantization.model_copy(update=quantization)})


def slug(name: str) -> str:
    """Return a recipe's name as the beginning of a variant's name."""
    return re.sub(r"[^a-z0-9._]+", "-", name.lower()).strip("-._")[:NAME_CHARACTERS] or "recipe"
