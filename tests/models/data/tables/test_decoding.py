"""Encodings, compressions, and files that are no tables."""

import bz2
import gzip
import io
import lzma
import zipfile
from pathlib import Path

import pyarrow
import pytest

from sparserve.models.data.tables.reading import read_table
from sparserve.models.data.tables.table import ReadOptions
from sparserve.models.data.texts import damage
from sparserve.models.errors import DataError
from tests.support.models.labelled import csv_text, rows, write

CSV = csv_text(rows())
RUSSIAN = "text,label\n" + "".join(f"отзыв {i} хороший,{'да' if i % 2 else 'нет'}\n" for i in range(40))
JAPANESE = "text,label\n" + "".join(f"映画 {i} は一番良い,{'良' if i % 2 else '悪'}\n" for i in range(40))


def zipped(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, CSV)
    return content.getvalue()


def zstd(content: bytes) -> bytes:
    out = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(out, "zstd") as stream:
        stream.write(content)
    return bytes(out.getvalue())


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("text", [CSV, RUSSIAN, JAPANESE, CSV.rstrip("\n"), CSV.replace("\n", "\r\n")])
def test_decode_names_a_wide_encoding_without_byte_order_mark(tmp_path: Path, encoding: str, text: str) -> None:
    path = write(tmp_path / "a.csv", text.encode(encoding))
    with pytest.raises(DataError, match=f"looks like {encoding.upper()}, not UTF-8. Use --encoding {encoding}"):
        read_table(path)
    assert len(read_table(path, ReadOptions(encoding=encoding))) == 40


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_decode_obeys_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    table = read_table(write(tmp_path / "a.csv", RUSSIAN.encode(encoding)))
    assert table.columns["label"][:2] == ["нет", "да"]
    assert (encoding == "utf-8-sig") == (not table.notes)


def test_decode_keeps_a_few_nuls_in_a_text(tmp_path: Path) -> None:
    text = CSV.replace("number 3", "number \x003").replace("number 14", "number\x00 14")
    assert read_table(write(tmp_path / "a.csv", text)).columns["text"][3] == "this is text number \x003"


@pytest.mark.parametrize(("encoding", "name"), [("iso2022_jp", "ISO2022_JP"), ("hz", "HZ"), ("iso2022_kr", "KR")])
def test_decode_names_an_encoding_of_ascii_bytes(tmp_path: Path, encoding: str, name: str) -> None:
    text = {"iso2022_jp": JAPANESE, "hz": JAPANESE.replace("は", "的").replace("悪", "坏").replace("画", "面")}.get(
        encoding, CSV.replace("yes", "예").replace("no", "아니")
    )
    text = text.replace("映", "电").replace("一番", "最") if encoding == "hz" else text
    with pytest.raises(DataError, match=f"looks like .*{name}"):
        read_table(write(tmp_path / "a.csv", text.encode(encoding)))


def test_decode_names_utf_7_and_reads_plus_signs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="looks like UTF-7, not UTF-8"):
        read_table(write(tmp_path / "a.csv", CSV.replace("text number", "t\xe9xt").encode("utf-7")))
    assert len(read_table(write(tmp_path / "b.csv", CSV.replace("number", "C++ and 1+1- +one-")))) == 40


def test_decode_offers_the_option_for_other_encodings(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", RUSSIAN.encode("windows-1251"))
    with pytest.raises(DataError, match=r"not UTF-8: byte .* Name its encoding with --encoding"):
        read_table(path)
    assert read_table(path, ReadOptions(encoding="windows-1251")).columns["label"][1] == "да"


@pytest.mark.parametrize(
    ("encoding", "message"),
    [("klingon", "is not an encoding"), ("base64", "is not an encoding"), ("ascii", "is not ascii")],
)
def test_decode_refuses_a_wrong_encoding(tmp_path: Path, encoding: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path / "a.csv", RUSSIAN + "x"), ReadOptions(encoding=encoding))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv.gz", gzip.compress(CSV.encode())),
        ("a.csv", gzip.compress(CSV.encode())),
        ("a.bz2", bz2.compress(CSV.encode())),
        ("a.csv.xz", lzma.compress(CSV.encode())),
        ("a.csv.zst", zstd(CSV.encode())),
        ("a.zip", zipped("a.csv")),
        ("a.zip", zipped("a.csv", "__MACOSX/._a.csv")),
        ("twice.gz", gzip.compress(gzip.compress(CSV.encode()))),
    ],
)
def test_read_table_unpacks_by_content(tmp_path: Path, name: str, content: bytes) -> None:
    assert read_table(write(tmp_path / name, content)).columns["label"] == ["no", "yes"] * 20


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(CSV.encode())[:-20], "compressed, but damaged"),
        (b"BZh91AY&SY junk", "compressed, but damaged"),
        (b"\xfd7zXZ\x00 junk", "compressed, but damaged"),
        (b"\x28\xb5\x2f\xfd junk", "compressed, but damaged"),
        (b"PK\x03\x04 junk", "compressed, but damaged"),
        (zipped("a.csv", "b.csv"), "holds 2 files"),
        (zipped("[Content_Types].xml", "xl/workbook.xml"), "a workbook or document"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"SQLite format 3\x00", "SQLite"),
        (b"\x80\x04\x95", "pickle"),
        (b"x" * 257 + b"ustar", "tar archive"),
        (b"text,label\n\x00\x00\x00,pos\n", "is not text: 3 of its 19 characters are NUL"),
        (bytes(range(256)), "is not text: it is not UTF-8 and contains NUL"),
        (b"PK\x05\x06" + bytes(18), "zip archive without files"),
        (b"\x04\x22\x4d\x18junk", "compressed by LZ4"),
        (b"\x93NUMPY\x01\x00", "array of NumPy"),
    ],
)
def test_read_table_names_files_that_are_no_tables(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path / "a.csv", content))


@pytest.mark.parametrize("name", ["missing.csv", "a.csv/b.csv", "x" * 5000, "nul\x00.csv", "."])
def test_read_table_refuses_names_without_a_file(tmp_path: Path, name: str) -> None:
    write(tmp_path / "a.csv", CSV)
    with pytest.raises(DataError):
        read_table(tmp_path / name)


def test_read_table_takes_the_one_file_that_is_not_hidden(tmp_path: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name in ("data/a.csv", "__MACOSX/data/._a.csv", ".DS_Store"):
            file.writestr(name, CSV if name.endswith("/a.csv") else "x")
    assert len(read_table(write(tmp_path / "a.zip", archive.getvalue()))) == 40


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("It\x92s good", "--encoding windows-1252"),
        ("cafÃ©", "read as Windows-1252"),
        ("â\x80\x99tis", "read as Windows-1252"),
        ("NULL", "only a word for a missing value"),
        ("\u00e9t\u00e9", ""),
    ],
)
def test_damage_tells_texts_that_were_decoded_wrongly(text: str, note: str) -> None:
    found = damage([text])
    assert len(found) == bool(note) and note in "".join(found)
