"""Code blocks of the documentation as shell scripts, in which a tiny network and tiny recipes stand for the real ones.

A block runs if a comment stands before it: `<!-- test -->`; `<!-- test: service -->`, whose last command is a service
that runs until the end of the page; or `<!-- test: plan -->`, whose compressions are planned and not carried out.
"""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparserve.models.recipes.loading import load_recipe
from tests.support.models.small_recipes import small_fields

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^<!-- test(?:: (\w+))? -->\n```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TIMEOUT_SECONDS = 600
READY = 'until curl "localhost:8000/readyz" > /dev/null 2>&1; do kill -0 $service; sleep 0.2; done'


@dataclass(frozen=True)
class Block:
    """One code block: its mark ("" for a plain one), its language and its code."""

    mark: str
    language: str
    code: str


def code_blocks(page: Path) -> list[Block]:
    """Return the marked code blocks of a page."""
    return [Block(*found) for found in BLOCK.findall(page.read_text(encoding="utf-8"))]


def small_overrides(recipe: str) -> dict[str, Any]:
    """Return the fields that make a shipped recipe fit a tiny network and take seconds."""
    return {
        **small_fields(load_recipe(recipe)),
        "max_length": 64,  # pages name targets for texts of 64 tokens
        "evaluation.bootstrap_samples": 100,
        "measurement": {"seconds": 0.2, "batches": [1], "lengths": [8], "threads": 1},
    }


def run_page(page: Path, folder: Path, checkpoint: Path, templates: Path) -> None:
    """Run the marked blocks of a page in a folder, one after the other; fail with their output if a command fails.

    `templates` is the folder of `shared_templates`.
    """
    commands = folder / ".commands"
    commands.mkdir(exist_ok=True)
    curl = shutil.which("curl")
    assert curl is not None, "curl is not installed"
    python = shlex.quote(sys.executable)
    _write_command(commands / "python", f'exec {python} "$@"')
    _write_command(commands / "sparserve", f'exec {python} -m tests.support.small_sparserve "$@"')
    # An HTTP error is a failure. A model that is still loading answers 503: ask again.
    _write_command(commands / "curl", f'exec {shlex.quote(curl)} -sS --fail --retry 30 --retry-delay 1 "$@"')
    environment = os.environ | {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "SMALL_CHECKPOINT": str(checkpoint),
        "SMALL_TEMPLATES": str(templates),
    }
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    lines = ["set -eu", 'trap "kill \\$(jobs -p) 2> /dev/null || true" EXIT', *_lines(code_blocks(page))]
    result = subprocess.run(
        ["bash", "-c", "\n".join(lines).replace("8000", port)],
        cwd=folder,
        env=environment | {"SPARSERVE_PORT": port},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert result.returncode == 0, f"{page.name} exits with {result.returncode}:\n{result.stdout}"


def _lines(blocks: Sequence[Block]) -> Iterator[str]:
    for block in blocks:
        if block.language == "python":
            yield f"python -m tests.support.small_sparserve --python {shlex.quote(block.code)}"
        elif block.mark == "service":
            yield from (f"{block.code.rstrip()} > service.log 2>&1 &", "service=$!", READY)
        elif block.mark == "plan":
            yield f"python -m tests.support.small_sparserve --plan {shlex.quote(block.code)}"
        else:
            yield block.code


def _write_command(path: Path, command: str) -> None:
    path.write_text(f"#!/bin/sh\n{command}\n", encoding="utf-8")
    path.chmod(0o755)
