"""The methods that remove whole units, by the names that recipes call them."""

from collections.abc import Mapping

from sparserve.models.pruning.registry import make
from sparserve.models.pruning.units.method import UnitMethod
from sparserve.models.pruning.units.mutual_information import MutualInformation
from sparserve.models.pruning.units.post_training import PostTraining
from sparserve.models.recipes.schema import Squeeze

UNIT_METHODS: Mapping[str, type[UnitMethod]] = {
    "mutual-information": MutualInformation,
    "post-training": PostTraining,
}


def make_unit_method(squeeze: Squeeze) -> UnitMethod:
    """Return the recipe's method of squeezing with the recipe's options.

    Raises:
        RecipeError: there is no such method, or it has no such option.
    """
    return make(UNIT_METHODS, squeeze.method, squeeze.options, "squeeze")
