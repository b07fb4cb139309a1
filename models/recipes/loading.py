"""Loading and validation of recipes: shipped ones by name, or YAML files, with overrides."""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sparserve.models.errors import RecipeError
from sparserve.models.recipes.schema import AUTO, Recipe


def shipped_recipes() -> dict[str, Path]:
    """Return the files of the shipped recipes by name."""
    folder = Path(str(resources.files("sparserve.models") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_recipe(source: str | Path, *, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe from a YAML file, or a shipped one by its name.

    `overrides` maps dotted fields, such as `pruning.sparsity`, to values that replace those of the file.

    Raises:
        RecipeError: the file cannot be read, a field is unknown, or a value is out of range.
    """
    path = Path(source)
    if not path.is_file():
        shipped = shipped_recipes()
        if str(source) not in shipped:
            raise RecipeError(f"Recipe {source} does not exist. Give a YAML file, or one of {', '.join(shipped)}.")
        path = shipped[str(source)]
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path} must contain fields such as `name: my-recipe`, not a {type(content).__name__}.")
    prunes = content.get("pruning") is not None
    single = next((field for field in overrides or {} if field.startswith("teacher.")), None)
    if single is not None and "teacher" not in (overrides or {}) and content.get("teacher") in (None, AUTO):
        raise RecipeError(
            f"{single} cannot be set: the teacher of recipe {path.stem} is {AUTO}, which finds all of its training. To "
            "fix it, give all of it: --set 'teacher={epochs: 4, batch_size: 32, learning_rate: 5.0e-5}'"
        )
    for field, value in (overrides or {}).items():
        _set_field(content, field.split("."), value)
    for given, adapted in (("epochs", "least_steps"), ("learning_rate", "reference_width")):
        if f"student.{given}" in (overrides or {}) and f"student.{adapted}" not in (overrides or {}):
            content["student"].pop(adapted, None)
    if overrides and "pruning.sparsity" in overrides and not prunes and "pruning.method" not in overrides:
        raise RecipeError(
            f"Recipe {path.stem} prunes no single weights, so it has no sparsity to change. To add pruning, use "
            "--set pruning.method=magnitude and another --variant."
        )
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        problems = error.errors()
        places = [problem["loc"] for problem in problems]
        # pydantic often reports the section of an invalid value as well.
        problems = [p for p in problems if not any(len(p["loc"]) < len(q) and _overlap(p["loc"], q) for q in places)]
        changed = [
            (field, value)
            for field, value in (overrides or {}).items()
            if _overlap(problems[0]["loc"], field.split("."))
        ]
        where = f"{path.stem} with {', '.join(f'{field}={value}' for field, value in changed)}" if changed else path
        # Of an option that may have several types, pydantic reports each type separately.
        messages = dict.fromkeys(map(_describe_problem, problems))
        raise RecipeError(f"{where}: {'; '.join(messages)}") from error


def _overlap(place: Sequence[int | str], other: Sequence[int | str]) -> bool:
    """Return True if one of two places in a recipe contains the other; () is the whole recipe."""
    return all(str(key) == str(same) for key, same in zip(place, other, strict=False))


def _set_field(content: dict[str, Any], path: list[str], value: Any) -> None:
    for key in path[:-1]:
        if content.get(key) is None:
            content[key] = {}
        content = content[key]
        if not isinstance(content, dict):
            raise RecipeError(f"{'.'.join(path)} cannot be set: {key} is {content!r} in the recipe and has no fields.")
    content[path[-1]] = value


def _describe_problem(problem: Mapping[str, Any]) -> str:
    field = ".".join(map(str, problem["loc"])) or "recipe"
    if problem["type"] == "extra_forbidden":
        parent: Any = Recipe
        for key in problem["loc"][:-1]:
            annotation = parent.model_fields[key].annotation
            parent = next(
                (a for a in getattr(annotation, "__args__", (annotation,)) if hasattr(a, "model_fields")), Recipe
            )
        return f"unknown field {field!r}. Fields there: {', '.join(parent.model_fields)}"
    given, message = problem["input"], str(problem["msg"]).removeprefix("Value error, ")
    if field == "recipe":
        return message
    if isinstance(given, dict):  # a section whose fields contradict each other: the message names them
        return f"{field}: {message}"
    if "options" in problem["loc"][:-1]:
        field, message = ".".join(map(str, problem["loc"][:3])), "Input should be a number, or true or false"
    limits = problem.get("ctx", {})
    is_percentage = 1 in (limits.get("lt"), limits.get("le")) and isinstance(given, int | float) and given > 1
    hint = f"; it is a fraction, such as {given / 100:g}" if is_percentage else ""
    return f"{field}: {message} (given: {given!r}{hint})"
