"""The dialect of a CSV file: its delimiter, quote and escape, judged by many lines."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from sparserve.models.data.tables.table import ReadOptions
from sparserve.models.errors import InputError

DELIMITERS = (",", ";", "\t", "|", "^", "\x01", "\x1f")
SPELLED = {
    "tab": "\t", "\\t": "\t", "space": " ", "comma": ",", "semicolon": ";", "pipe": "|", "bar": "|", "backslash": "\\",
}  # fmt: skip
COMMENTS = ("#", "//", "%", "--")
QUOTED_WORDS = re.compile(r'"[^"\n]*"(?: "[^"\n]*")+\r?\n')  # a header as R's write.table writes it
SAMPLE_RECORDS = 100
SAMPLE_CHARACTERS = 1 << 18


@dataclass(frozen=True)
class Dialect:
    """The characters that structure a CSV file; `quote` and `escape` may be none."""

    delimiter: str
    quote: str | None = '"'
    escape: str | None = None

    def __str__(self) -> str:
        quote = "no quotes" if self.quote is None else f"quote {self.quote}"
        return f"delimiter {self.delimiter!r}, {quote}" + (f", escape {self.escape}" if self.escape else "")

    def records(self, lines: Iterable[str], *, strict: bool) -> "Records":
        """Return a reader of the records in some lines."""
        return Records(self, lines, strict=strict)


class Records:
    """Iterator over the records of a CSV file; `line` is the number of the last line that it has read.

    Raises:
        csv.Error: with `strict`, a quoted field does not end before a delimiter.
    """

    def __init__(self, dialect: Dialect, lines: Iterable[str], *, strict: bool) -> None:
        quoting: Literal[0, 3] = csv.QUOTE_NONE if dialect.quote is None else csv.QUOTE_MINIMAL
        self._reader = csv.reader(
            lines,
            delimiter=dialect.delimiter,
            quotechar=dialect.quote,
            escapechar=dialect.escape,
            quoting=quoting,
            skipinitialspace=dialect.delimiter not in "\t ",  # so that the quotes of `text, "label"` are recognised
            strict=strict,
        )

    def __iter__(self) -> Iterator[list[str]]:
        return self

    def __next__(self) -> list[str]:
        return next(self._reader)

    @property
    def line(self) -> int:
        """Number of the last line that was read."""
        return self._reader.line_num


def candidates(text: str, options: ReadOptions, *, usual: str) -> list[Dialect]:
    """Return the dialects that a text may have, the likeliest first.

    The delimiter is the one that splits most records into the same number of fields, at least 2; of several, the one
    with a column that repeats its values most, as labels do, and then `usual`.

    Raises:
        InputError: an option is not a single character, or two of them are the same.
    """
    delimiter, quote, escape = _given(options)
    sample = _sample(text)
    if delimiter is None and options.quote is None and QUOTED_WORDS.match(sample):
        delimiter = " "
    if delimiter is None:
        quotes = [quote] if options.quote is not None or escape is not None else ['"', "'", None]
        delimiter = _best_delimiter(sample, quotes, escape, usual)
    if options.quote is not None or escape is not None:
        return [Dialect(delimiter, quote, escape)]
    double = Dialect(delimiter)
    unquoted = Dialect(delimiter, None)
    if _share_enclosed(sample, delimiter, "'") > 0.5:
        return [Dialect(delimiter, "'"), unquoted]
    if delimiter == "\t" and not _share_enclosed(sample, delimiter, '"'):
        return [unquoted]  # TSV files rarely quote fields, so a quote in them is a character like any other
    escaped = [Dialect(delimiter, '"', "\\")] if '\\"' in text else []
    return [double, *escaped, *([unquoted] if _share_enclosed(sample, delimiter, '"') < 0.1 else [])]


def is_comment(line: str) -> bool:
    """Return True for a line that may be a comment."""
    return line.lstrip('" ').startswith(COMMENTS)


def usual_width(records: Iterable[list[str]]) -> int:
    """Return the number of fields that most of the first records have."""
    counts = Counter(len(record) for record, _ in zip(records, range(SAMPLE_RECORDS), strict=False))
    return counts.most_common(1)[0][0] if counts else 0


def _given(options: ReadOptions) -> tuple[str | None, str | None, str | None]:
    delimiter = _character("--delimiter", options.delimiter)
    quote = None if (options.quote or "").lower() in ("none", "") else _character("--quote", options.quote)
    if options.quote is None:
        quote = '"'
    escape = _character("--escape", options.escape)
    chosen = [one for one in (delimiter, quote, escape) if one is not None]
    if len(set(chosen)) != len(chosen):
        raise InputError("--delimiter, --quote and --escape need different characters.")
    return delimiter, quote, escape


def _character(option: str, value: str | None) -> str | None:
    if value is None:
        return None
    character = SPELLED.get(value.lower(), value)
    if len(character) != 1 or character in "\r\n\0" or (character == " " and option != "--delimiter"):
        raise InputError(
            f"{option} {value!r}: give one character, or a name: tab, space, comma, semicolon, pipe or backslash."
        )
    return character


def _sample(text: str) -> str:
    """Return the beginning of a text without the lines at its head that may be comments, cut at the end of a line."""
    position = 0
    while is_comment(text[position : position + 10]) or text[position : position + 1] in ("\n", "\r"):
        end = text.find("\n", position)
        if end < 0:
            return text
        position = end + 1
    sample = text[position : position + SAMPLE_CHARACTERS]
    if position + SAMPLE_CHARACTERS < len(text) and "\n" in sample:
        sample = sample[: sample.rindex("\n") + 1]
    return sample if sample.strip() else text[:SAMPLE_CHARACTERS]


def _best_delimiter(sample: str, quotes: list[str | None], escape: str | None, usual: str) -> str:
    def score(delimiter: str) -> tuple[float, bool, float, bool, int]:
        share, repetition = max(_fit(sample, Dialect(delimiter, quote, escape)) for quote in quotes)
        # Commas and semicolons are part of many texts, tabs of few.
        return share, delimiter == usual == "\t", repetition, delimiter == usual, -DELIMITERS.index(delimiter)

    return max(DELIMITERS, key=score)


def _fit(sample: str, dialect: Dialect) -> tuple[float, float]:
    """Return the fraction of records that have the usual number of fields, and how far one column repeats its values.

    Both are 0 if the usual number is 1, so that the delimiter splits nothing.
    """
    records = []
    try:
        for record in dialect.records(io.StringIO(sample, newline=""), strict=False):
            if any(field.strip() for field in record):
                records.append(record)
            if len(records) == SAMPLE_RECORDS:
                break
    except csv.Error:
        return 0.0, 0.0
    width = usual_width(records)
    if width < 2:
        return 0.0, 0.0
    regular = [record for record in records if len(record) == width]
    distinct = [len({record[place].strip() for record in regular}) for place in range(width)]
    return len(regular) / len(records), 1 - min((count for count in distinct if count > 1), default=1) / len(regular)


def _share_enclosed(sample: str, delimiter: str, quote: str) -> float:
    """Return the fraction of lines that have a field between two quotes."""
    lines = [line for line, _ in zip(sample.splitlines(), range(SAMPLE_RECORDS), strict=False) if line.strip()]
    fields = [[field.strip() for field in line.split(delimiter)] for line in lines]
    enclosed = sum(
        any(len(field) > 1 and field.startswith(quote) and field.endswith(quote) for field in line) for line in fields
    )
    return enclosed / max(len(lines), 1)
