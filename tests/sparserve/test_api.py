"""The public Python API: what `import sparserve` offers and loads."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import sparserve


def python(code: str, cwd: Path, *, installed: bool = False) -> str:
    """Run code in a fresh interpreter in another folder, with the installed package alone or with this source tree."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if not installed:
        environment["PYTHONPATH"] = str(Path(sparserve.__file__).parents[1])
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=True).stdout


def test_api_is_imported_at_first_use(tmp_path: Path) -> None:
    code = (
        "import sys, sparserve; "
        "heavy = {'torch', 'transformers', 'fastapi', 'onnxruntime', 'numpy', 'pydantic', 'typer', 'rich'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert python(code, tmp_path) == "[]\n"


@pytest.mark.parametrize("name", sparserve.__all__)
def test_api_has_every_name_that_it_lists(name: str) -> None:
    assert getattr(sparserve, name) is getattr(sparserve, name)
    assert name in dir(sparserve)


def test_api_refuses_other_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'comress'"):
        _ = sparserve.comress


def test_api_version_is_that_of_the_distribution() -> None:
    assert sparserve.__version__ == version("sparserve")


def test_package_installs_one_top_level_name(tmp_path: Path) -> None:
    code = (
        "from importlib.util import find_spec; "
        "print([name for name in ('sparserve', 'models', 'service', 'kernels', 'benchmarks') if find_spec(name)])"
    )
    assert python(code, tmp_path, installed=True) == "['sparserve']\n"


def test_compress_names_the_extra_that_is_missing(tmp_path: Path) -> None:
    code = (
        "import sys, sparserve; sys.modules['torch'] = None\n"
        "for call in (sparserve.compress, lambda data: sparserve.search(data, targets=['size<=6MB'])):\n"
        "    try: call('reviews.csv')\n"
        "    except sparserve.SparserveError as error: print(error.exit_code, error)"
    )
    first, second = python(code, tmp_path).splitlines()
    assert first.startswith("4 sparserve.compress needs torch") and 'pip install "sparserve[compress]"' in first
    assert second.startswith("4 sparserve.search needs torch")
