"""Registry of the methods that prune weights or remove units, by the names used in recipes."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from torch import nn

from sparserve.models.encoders.layers import encoder_linears
from sparserve.models.errors import RecipeError
from sparserve.models.pruning.masks import check_block
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

Method = TypeVar("Method")
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
    """Build the recipe's pruning method with the recipe's options.

    Raises:
        RecipeError: the method or one of the options is unknown or invalid.
    """
    return make(METHODS, pruning.method, pruning.options, "pruning")


def make_unit_method(squeeze: Squeeze) -> UnitMethod:
    """Build the recipe's squeeze method with the recipe's options.

    Raises:
        RecipeError: the method or one of the options is unknown or invalid.
    """
    return make(UNIT_METHODS, squeeze.method, squeeze.options, "squeeze")


def check_pruning(model: nn.Module, pruning: Pruning, *, shapes_are_final: bool = True) -> None:
    """Check that a recipe's pruning fits a model, which may be on the device `meta`.

    With `shapes_are_final=False` (a squeeze comes first) blocks are not checked against the matrices.

    Raises:
        RecipeError: the method, an option or the block does not fit.
    """
    targets = encoder_linears(model)
    if shapes_are_final:
        check_block(targets, pruning.block)
    make_method(pruning).check(targets, pruning)


def make(known: Mapping[str, Callable[..., Method]], name: str, options: Mapping[str, Any], section: str) -> Method:
    """Return `known[name](**options)`.

    Raises:
        RecipeError: the name or an option is unknown, or a value is invalid.
    """
    if name not in known:
        raise RecipeError(f"{section}.method: unknown method {name!r}. Methods: {', '.join(known)}.")
    accepted = inspect.signature(known[name]).parameters
    for option, value in options.items():
        if option not in accepted:
            names = f"Options: {', '.join(accepted)}." if accepted else "It has no options."
            raise RecipeError(f"{section}.options.{option}: {name} has no such option. {names}")
        kind = accepted[option].annotation
        try:
            TypeAdapter(kind).validate_python(value, strict=True)
        except ValidationError as error:
            raise RecipeError(f"{section}.options.{option} of {name} must be {_KINDS[kind]}, not {value!r}") from error
    try:
        return known[name](**options)
    except ValueError as error:
        raise RecipeError(f"{section}.options of {name}: {error}") from error
