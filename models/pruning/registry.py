"""The methods that prune weights or remove units, by the names that recipes call them."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from sparserve.models.errors import RecipeError
from sparserve.models.pruning.units.method import UnitMethod
from sparserve.models.pruning.units.mutual_information import MutualInformation
from sparserve.models.pruning.units.post_training import PostTraining
from sparserve.models.pruning.weights.group_lasso import GroupLasso
from sparserve.models.pruning.weights.layerwise_obs import LayerwiseObs
from sparserve.models.pruning.weights.magnitude import Magnitude
from sparserve.models.pruning.weights.method import PruningMethod
from sparserve.models.pruning.weights.movement import Movement, SoftMovement
from sparserve.models.pruning.weights.obert import OBert
from sparserve.models.pruning.weights.platon import Platon
from sparserve.models.recipes.schema import Pruning, Squeeze

Made = TypeVar("Made")
_KINDS: Mapping[type, str] = {bool: "true or false", int: "a whole number", float: "a number"}

METHODS: Mapping[str, type[PruningMethod]] = {
    "magnitude": Magnitude,
    "movement": Movement,
    "soft-movement": SoftMovement,
    "platon": Platon,
    "obert": OBert,
    "layerwise-obs": LayerwiseObs,
    "group-lasso": GroupLasso,
}

UNIT_METHODS: Mapping[str, type[UnitMethod]] = {
    "mutual-information": MutualInformation,
    "post-training": PostTraining,
}


def make_method(pruning: Pruning) -> PruningMethod:
    """Return the recipe's pruning method with the recipe's options.

    Raises:
        RecipeError: there is no such method, or it has no such option.
    """
    return make(METHODS, pruning.method, pruning.options, "pruning")


def make_unit_method(squeeze: Squeeze) -> UnitMethod:
    """Return the recipe's method of squeezing with the recipe's options.

    Raises:
        RecipeError: there is no such method, or it has no such option.
    """
    return make(UNIT_METHODS, squeeze.method, squeeze.options, "squeeze")


def make(known: Mapping[str, Callable[..., Made]], name: str, options: Mapping[str, Any], section: str) -> Made:
    """Return `known[name](**options)`.

    Raises:
        RecipeError: there is no such name, no such option, or a value of another type or one that it refuses.
    """
    if name not in known:
        raise RecipeError(f"{section}.method: there is no {name!r}; the methods are {', '.join(known)}")
    accepted = inspect.signature(known[name]).parameters
    for option, value in options.items():
        if option not in accepted:
            has = f"its options are {', '.join(accepted)}" if accepted else "it has none"
            raise RecipeError(f"{section}.options.{option}: {name} has no such option; {has}")
        kind = accepted[option].annotation
        try:
            TypeAdapter(kind).validate_python(value, strict=True)
        except ValidationError as error:
            raise RecipeError(f"{section}.options.{option} of {name} must be {_KINDS[kind]}, not {value!r}") from error
    try:
        return known[name](**options)
    except ValueError as error:
        raise RecipeError(f"{section}.options of {name}: {error}") from error
