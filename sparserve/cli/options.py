"""Options that several commands share, shell completion of their values, and errors in one line."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from typer.core import TyperGroup

from sparserve.models.errors import SparserveError

if TYPE_CHECKING:
    from rich.console import Console
    from typer._click.core import Context, Parameter

DEFAULT_STORE: Final = Path("store")
LOG_WIDTH: Final = 140


class LightGroup(TyperGroup):
    """Group of commands whose flags are False by default, not None.

    To convert None to a bool, typer would import pydantic, a quarter of the time that a command's `--help` takes.
    """

    def get_params(self, ctx: "Context") -> "list[Parameter]":
        """Return the parameters of the group, all of which are flags."""
        parameters = super().get_params(ctx)
        for parameter in parameters:
            parameter.default = parameter.default or False
        return parameters


def complete_task(context: typer.Context, incomplete: str) -> list[str]:
    """Complete the name of a task."""
    from sparserve.models.bundle.store import Store

    return _beginning(incomplete, Store(_store(context)).tasks())


def complete_variant(context: typer.Context, incomplete: str) -> list[str]:
    """Complete the name of a variant of the task that is already on the command line."""
    from sparserve.models.bundle.store import Store

    return _beginning(incomplete, Store(_store(context)).variants(context.params.get("task") or ""))


def complete_version(context: typer.Context, incomplete: str) -> list[str]:
    """Complete a version of the task and variant that are already on the command line."""
    from sparserve.models.bundle.store import Store

    task, variant = (context.params.get(name) or "" for name in ("task", "variant"))
    return _beginning(incomplete, Store(_store(context)).versions(task, variant))


def _store(context: typer.Context) -> Path:
    return Path(context.params.get("store") or DEFAULT_STORE)


def _beginning(incomplete: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


StoreOption = Annotated[Path, typer.Option("--store", help="Folder of bundles.", envvar="SPARSERVE_STORE")]
TaskArgument = Annotated[str, typer.Argument(help="Name of the task.", autocompletion=complete_task)]
VariantArgument = Annotated[str, typer.Argument(help="Name of the variant.", autocompletion=complete_variant)]


@contextlib.contextmanager
def cli_errors() -> Iterator[None]:
    """Print an error of this package in one line on standard error, and exit with its code."""
    try:
        yield
    except SparserveError as error:
        from rich.console import Console

        Console(stderr=True, soft_wrap=True).print(f"sparserve: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as error:
        sys.stderr.write("\nInterrupted. Run the same command again to resume.\n")
        raise typer.Exit(130) from error


def wide_console() -> "Console":
    """Return a console for tables: as wide as the terminal, or wide enough for all columns in a log."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=LOG_WIDTH)
