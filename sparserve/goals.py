"""Goals of a compression in one word, and the shipped recipe that stands for each.

The choice follows the tables of docs/results.md (MiniLM-L6 on four GLUE tasks; points lost on average, median speed
against ONNX Runtime fp32 with one text of 64 tokens):

- balanced: `sparsebert-best` loses the least of all methods at 95 % zeros (2.4 points, 9.0 times as fast).
- fastest: `squeeze-sparsify` is faster still (11.0 times, 2.1 points). It removes half of the heads and units, and more
  with `--set squeeze.heads=0.25 --set squeeze.units=0.25` (16.8 times, 3.1 points).
- smallest: `smallest` is the only recipe that also compresses the token table, which takes most of the 13 to 20 MB
  that the smallest files of most other recipes have.
- no-training: `post-training` loses less than the other recipe that trains no student, `obert-one-shot`, and is faster
  (0.9 against 1.4 points, 5.7 against 4.0 times).
"""

from typing import Final, Literal, get_args

from sparserve.models.errors import InputError

Goal = Literal["balanced", "fastest", "smallest", "no-training"]

DEFAULT_RECIPE: Final = "sparsebert-best"
RECIPES: Final[dict[Goal, str]] = {
    "balanced": DEFAULT_RECIPE,
    "fastest": "squeeze-sparsify",
    "smallest": "smallest",
    "no-training": "post-training",
}


def choose_recipe(recipe: str | None, goal: Goal | None) -> str:
    """Return the recipe to use: the one given, else that of the goal, else the default.

    Raises:
        InputError: both are given, or there is no such goal.
    """
    if goal is None:
        return recipe or DEFAULT_RECIPE
    if goal not in RECIPES:
        raise InputError(f"Unknown goal {goal!r}. Goals: {', '.join(get_args(Goal))}.")
    if recipe is not None:
        raise InputError(
            f"Both the recipe {recipe!r} and the goal {goal!r} were given. Leave one out: "
            f"the goal stands for the recipe {RECIPES[goal]!r}."
        )
    return RECIPES[goal]
