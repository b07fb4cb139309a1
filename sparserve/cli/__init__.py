"""The command `sparserve`: one typer app for the job, its bundles and the service.

Modules that take long to import, such as torch, FastAPI and rich, are imported in the commands that need them, so that
`--help` and shell completion answer at once.
"""

from typing import Annotated

import typer

from sparserve.cli import bundles, compress, keys, predict, serve
from sparserve.cli.options import LightGroup

app = typer.Typer(
    name="sparserve",
    cls=LightGroup,
    help="Compress transformer text classifiers, serve them on plain CPUs, and report what the compression cost.",
    epilog="Exit codes: 0 done; 1 unexpected error; 2 wrong input; 3 invalid bundle or store; 4 the machine cannot do "
    "it (disk full, output not writable, no permission, missing package); 5 training failed; 6 an exported model "
    "differs from the trained one; 7 no trial met the targets; 130 interrupted; 143 stopped by SIGTERM.",
    context_settings={"help_option_names": ["--help", "-h"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
compress.add_commands(app)
predict.add_commands(app)
serve.add_commands(app)
bundles.add_commands(app)
keys.add_commands(app)


def _print_version(requested: bool) -> None:
    if requested:
        from sparserve.service.version import VERSION

        typer.echo(f"sparserve {VERSION}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; the exit status is that of the process."""
    app()
