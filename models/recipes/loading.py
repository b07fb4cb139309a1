"""Recipes as YAML files: those that ship and those of users, read with changes and checked."""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sparserve.models.errors import RecipeError
from sparserve.models.recipes.schema import Recipe


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with sparserve, by name."""
    folder = Path(str(resources.files("sparserve.models") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_recipe(source: str | Path, *, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe from a YAML file, or a shipped one by its name.

    `overrides` maps dotted fields, such as `pruning.sparsity`, to values that replace the file's.

    Raises:
        RecipeError: the file cannot be read, a field is unknown or a value out of range.
    """
    path = Path(source)
    if not path.is_file():
        shipped = shipped_recipes()
        if str(source) not in shipped:
            raise RecipeError(f"there is no recipe file {source}; the recipes that ship: {', '.join(shipped)}")
        path = shipped[str(source)]
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path} must hold fields such as `name: my-recipe`, not a {type(content).__name__}")
    prunes = content.get("pruning") is not None
    for field, value in (overrides or {}).items():
        _put(content, field.split("."), value)
    if overrides and "pruning.sparsity" in overrides and not prunes and "pruning.method" not in overrides:
        raise RecipeError(
            f"{path.stem} prunes no single weights, so it has no sparsity to change; to have it prune, too, "
            "add --set pruning.method=magnitude and another --variant"
        )
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        problems = error.errors()
        places = [problem["loc"] for problem in problems]
        # What holds a wrong value is often said to be wrong as well.
        problems = [p for p in problems if not any(len(p["loc"]) < len(q) and _meet(p["loc"], q) for q in places)]
        changed = [
            (field, value) for field, value in (overrides or {}).items() if _meet(problems[0]["loc"], field.split("."))
        ]
        where = f"{path.stem} with {', '.join(f'{field}={value}' for field, value in changed)}" if changed else path
        # Each type that an option may have complains on its own.
        explained = dict.fromkeys(map(_explain, problems))
        raise RecipeError(f"{where}: {'; '.join(explained)}") from error


def _meet(place: Sequence[int | str], other: Sequence[int | str]) -> bool:
    """Whether one of two places in a recipe, () for the whole of it, is the other or within it."""
    return all(str(key) == str(same) for key, same in zip(place, other, strict=False))


def _put(content: dict[str, Any], path: list[str], value: Any) -> None:
    for key in path[:-1]:
        if content.get(key) is None:
            content[key] = {}
        content = content[key]
        if not isinstance(content, dict):
            raise RecipeError(f"{'.'.join(path)}: {key} is {content!r} in the recipe, it has no fields of its own")
    content[path[-1]] = value


def _explain(problem: Mapping[str, Any]) -> str:
    field = ".".join(map(str, problem["loc"])) or "recipe"
    if problem["type"] == "extra_forbidden":
        parent: Any = Recipe
        for key in problem["loc"][:-1]:
            annotation = parent.model_fields[key].annotation
            parent = next(
                (a for a in getattr(annotation, "__args__", (annotation,)) if hasattr(a, "model_fields")), Recipe
            )
        return f"unknown field {field!r}; the fields there are {', '.join(parent.model_fields)}"
    given, message = problem["input"], str(problem["msg"]).removeprefix("Value error, ")
    if field == "recipe":
        return message
    if isinstance(given, dict):  # a section whose fields do not go together: the message names them
        return f"{field}: {message}"
    if "options" in problem["loc"][:-1]:
        field, message = ".".join(map(str, problem["loc"][:3])), "Input should be a number, or true or false"
    limits = problem.get("ctx", {})
    is_percentage = 1 in (limits.get("lt"), limits.get("le")) and isinstance(given, int | float) and given > 1
    hint = f"; it is a fraction, such as {given / 100:g}" if is_percentage else ""
    return f"{field}: {message} (given: {given!r}{hint})"
