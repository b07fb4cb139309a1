"""Options of labelled text, as users give them."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

Head = Literal["labels", "number", "relevance"]


class DataOptions(TypedDict, total=False):
    """Options of a data set's files, columns and labels. An option that is absent or None is detected from the data."""

    text_column: str | Sequence[str] | None
    """Column of the text; several are joined by a space."""
    text_pair_column: str | None
    """Column of the second text of a pair; an empty name says that there is none."""
    label_column: str | Sequence[str] | None
    """Column of the label; several hold 0 or 1 for one label each."""
    label_separator: str | None
    """Separator of several labels in one cell."""
    label_map: Mapping[str, str] | None
    """New names of labels by the old ones. A new name that another label has makes them one."""
    multi_label: bool | None
    """True if a row can have several labels."""
    head: Head | None
    """Kind of the label column: labels, a number, or the relevance of a document to a query."""
    header: bool | None
    """True if the first row of a CSV file names its columns."""
    delimiter: str | None
    """Characters between the fields of a CSV file, or their name: tab, space, comma, semicolon or pipe."""
    quote: str | None
    """Character around the fields of a CSV file, or "none"."""
    escape: str | None
    """Character before a quote within a field of a CSV file, such as a backslash."""
    encoding: str | None
    """Encoding of a text file, such as utf-16 or windows-1252."""
