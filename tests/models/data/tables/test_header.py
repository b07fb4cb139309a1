"""Headers that programs write, and rows that are no data."""

from pathlib import Path

import pytest

from sparserve.models.data.tables.header import looks_like_header
from sparserve.models.data.tables.reading import read_table
from sparserve.models.data.tables.table import ReadOptions, Table
from sparserve.models.errors import DataError
from tests.support.models.labelled import write

ROWS = [(f"a text {i}, long", "pos" if i % 2 else "neg") for i in range(12)]
CSV = "".join(f'"{text}",{label}\n' for text, label in ROWS)


def read(path: Path, content: str, **options: str) -> Table:
    return read_table(write(path, content), ReadOptions(**options))


def sound(table: Table) -> bool:
    return [*zip(table.columns["text"], table.columns["label"], strict=True)] == ROWS


@pytest.mark.parametrize(
    ("first", "row", "header"),
    [
        (["v1", "v2", "", ""], ["ham", "a text", "", ""], True),
        (["", "verdict"], ["3", "ham"], True),
        (["0", "1"], ["a text", "ham"], True),
        (["", "0", "1"], ["3", "a text", "ham"], True),
        (["0", "1"], ["5", "4"], False),
        (["", "a text"], ["old", "ham"], False),
        (["1", "a text of many more words"], ["0", "another"], False),
    ],
)
def test_looks_like_header_knows_what_programs_write(first: list[str], row: list[str], header: bool) -> None:
    body = [[f"{cell} {i}" if " " in cell else str(i) if cell == "3" else cell for cell in row] for i in range(5)]
    assert looks_like_header([first, *body], ()) is header


def test_read_table_reads_row_names_of_r(tmp_path: Path) -> None:
    body = "".join(f'"{i}" "{text}" "{label}"\n' for i, (text, label) in enumerate(ROWS, 1))
    spaces = read(tmp_path / "a.txt", '"text" "label"\n' + body)
    tabs = read(tmp_path / "a.tsv", ('"text" "label"\n' + body).replace('" "', '"\t"'))
    assert sound(spaces) and sound(tabs)
    assert "the first column names the rows" in spaces.notes[0]
    with pytest.raises(DataError, match=r"line 1: 2 fields, but most rows have 3"):
        read(tmp_path / "b.csv", "text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS))


def test_read_table_leaves_repeated_headers_out(tmp_path: Path) -> None:
    table = read(tmp_path / "a.csv", f"text,label\n{CSV}\ufefftext,label\n")
    assert sound(table)
    assert "rows that repeat the header are left out: 1" in table.notes


@pytest.mark.parametrize("rule", ["----,-----", ":---,---:", "+----+-----+"])
def test_read_table_leaves_rules_out(tmp_path: Path, rule: str) -> None:
    table = read(tmp_path / "a.csv", f"text,label\n{rule}\n{CSV}")
    assert sound(table)
    assert table.notes == ("rows of dashes are left out",)


def test_read_table_leaves_a_footer_out(tmp_path: Path) -> None:
    table = read(tmp_path / "a.csv", f"text,label\n{CSV}\n(12 rows affected)\n" + "\0" * 2)
    assert sound(table)
    assert "the last line is no row and left out: '(12 rows affected)'" in table.notes
    with pytest.raises(DataError, match=r"line 3: 1 field, but most rows have 2"):
        read(tmp_path / "b.csv", f"text,label\n{CSV.partition(chr(10))[0]}\nhalf\n{CSV}")


def test_read_table_takes_a_delimiter_of_several_characters(tmp_path: Path) -> None:
    body = "".join(f"{i} ::: {text if i < 2 else 'b'} ::: {label}\n" for i, (text, label) in enumerate(ROWS))
    with pytest.raises(DataError, match=r"most lines have one: no usual delimiter .* such as space or ' ::: '"):
        read(tmp_path / "a.txt", body)
    table = read(tmp_path / "a.txt", body, delimiter=" ::: ")
    assert (table.columns["column 2"][0], table.columns["column 3"][0]) == ROWS[0]


def test_read_table_reads_lines_of_fasttext(tmp_path: Path) -> None:
    assert sound(read(tmp_path / "a.txt", "".join(f"__label__{label} {text}\n" for text, label in ROWS)))
    several = read(tmp_path / "b.txt", "".join(f"__label__{label} , __label__x {text}\n" for text, label in ROWS))
    assert several.columns["label"][0] == ["neg", "x"]
