"""The reference pages that docs/generate.py writes: everything in the code is in them."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import sparserve
from sparserve.models.recipes.schema import Recipe
from sparserve.service.settings import Settings

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """The script docs/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_generate_writes_the_pages_of_the_navigation(tmp_path: Path, generator: ModuleType) -> None:
    navigation = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    subprocess.run([sys.executable, DOCS / "generate.py", tmp_path], check=True, cwd=DOCS.parent)
    pages = sorted(path.name for path in (tmp_path / "reference").iterdir())
    assert pages == sorted(generator.PAGES)
    assert all(f"reference/{page}" in navigation for page in pages)


def test_cli_page_has_every_command_and_option(generator: ModuleType) -> None:
    page = generator.cli_page()
    for command in ("compress", "report", "recipes", "serve", "promote", "rollback", "bundles list", "keys create"):
        assert f"\n## sparserve {command}\n" in page
    assert "`--goal`" in page and "`--target`" in page


def test_settings_page_has_every_setting(generator: ModuleType) -> None:
    page = generator.settings_page()
    assert all(f"| `{name}` |" in page for name in Settings.model_fields)


def test_recipe_page_has_every_field(generator: ModuleType) -> None:
    page = generator.recipe_page()
    assert all(f"| `{name}` |" in page for name in Recipe.model_fields)


@pytest.mark.parametrize("route", ["POST /v1/models/{task}/classify", "GET /readyz", "POST /hf/{task}"])
def test_http_page_has_the_routes(generator: ModuleType, route: str) -> None:
    assert f"`{route}`" in generator.http_page()


def test_metrics_page_has_metrics_with_their_labels(generator: ModuleType) -> None:
    page = generator.metrics_page()
    assert "| `sparserve_inputs_total` | counter | `task`, `variant` |" in page
    assert "| `sparserve_ready` | gauge |" in page


def test_exit_codes_page_has_every_code(generator: ModuleType) -> None:
    page = generator.exit_codes_page()
    assert all(f"| `{code}` |" in page for code in (0, 2, 3, 4, 5, 6, 7, 130))


def test_python_page_has_every_public_name(generator: ModuleType) -> None:
    page = generator.python_page()
    assert all(f"\n## `sparserve.{name}`\n" in page for name in sparserve.__all__ if not name.startswith("__"))


@pytest.mark.parametrize("name", ["cli_page", "http_page", "manifest_page", "python_page", "settings_page"])
def test_page_tables_have_rows_of_equal_length(generator: ModuleType, name: str) -> None:
    page: Callable[[], str] = getattr(generator, name)
    for table in page().split("\n\n"):
        lines = table.replace("\\|", "").splitlines()
        if lines and lines[0].startswith("| "):
            assert len({line.count("|") for line in lines}) == 1, table
