"""Render the documents of the job from Jinja templates.

HTML templates (`*.html.j2`) escape every value. In Markdown templates (`*.md.j2`) every text from a user or a
checkpoint goes through the filter `md`.
"""

import re
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_ALWAYS_SPECIAL = re.compile(r"([\\`*\[\]|~])")
# Underscores inside a word, as in LABEL_0, are literal in GitHub-flavoured Markdown.
_EMPHASIS = re.compile(r"(?<!\w)_|_(?!\w)")
_LINE_START = re.compile(r"^(\s*)([#>+-]|\d+[.)])(?=\s|$)")


def render(template: str, **values: Any) -> str:
    """Render the template of this name."""
    return _ENVIRONMENT.get_template(template).render(**values)


def markdown_text(text: object) -> str:
    """Escape a text for Markdown and put it on one line, also for table cells and headings."""
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = _EMPHASIS.sub(r"\\_", _ALWAYS_SPECIAL.sub(r"\\\1", line))
    return _LINE_START.sub(r"\1\\\2", line)


def percent(fraction: float, digits: int = 1) -> str:
    """Format 0.863 as `86.3 %`, with a non-breaking space."""
    return f"{100 * fraction:.{digits}f}\u00a0%"


def interval(record: Any, digits: int = 1) -> str:
    """Format an interval of fractions in percent: `86.3 [84.1, 88.4]`."""
    return f"{100 * record.value:.{digits}f} [{100 * record.low:.{digits}f}, {100 * record.high:.{digits}f}]"


def plain_interval(record: Any, digits: int = 3) -> str:
    """Format an interval unscaled: `0.726 [0.681, 0.770]`."""
    return f"{record.value:.{digits}f} [{record.low:.{digits}f}, {record.high:.{digits}f}]"


def quantity(value: float) -> str:
    """Format a count with a unit prefix and three significant digits: `2.87 G`, `22.7 M`, `950`."""
    for limit, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:#.3g}".rstrip(".") + f"\u00a0{prefix}"
    return f"{value:.0f}"


def megabytes(size: float) -> str:
    """Format bytes as millions of bytes: `23.1`."""
    return f"{size / 1e6:,.1f}"


def milliseconds(seconds: float) -> str:
    """Format seconds as milliseconds with three significant digits: `4.57`, `13.7`, `436`."""
    value = 1000 * seconds
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")


def to_yaml(value: Any) -> str:
    """Format a plain value as YAML, with keys in their original order."""
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110)).rstrip()


def _verbatim(source: str) -> Markup:
    """Mark trusted source code, which must not be escaped."""
    return Markup(source)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters = (percent, interval, plain_interval, quantity, megabytes, milliseconds)
    environment.filters |= {function.__name__: function for function in filters}
    environment.filters |= {"md": markdown_text, "yaml": to_yaml, "verbatim": _verbatim}
    return environment


_ENVIRONMENT = _environment()
