"""CSV in the dialects that programs and people write."""

from pathlib import Path

import pytest

from sparserve.models.data.tables.reading import read_table
from sparserve.models.data.tables.table import ReadOptions, Table
from sparserve.models.errors import DataError, InputError
from tests.support.models.labelled import csv_text, rows, write

BODY = "".join(f"text {i} is {word},{label}\n" for i in range(12) for word, label in (("good", "pos"), ("bad", "neg")))


def read(path: Path, content: str | bytes, **options: str | bool) -> Table:
    return read_table(write(path, content), ReadOptions(**options))


def test_read_delimited_judges_the_delimiter_by_many_lines(tmp_path: Path) -> None:
    first = read(tmp_path / "semi_first.csv", "I like it; really; so good,pos\n" + BODY)
    assert (len(first), first.columns["column 2"][:2]) == (25, ["pos", "pos"])
    header = read(tmp_path / "semi_header.csv", '"Review, full text";"Label"\r\n' + csv_text(rows(), ";"))
    assert list(header.columns) == ["Review, full text", "Label"]
    assert "fields are separated by ';'" in header.notes[0]


def test_read_delimited_prefers_the_delimiter_of_a_column_that_repeats(tmp_path: Path) -> None:
    lines = "".join(f"Ja, Satz {i};{'gut' if i % 2 else 'schlecht'}\n" for i in range(30))
    assert read(tmp_path / "a.csv", lines).columns["column 2"][:2] == ["schlecht", "gut"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", "^", "\x01"])
def test_read_delimited_detects_every_usual_delimiter(tmp_path: Path, delimiter: str) -> None:
    table = read(tmp_path / "a.txt", csv_text(rows(), delimiter))
    assert list(table.columns) == ["text", "label"] and len(table) == 40


@pytest.mark.parametrize("name", ["tab", "\\t", "\t", "TAB"])
def test_read_delimited_takes_a_delimiter_by_name(tmp_path: Path, name: str) -> None:
    assert list(read(tmp_path / "a.csv", csv_text(rows(), "\t"), delimiter=name).columns) == ["text", "label"]


def test_read_delimited_obeys_a_delimiter_that_no_guess_would_take(tmp_path: Path) -> None:
    table = read(tmp_path / "a.csv", "text:label\n" + BODY.replace(",", ":"), delimiter=":")
    assert table.columns["label"][0] == "pos"
    forced = read(tmp_path / "a.csv", csv_text(rows(), ";"), delimiter=",")
    assert list(forced.columns) == ["text;label"]


def test_read_delimited_reads_quotes_that_are_not_written_twice(tmp_path: Path) -> None:
    bare = read(tmp_path / "barequote.csv", "text,label\n" + BODY + '"Great" the phone,pos\n')
    assert bare.columns["text"][-1] == '"Great" the phone'
    assert any("quotes are characters like any other" in note for note in bare.notes)
    escaped = read(tmp_path / "a.csv", "text,label\n" + BODY + '"he said \\"hi\\", twice",pos\n')
    assert escaped.columns["text"][-1] == 'he said "hi", twice'
    single = read(tmp_path / "b.csv", "text,label\n" + "".join(f"'a, b {i}','{'xy'[i % 2]}'\n" for i in range(20)))
    assert (single.columns["text"][0], single.columns["label"][0]) == ("a, b 0", "x")


def test_read_delimited_refuses_quotes_that_fit_no_dialect(tmp_path: Path) -> None:
    mixed = "text,label\n" + "".join(f'"a, {i}",pos\n' for i in range(20)) + '"Great" phone,neg\n'
    with pytest.raises(DataError, match=r"line 22 is not valid CSV \(delimiter ','.*--quote none"):
        read(tmp_path / "a.csv", mixed)


def test_read_delimited_obeys_quote_and_escape(tmp_path: Path) -> None:
    plain = read(tmp_path / "a.csv", 'text,label\n"a" b,x\n"c",y\n', quote="none")
    assert plain.columns["text"] == ['"a" b', '"c"']
    marked = read(tmp_path / "a.csv", "text,label\n~a, b~,x\n~c, d~,y\n", quote="~")
    assert marked.columns["text"] == ["a, b", "c, d"]
    escaped = read(tmp_path / "a.csv", 'text,label\n"a ^"b^"",x\nc,y\n', escape="^")
    assert escaped.columns["text"][0] == 'a "b"'


@pytest.mark.parametrize(
    "options",
    [{"delimiter": "::", "quote": "x"}, {"delimiter": "\n"}, {"delimiter": '"'}, {"quote": "''"}, {"escape": '"'}],
)
def test_read_delimited_refuses_a_dialect_that_cannot_be(tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"--(delimiter|quote|escape)"):
        read(tmp_path / "a.csv", "text,label\na,b\n", **options)


@pytest.mark.parametrize(
    "head", ["# exported 2026\n", "#\n# it's \"x\n\n", "// made by us\n", "\n\n# a\n", '"# a"\n', "Reviews of May\n\n"]
)
def test_read_delimited_skips_comments_at_the_head(tmp_path: Path, head: str) -> None:
    table = read(tmp_path / "comment_head.csv", f"{head}text,label\n{BODY}")
    assert (list(table.columns), len(table)) == (["text", "label"], 24)
    assert "skipped at the head" in table.notes[0]


def test_read_delimited_keeps_a_first_row_that_begins_with_a_hashtag(tmp_path: Path) -> None:
    assert len(read(tmp_path / "a.csv", f"#happy day,pos\n{BODY}")) == 25


@pytest.mark.parametrize("tail", ["   \n", "\n\n", "\x1a", " , \n,,\n", ",,,\n"])
def test_read_delimited_skips_blank_rows_at_the_end(tmp_path: Path, tail: str) -> None:
    table = read(tmp_path / "spaces_line_min.csv", f"text,label\n{BODY}{tail}")
    assert [cell for cell in table.columns["label"] if cell.strip()] == ["pos", "neg"] * 12


def test_read_delimited_cuts_delimiters_at_the_end_of_lines(tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", "text,label\na,x,,\nb,y\nc,x\n").columns == {
        "text": ["a", "b", "c"],
        "label": ["x", "y", "x"],
    }


def test_read_delimited_names_the_row_that_is_unlike_most(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1: 3 fields, but most rows have 2 .*use --delimiter"):
        read(tmp_path / "a.csv", "a,b,c\n" + BODY)
    with pytest.raises(DataError, match="line 5: 2 fields, but most rows have 3"):
        read(tmp_path / "b.csv", "# one\n\na,b,c\nd,e,f\ng,h\n")


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_read_delimited_reads_every_line_end(tmp_path: Path, line_end: str) -> None:
    assert len(read(tmp_path / "a.csv", csv_text(rows()).replace("\n", line_end))) == 40


def test_read_delimited_reads_carriage_returns_within_lines(tmp_path: Path) -> None:
    assert len(read(tmp_path / "a.csv", "# made\rby us\ntext,label\na,x\rb,y\nc,x\n")) == 3
