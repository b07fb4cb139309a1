"""A table of labelled text, and the usual names of its columns."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

# Usual names of such columns, the most likely first.
TEXT_NAMES = (
    "text", "sentence", "review", "content", "sentence1", "premise", "question1", "question", "body", "comment",
    "comment_text", "message", "tweet", "title", "document", "utterance", "query", "description",
)  # fmt: skip
# Names of texts beside the main one.
MORE_TEXT_NAMES = ("subject", "summary", "headline", "heading", "subtitle", "abstract", "selftext")
PAIR_NAMES = ("text_pair", "sentence2", "hypothesis", "question2", "text2", "pair", "passage", "answer")
LABEL_NAMES = (
    "label", "labels", "sentiment", "category", "class", "target", "intent", "topic", "tags", "gold_label", "y",
    "emotion", "stars", "rating",
)  # fmt: skip
KNOWN_NAMES = frozenset({*TEXT_NAMES, *PAIR_NAMES, *LABEL_NAMES})


@dataclass(frozen=True)
class Table:
    """Columns of equal length with the values of the file: strings from CSV, any JSON or Parquet value otherwise."""

    columns: Mapping[str, list[Any]]
    named: bool = True
    """False if the file has no header row and the column names are made up."""
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Label names that the file declares for a column, whether they occur or not."""
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Values that a column may have: more than occur if rows were removed, so they declare no labels."""
    format: str = ""
    """The file's format, as a user reads it."""
    notes: tuple[str, ...] = ()
    """Facts about the file that its reader had to detect."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))


@dataclass(frozen=True)
class ReadOptions:
    """Options of a file; None is detected. `expected` are column names that mark a first row as a header.

    With `lines`, a `.txt` file has one text a line, unless its first line or a delimiter says that it is a table.
    """

    header: bool | None = None
    delimiter: str | None = None
    quote: str | None = None
    escape: str | None = None
    encoding: str | None = None
    expected: Collection[str] = ()
    lines: bool = False
