"""Print the lower bounds of pyproject.toml as constraints for pip: `python .ci/floors.py [EXTRA ...] > floors.txt`.

Every package that the project or one of the named extras requires gets the oldest version that all of them allow.
`pip install -c floors.txt -e ".[EXTRA]"` then installs the floors themselves, which the tests must pass on.
"""

import re
import sys
import tomllib
from pathlib import Path

REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(\[[^]]*\])?>=(?P<floor>[0-9.]+)(?P<rest>[^;]*)")


def floors(project: dict[str, object], extras: list[str]) -> dict[str, str]:
    """Return the oldest allowed version of each package by its name."""
    optional = project["optional-dependencies"]
    lists = [project["dependencies"], *(optional[extra] for extra in extras)]  # type: ignore[index]
    oldest: dict[str, str] = {}
    for requirement in (line for lines in lists for line in lines):  # type: ignore[attr-defined]
        match = REQUIREMENT.match(requirement)
        if match is None:
            raise SystemExit(f"pyproject.toml: {requirement!r} has no lower bound: write it as name>=version")
        name = match["name"].lower()
        oldest[name] = max(oldest.get(name, "0"), match["floor"], key=_numbers)
    return oldest


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


if __name__ == "__main__":
    content = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    for package, version in sorted(floors(content["project"], sys.argv[1:]).items()):
        print(f"{package}=={version}")
