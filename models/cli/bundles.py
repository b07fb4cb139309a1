"""`sparserve bundles`: what a store holds, whether it is whole, and what it serves."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from sparserve.models.cli.options import DEFAULT_STORE, StoreOption, explained
from sparserve.models.errors import SparserveError, StoreError

if TYPE_CHECKING:
    from sparserve.models.bundle.store import Store

bundles_app = typer.Typer(help="Look at and switch what a store serves.", no_args_is_help=True)


@bundles_app.command("list")
def list_bundles(store: StoreOption = DEFAULT_STORE) -> None:
    """List tasks, variants and versions."""
    with explained():
        opened = _existing(store)
        table = Table("task", "variant", "version", "")
        for task in opened.tasks():
            default = opened.default_variant(task)
            for variant in opened.variants(task):
                current = opened.current(task, variant)
                for version in opened.versions(task, variant):
                    notes = ["current"] if version == current else []
                    notes += ["default"] if version == current and variant == default else []
                    table.add_row(task, variant, version, ", ".join(notes))
        Console().print(table)


@bundles_app.command()
def verify(store: StoreOption = DEFAULT_STORE) -> None:
    """Check every bundle's digests; exit with 3 if one is wrong."""
    with explained():
        opened = _existing(store)
        wrong = 0
        for task in opened.tasks():
            for variant in opened.variants(task):
                for version in opened.versions(task, variant):
                    try:
                        opened.open(task, variant, version)
                        sys.stdout.write(f"{task}/{variant}/{version}: good\n")
                    except SparserveError as error:
                        wrong += 1
                        sys.stdout.write(f"{task}/{variant}/{version}: {error}\n")
        if wrong:
            raise typer.Exit(3)


@bundles_app.command()
def promote(
    task: str,
    variant: str,
    version: Annotated[str, typer.Argument(help="The version to answer with from now on.")],
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Let a variant answer with another version; also the way to roll back."""
    with explained():
        from sparserve.models.bundle.store import Store

        Store(store).promote(task, variant, version)


@bundles_app.command()
def default(
    task: str,
    variant: Annotated[str, typer.Argument(help="The variant to answer with from now on.")],
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Choose the variant that a task answers with."""
    with explained():
        from sparserve.models.bundle.store import Store

        Store(store).set_default_variant(task, variant)


def _existing(root: Path) -> "Store":
    """The store at a folder, which an empty table or no complaint would otherwise stand for where there is none."""
    from sparserve.models.bundle.store import Store

    if not root.is_dir():
        raise StoreError(f"there is no store {root}: name its folder with --store")
    return Store(root)
