"""The command `serve`, with an option for every setting of the service.

The options are read from the source of `service/settings.py`: importing pydantic-settings and building the class
`Settings` would double the time of `sparserve serve --help` (0.3 s more on two cores). The class itself parses and
checks the values, so that options and environment variables have one meaning and one set of error messages.
"""

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

import sparserve.service

# The first setting of each theme; those that follow in the file belong to the same theme.
PANELS: Final = {
    "store": "Store",
    "host": "Network",
    "log_level": "Logs and traces",
    "runtime": "Models and threads",
    "max_batch_tokens": "Batches and queue",
    "experiments": "Experiments",
    "keys_file": "Access",
    "max_body_bytes": "Limits of a request",
    "receive_timeout_seconds": "Connections and shutdown",
    "sample_tolerance": "Models and threads",
    "shutdown_delay_seconds": "Connections and shutdown",
}


@dataclass(frozen=True)
class Setting:
    """One setting of the service, as its source declares it."""

    name: str
    annotation: str
    description: str
    default: Any
    panel: str

    @property
    def option(self) -> str:
        """Its spelling on the command line."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return f"SPARSERVE_{self.name.upper()}"

    @property
    def choices(self) -> list[str]:
        """The values that it may have, if they are few."""
        if self.annotation.startswith("Literal["):
            return list(ast.literal_eval(self.annotation.removesuffix(" | None").removeprefix("Literal")))
        return ["true", "false"] if self.annotation == "bool" else []

    @property
    def metavar(self) -> str:
        """Its kind of value, as typer shows it."""
        if self.choices:
            return f"<{'|'.join(self.choices)}>"
        kind = self.annotation.removesuffix(" | None").lower()
        if kind.startswith(("list[", "dict[")):
            return "<json>"
        return f"<{kind}>" if kind in ("int", "float", "path") else "<str>"


def settings() -> Iterator[Setting]:
    """Read the settings of the service from their source, in order."""
    path = Path(sparserve.service.__path__[0]) / "settings.py"
    module = ast.parse(path.read_text(encoding="utf-8"))
    (model,) = (node for node in module.body if isinstance(node, ast.ClassDef) and node.name == "Settings")
    names: dict[str, Any] = {"Path": Path, "Field": lambda default, **options: (default, options["description"])}
    for constant in module.body:
        if isinstance(constant, ast.Assign | ast.AnnAssign) and isinstance(constant.value, ast.Constant):
            target = constant.targets[0] if isinstance(constant, ast.Assign) else constant.target
            names[ast.unparse(target)] = constant.value.value
    panel = ""
    for field in model.body:
        if not isinstance(field, ast.AnnAssign) or field.value is None:
            continue
        name = ast.unparse(field.target)
        panel = PANELS.get(name, panel)
        default, description = eval(ast.unparse(field.value), names)
        yield Setting(name, ast.unparse(field.annotation), description, default, panel)


def add_commands(app: typer.Typer) -> None:
    """Add the command to an app."""
    declared = list(settings())
    parameters = [
        inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
        *map(_parameter, declared),
    ]

    def serve(context: typer.Context, **_: Any) -> None:
        """Serve the bundles of a store over HTTP."""
        from sparserve.service.__main__ import main

        raise typer.Exit(main(list(_arguments(context, declared))))

    serve.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    serve.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(rich_help_panel="Serve")(serve)


def _parameter(setting: Setting) -> inspect.Parameter:
    """Declare a setting as an option of typer.

    The value is text: `Settings` parses it. Its environment variable is named in the help text and read by `Settings`.
    """
    choices, default = setting.choices, setting.default
    text = str(default).lower() if isinstance(default, bool) else str(default)
    shown = None if default is None or default in ({}, []) else text

    def complete(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    option = typer.Option(
        setting.option,
        help=f"{setting.description[0].upper()}{setting.description[1:]}.".replace("[", r"\["),
        metavar=setting.metavar,
        envvar=setting.variable,
        rich_help_panel=setting.panel,
        autocompletion=complete if choices else None,
    )
    kind = list[str] if setting.annotation.startswith(("list[", "dict[")) else str
    return inspect.Parameter(
        setting.name, inspect.Parameter.KEYWORD_ONLY, default=shown, annotation=Annotated[kind | None, option]
    )


def _arguments(context: typer.Context, declared: list[Setting]) -> Iterator[str]:
    """Return the options that are on the command line, for `Settings` to parse."""
    for setting in declared:
        source = context.get_parameter_source(setting.name)
        if source is not None and source.name == "COMMANDLINE":
            values = context.params[setting.name]
            for value in [values] if isinstance(values, str) else values:
                yield f"{setting.option}={value}"
