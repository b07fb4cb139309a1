"""What the job's commands share: the option that names the store, and errors told in one line."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sparserve.models.errors import SparserveError

StoreOption = Annotated[Path, typer.Option("--store", help="Folder of bundles.", envvar="SPARSERVE_STORE")]
DEFAULT_STORE = Path("store")


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn the job's exceptions into one line on standard error and their exit code."""
    try:
        yield
    except SparserveError as error:
        Console(stderr=True, soft_wrap=True).print(f"sparserve: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as error:
        sys.stderr.write("\nsparserve: interrupted; the same command goes on from here\n")
        raise typer.Exit(130) from error
