"""Commands on a store: `bundles list`, `bundles verify`, `bundles default`, `promote` and `rollback`.

`promote` and `rollback` stand at the top level, beside `serve`: they change the version that a running service answers
with, and have the names of the service's own requests. `bundles` is about the store as such.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparserve.cli.options import (
    DEFAULT_STORE,
    LightGroup,
    StoreOption,
    TaskArgument,
    VariantArgument,
    cli_errors,
    complete_version,
    wide_console,
)
from sparserve.models.errors import SparserveError, StoreError

if TYPE_CHECKING:
    from sparserve.models.bundle.store import Store

bundles_app = typer.Typer(cls=LightGroup, help="List and verify the bundles of a store, and choose default variants.")


def add_commands(app: typer.Typer) -> None:
    """Add the commands to an app."""
    app.command(rich_help_panel="Serve")(promote)
    app.command(rich_help_panel="Serve")(rollback)
    app.add_typer(bundles_app, name="bundles", no_args_is_help=True, rich_help_panel="Serve")


@bundles_app.command("list")
def list_bundles(store: StoreOption = DEFAULT_STORE) -> None:
    """List tasks, variants and versions."""
    with cli_errors():
        from rich.table import Table

        opened = _open(store)
        table = Table("task", "variant", "version", "")
        refused: list[str] = []
        for task in opened.tasks():
            try:
                default_variant, variants = opened.default_variant(task), opened.variants(task)
            except StoreError as error:
                refused.append(f"{task}: {error}")
                continue
            for variant in variants:
                try:
                    current, versions = opened.current(task, variant), opened.versions(task, variant)
                except StoreError as error:
                    refused.append(f"{task}/{variant}: {error}")
                    continue
                for version in versions:
                    notes = ["current"] if version == current else []
                    notes += ["default"] if version == current and variant == default_variant else []
                    table.add_row(task, variant, version, ", ".join(notes))
        wide_console().print(table)
        for line in refused:
            typer.echo(line)


@bundles_app.command()
def verify(store: StoreOption = DEFAULT_STORE) -> None:
    """Check the digests of every bundle. The exit code is 3 if a bundle is damaged."""
    with cli_errors():
        opened = _open(store)
        damaged = 0
        for task in opened.tasks():
            try:
                variants = opened.variants(task)
            except StoreError as error:
                damaged += 1
                typer.echo(f"{task}: {error}")
                continue
            for variant in variants:
                try:
                    opened.current(task, variant)
                    versions = opened.versions(task, variant)
                except StoreError as error:
                    damaged += 1
                    typer.echo(f"{task}/{variant}: {error}")
                    continue
                damaged += sum(not _is_good(opened, task, variant, version) for version in versions)
        if damaged:
            raise typer.Exit(3)


def _is_good(store: "Store", task: str, variant: str, version: str) -> bool:
    try:
        store.open(task, variant, version)
    except SparserveError as error:
        typer.echo(f"{task}/{variant}/{version}: {error}")
        return False
    typer.echo(f"{task}/{variant}/{version}: good")
    return True


@bundles_app.command()
def default(task: TaskArgument, variant: VariantArgument, store: StoreOption = DEFAULT_STORE) -> None:
    """Choose the variant that answers for a task."""
    with cli_errors():
        from sparserve.models.bundle.store import Store

        Store(store).set_default_variant(task, variant)


def promote(
    task: TaskArgument,
    variant: VariantArgument,
    version: Annotated[
        str,
        typer.Argument(help="Version to answer with; see `sparserve bundles list`.", autocompletion=complete_version),
    ],
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Answer with another version of a variant from now on."""
    with cli_errors():
        from sparserve.models.bundle.store import Store

        opened = Store(store)
        try:
            previous = opened.current(task, variant)
        except StoreError:  # a damaged pointer: promoting a version repairs it
            previous = "no version"
        opened.promote(task, variant, version)
        typer.echo(f"{task}/{variant}: {version} in place of {previous}")


def rollback(task: TaskArgument, variant: VariantArgument, store: StoreOption = DEFAULT_STORE) -> None:
    """Answer with the version that was published before the current one."""
    with cli_errors():
        from sparserve.models.bundle.store import Store

        opened = Store(store)
        previous = opened.current(task, variant)
        version = opened.rollback(task, variant)
        typer.echo(f"{task}/{variant}: {version} in place of {previous}")


def _open(root: Path) -> "Store":
    """Open the store in a folder.

    Raises:
        StoreError: there is no such folder. (A store without bundles would look the same otherwise.)
    """
    from sparserve.models.bundle.store import Store

    if not root.is_dir():
        raise StoreError(f"there is no store {root}: name its folder with --store")
    return Store(root)
