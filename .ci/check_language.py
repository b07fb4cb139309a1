"""Check the English of docstrings, comments, messages and pages: `python .ci/check_language.py [PATH ...]`.

A docstring, and the description of an option or a field, begins with an imperative or a noun phrase, never with an
interrogative. Some words are never used, because each has a plainer one. Print one line per finding and exit with 1 if
there are any.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

INTERROGATIVE = re.compile(r"(What|Which|Whether|Where|How|Who|Whose)\b", re.IGNORECASE)
BANNED = re.compile(
    r"\b(aside|anew|for ever|go(?:es)? on|went on|(?:is|are) (?:told|looked at)|taken off|of (?:its|their) own)\b",
    re.IGNORECASE,
)
DESCRIPTIONS = ("help", "description")
PROSE = (".md", ".yaml", ".yml", ".toml", ".html", ".j2", ".sh")
SOURCE = (".cpp", ".h")
LEFT_OUT = ("benchmarks/results/", "tests/attacks/", "service/pages/vendor/", "CHANGELOG.md", ".ci/check_language.py")


def findings(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers of a file and what is wrong there."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        yield from _openings(text)
        parts = [(token.start[0], token.string) for token in _words(text)]
    elif path.suffix in SOURCE:
        parts = [(number, line.partition("//")[2]) for number, line in enumerate(text.splitlines(), 1)]
    else:
        parts = list(enumerate(text.splitlines(), 1))
    for start, part in parts:
        for offset, line in enumerate(part.splitlines()):
            yield from ((start + offset, f"do not use {match[0]!r}") for match in BANNED.finditer(line))


def _openings(text: str) -> Iterator[tuple[int, str]]:
    """Findings on docstrings, those of attributes too, and on descriptions of options and fields."""
    for node in ast.walk(ast.parse(text)):
        if not (isinstance(node, ast.Expr) or (isinstance(node, ast.keyword) and node.arg in DESCRIPTIONS)):
            continue
        opening = node.value.value if isinstance(node.value, ast.Constant) else None
        if isinstance(opening, str) and (match := INTERROGATIVE.match(opening.strip())):
            yield node.value.lineno, f"a docstring begins with {match[0]!r}: use an imperative or a noun phrase"


def _words(text: str) -> Iterator[tokenize.TokenInfo]:
    kinds = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    return (token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type in kinds)


def _files(arguments: list[str]) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", *arguments], capture_output=True, text=True, check=True).stdout
    names = [name for name in listed.splitlines() if not name.startswith(LEFT_OUT)]
    paths = [Path(name) for name in names if name.endswith((".py", *PROSE, *SOURCE))]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def main() -> int:
    """Print every finding; the number of them decides the exit status."""
    count = 0
    for path in _files(sys.argv[1:]):
        for line, problem in findings(path):
            print(f"{path}:{line}: {problem}")
            count += 1
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
