"""A table of labelled text, and the usual names of its columns."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
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
# Names of the splits in file names, columns and Hub data sets, in order of preference.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val", "eval"),
    "test": ("test", "testing"),
}
# Spellings of a missing value in exports of pandas, R, SQL and Excel. Some are also names of labels.
MISSING_WORDS = frozenset({"nan", "na", "n/a", "#n/a", "<na>", "nat", "null", "none", "\\n", "#value!", "#ref!"})
KNOWN_NAMES = frozenset({*TEXT_NAMES, *PAIR_NAMES, *LABEL_NAMES})


def split_named(name: str) -> str | None:
    """Return the split that a word names, if any."""
    word = name.casefold()
    return next(
        (split for split, names in SPLIT_NAMES.items() if word in names or word.removesuffix("set") in names), None
    )


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

    def with_names_of(self, other: "Table") -> "Table":
        """Return this table with the other's names of columns where only case or space differ, or it has no header."""
        if other.named and not self.named and len(self.columns) == len(other.columns) and len(self) > 1:
            return replace(self, columns=dict(zip(other.columns, self.columns.values(), strict=True)), named=True)
        names = {name.strip().casefold(): name for name in other.columns if name not in self.columns}
        new_names = {name: names.get(name.strip().casefold(), name) for name in self.columns}
        if len(set(new_names.values())) < len(new_names) or list(new_names.values()) == list(self.columns):
            return self
        columns = {new_names[name]: values for name, values in self.columns.items()}
        classes = {new_names[name]: values for name, values in self.classes.items()}
        categories = {new_names[name]: values for name, values in self.categories.items()}
        return replace(self, columns=columns, classes=classes, categories=categories)


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
