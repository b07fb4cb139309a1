"""Commands on the file of API keys: `keys create`, `keys list` and `keys revoke`."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, cast

import typer

from sparserve.cli.options import LightGroup, cli_errors
from sparserve.models.errors import InputError

if TYPE_CHECKING:
    from sparserve.service.security.api_keys import ApiKey, Scope

VARIABLE: Final = "SPARSERVE_KEYS_FILE"

keys_app = typer.Typer(cls=LightGroup, help="Create, list and revoke the API keys of a service.")

FileOption = Annotated[
    Path | None, typer.Option("--file", help="File of API keys.", envvar=VARIABLE, show_default=False)
]


class KeyScope(StrEnum):
    """Requests that a key allows: `api_keys.Scope`, which takes long to import, as options of typer."""

    classify = "classify"
    admin = "admin"


def add_commands(app: typer.Typer) -> None:
    """Add the commands to an app."""
    app.add_typer(keys_app, name="keys", no_args_is_help=True, rich_help_panel="Serve")


@keys_app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name of the client, shown in the service's log.")],
    file: FileOption = None,
    scope: Annotated[
        list[KeyScope] | None,
        typer.Option(help="Requests that the key allows. May be repeated. Default: classify.", show_default=False),
    ] = None,
    rate: Annotated[int | None, typer.Option(help="Largest number of requests per minute. Default: no limit.")] = None,
    weight: Annotated[
        float | None,
        typer.Option(help="Share of the machine under load, relative to keys of weight 1. Default: 1."),
    ] = None,
    days: Annotated[float | None, typer.Option(help="Days until the key expires. Default: never.")] = None,
) -> None:
    """Create a key and print it. It cannot be printed again: the file holds only its digest."""
    with cli_errors():
        from sparserve.service.security.key_file import create

        path = _required(file)
        scopes = cast("frozenset[Scope]", frozenset(one.value for one in scope or [KeyScope.classify]))
        key = create(path, name, scopes, rate=rate, weight=weight, days=days)
        typer.echo(key)
        typer.echo(f"This key is not shown again. {path} holds only its digest.", err=True)


@keys_app.command("list")
def list_keys(file: FileOption = None) -> None:
    """List names, scopes, rate limits, weights and expiry dates."""
    with cli_errors():
        from sparserve.service.security.key_file import read

        keys = read(_required(file))
        for key in keys.keys.values():
            typer.echo(_describe(key))
        for number in keys.damaged:
            typer.echo(f"line {number} is not a key", err=True)


@keys_app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Name of the client.")],
    file: FileOption = None,
) -> None:
    """Revoke a key. A running service refuses it within a second."""
    with cli_errors():
        from sparserve.service.security.key_file import revoke

        revoke(_required(file), name)


def _required(file: Path | None) -> Path:
    if file is None:
        raise InputError(f"no file of keys is given: name it with --file or in {VARIABLE}")
    return file


def _describe(key: "ApiKey") -> str:
    rate = f"{key.rate}/min" if key.rate else "no rate limit"
    expires = f"until {key.expires.isoformat()}" if key.expires else "never expires"
    weight = f"weight {key.weight or 1:g}"
    return f"{key.name}\tsparserve_{key.id}_...\t{','.join(sorted(key.scopes))}\t{rate}\t{weight}\t{expires}"
