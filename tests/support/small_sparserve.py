"""The command `sparserve` for the documentation's code blocks: the same, with a tiny network and tiny recipes.

`--python CODE` runs Python code that uses the package instead; `--plan CODE` makes the plans of compressions, each a
line of shell code, in one process.
"""

import functools
import json
import os
import shlex
import sys
from pathlib import Path

import sparserve
from sparserve.cli import app, main
from sparserve.goals import choose_recipe
from tests.support.code_blocks import small_overrides


def small_arguments(arguments: list[str]) -> list[str]:
    """Return the arguments of a command; those of `compress` with a tiny network, tiny recipes and local data."""
    if arguments[:1] != ["compress"]:
        return arguments
    recipe = None if arguments[1].startswith("-") else arguments[1]
    goal = arguments[arguments.index("--goal") + 1] if "--goal" in arguments else None
    extra = ["--model", os.environ["SMALL_CHECKPOINT"], "--threads", "1"]
    for field, value in small_overrides(choose_recipe(recipe, goal)).items():
        extra += ["--set", f"{field}={json.dumps(value)}"]
    if "--data" not in arguments:
        extra += ["--data", "reviews.csv"]
    return [*arguments, *extra]


def run_python(code: str) -> None:
    """Run code whose calls of `sparserve.compress` get a tiny network and a tiny recipe."""
    compress = functools.partial(
        sparserve.compress,
        model=os.environ["SMALL_CHECKPOINT"],
        threads=1,
        overrides=small_overrides("sparsebert-best"),
    )
    vars(sparserve)["compress"] = compress
    exec(compile(code, "code block", "exec"), {"__name__": "__main__"})


def run_plans(code: str) -> None:
    """Make the plans of the compressions that a code block consists of."""
    for line in code.splitlines():
        name, *arguments = shlex.split(line, comments=True)
        assert (name, arguments[0]) == ("sparserve", "compress"), line
        status = app([*small_arguments(arguments), "--dry-run"], standalone_mode=False)
        assert not status, line


if __name__ == "__main__":
    if sys.argv[1] in ("compress", "--python"):
        from tests.support.models.shared_templates import share_templates

        share_templates(Path(os.environ["SMALL_TEMPLATES"]))
    if sys.argv[1] == "--python":
        run_python(sys.argv[2])
    elif sys.argv[1] == "--plan":
        run_plans(sys.argv[2])
    else:
        sys.argv[1:] = small_arguments(sys.argv[1:])
        main()
