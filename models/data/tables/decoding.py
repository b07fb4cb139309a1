"""The text of a file: its bytes, decompressed and decoded."""

import bz2
import contextlib
import gzip
import io
import lzma
import re
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from sparserve.models.errors import DataError

MAX_NESTED = 3
"""Largest number of compressions around each other, such as a .csv.gz in a .zip."""
BYTE_ORDER_MARKS = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
)
WIDE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
# Encodings of Japanese, Chinese and Korean that switch between character sets by ASCII sequences: valid UTF-8.
SHIFTS = ((b"\x1b$)C", "iso2022_kr"), (b"\x1b$", "iso2022_jp"), (b"~{", "hz"))
UTF_7 = re.compile(rb"\+[A-Za-z0-9+/]{3,}(?:-|(?=[^A-Za-z0-9+/]))")
SAMPLE_BYTES = 1 << 18
MAX_NUL_SHARE = 0.02
"""Largest share of NUL among the characters of a text; binary files have more."""

# Files that people give by mistake, by the bytes that they begin with.
FOREIGN = (
    (b"version https://git-lfs.github.com/", "is a Git LFS pointer, not the data itself: run `git lfs pull`"),
    (b"\xd0\xcf\x11\xe0", "is an Excel workbook: save it as CSV"),
    (b"SQLite format 3\x00", "is an SQLite database: export the table as CSV"),
    (b"Obj\x01", "is an Avro file: convert it to Parquet"),
    (b"\x80\x02", "is a pickle, which can run code when loaded: write the data as CSV, JSON lines or Parquet"),
    (b"\x80\x03", "is a pickle, which can run code when loaded: write the data as CSV, JSON lines or Parquet"),
    (b"\x80\x04", "is a pickle, which can run code when loaded: write the data as CSV, JSON lines or Parquet"),
    (b"\x80\x05", "is a pickle, which can run code when loaded: write the data as CSV, JSON lines or Parquet"),
    (b"%PDF-", "is a PDF: give a table of texts and labels as CSV"),
    (b"7z\xbc\xaf", "is a 7z archive: unpack it"),
    (b"PK\x05\x06", "is a zip archive without files"),
    (b"\x04\x22\x4d\x18", "is compressed by LZ4: unpack it"),
    (b"\x93NUMPY", "is an array of NumPy: write the data as CSV, JSON lines or Parquet"),
    (b"\x89HDF", "is an HDF5 file: write the data as CSV, JSON lines or Parquet"),
    (b"ORC", "is an ORC file: convert it to Parquet"),
    (b"RDX", "is a file of R: write the data with write.csv"),
    (b"X\n\x00\x00\x00", "is a file of R: write the data with write.csv"),
    (b"$FL", "is a file of SPSS: export the table as CSV"),
    (b"<stata_dta>", "is a file of Stata: export the table as CSV"),
    (b"Rar!\x1a", "is a RAR archive: unpack it"),
)
_WAY_OUT = "Give CSV, JSON lines or Parquet, or name the encoding of a text with --encoding."
WEB_PAGES = (b"<!doctype html", b"<html", b"<?xml")


def read_bytes(path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"File {path} does not exist.") from error
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder, not a file.") from error
    except (OSError, ValueError) as error:  # a ValueError is a name with NUL
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"{path} cannot be read: {reason}. Check its name and permissions.") from error


def unpack(content: bytes, path: Path) -> bytes:
    """Return the content of a compressed file, and any other content as it is.

    Raises:
        DataError: the compressed file is damaged, holds several files, or is of a kind that cannot be read.
    """
    for _ in range(MAX_NESTED):
        decompress = next((one for magic, one in _DECOMPRESS.items() if content.startswith(magic)), None)
        if decompress is None:
            break
        try:
            content = decompress(content, path)
        except (OSError, EOFError, ValueError, RuntimeError, NotImplementedError) as error:
            raise DataError(f"{path} is compressed, but damaged: {error}. Get or make it again.") from error
        except (zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} is compressed, but damaged: {error}. Get or make it again.") from error
    if content[257:262] == b"ustar":
        raise DataError(f"{path} is a tar archive. Unpack it and give the folder or file in it.")
    for magic, what in FOREIGN:
        if content.startswith(magic):
            raise DataError(f"{path} {what}.")
    if content[:100].lstrip().lower().startswith(WEB_PAGES):
        raise DataError(f"{path} is a web page or XML, not a table. Give CSV, JSON lines or Parquet.")
    return content


def decode(content: bytes, path: Path, encoding: str | None) -> tuple[str, tuple[str, ...]]:
    """Return the text of a file's content, and notes on its encoding.

    Without `encoding` it is UTF-8, or what its byte order mark says.

    Raises:
        DataError: the content is in another encoding, or no text.
    """
    text, notes = _decoded(content, path, encoding)
    nuls = text.count("\x00")
    if nuls > MAX_NUL_SHARE * len(text):
        raise DataError(
            f"{path} is not text: {nuls:,} of its {len(text):,} characters are NUL, as in a binary file. {_WAY_OUT}"
        )
    return text, notes


def _decoded(content: bytes, path: Path, encoding: str | None) -> tuple[str, tuple[str, ...]]:
    marked = next((name for mark, name in BYTE_ORDER_MARKS if content.startswith(mark)), None)
    if encoding is not None:
        return _decode_as(content, path, encoding, marked), ()
    if marked is not None and marked != "utf-8-sig":
        return _decode_as(content, path, marked, marked), (f"encoding: {marked.upper()} (by its byte order mark)",)
    name = _disguised(content)
    if name is not None:
        raise DataError(f"{path} looks like {name.upper()}, not UTF-8. Use --encoding {name}, or convert the file.")
    try:
        return content.decode("utf-8-sig"), ()
    except UnicodeDecodeError as error:
        if b"\x00" in content:
            raise DataError(
                f"{path} is not text: it is not UTF-8 and contains NUL, as a binary file. {_WAY_OUT}"
            ) from error
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path} is not UTF-8: byte {error.start} (0x{content[error.start]:02x}) in line {line}. Name its encoding "
            "with --encoding, such as windows-1252 for texts of Western Europe or gb18030 for Chinese, or convert it."
        ) from error


def _decode_as(content: bytes, path: Path, encoding: str, marked: str | None) -> str:
    try:
        if marked == "utf-8-sig" and encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
            encoding = marked
        text = content.decode(encoding)
    except LookupError as error:
        raise DataError(
            f"--encoding: {encoding!r} is not an encoding of text that Python knows. Use one such as utf-8, utf-16-le, "
            "windows-1252, latin-1 or gb18030."
        ) from error
    except ValueError as error:  # UnicodeError among them
        reason = getattr(error, "reason", None) or str(error)
        raise DataError(f"{path} is not {encoding}: {reason}. Name another encoding with --encoding.") from error
    return text.removeprefix("\ufeff")


def _disguised(content: bytes) -> str | None:
    """Return the encoding that content is in if its bytes are valid UTF-8 without meaning it."""
    sample = content[:SAMPLE_BYTES]
    if b"\x00" in sample:
        for name in WIDE:
            if _is_wide(sample, name, 4 if name.startswith("utf-32") else 2):
                return name
    for shift, name in SHIFTS:
        if shift in sample:
            try:
                text = content.decode(name)
            except ValueError:
                continue
            if not text.isascii():
                return name
    if len(UTF_7.findall(sample)) > 2 and sample.isascii():
        with contextlib.suppress(ValueError):
            others = [character for character in content.decode("utf-7") if not character.isascii()]
            if all(character.isalpha() or unicodedata.category(character)[0] in "PS" for character in others):
                return "utf-7"
    return None


def _is_wide(sample: bytes, name: str, width: int) -> bool:
    """Return True if the sample is text of 2 or 4 bytes per character: it has lines, and no NUL once it is decoded."""
    text = sample[: len(sample) // width * width].decode(name, "replace")
    ascii_share = sum("\x00" < character < "\x80" for character in text) / max(len(text), 1)
    damaged = text.count("\ufffd") > len(text) // 100
    return ascii_share > 0.01 and not damaged and "\x00" not in text and ("\n" in text or "\r" in text)


def _gunzip(content: bytes, path: Path) -> bytes:
    return gzip.decompress(content)


def _unzip(content: bytes, path: Path) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [
            entry.filename
            for entry in archive.infolist()
            if not entry.is_dir() and not re.search(r"(^|/)(__MACOSX/|\.[^/]*$)", entry.filename)
        ]
        if "[Content_Types].xml" in names or "mimetype" in names:
            raise DataError(f"{path} is a workbook or document. Save the table as CSV.")
        if len(names) != 1:
            raise DataError(f"{path} holds {len(names)} files. Unpack it and give the folder or one of the files.")
        return archive.read(names[0])


def _unzstd(content: bytes, path: Path) -> bytes:
    import pyarrow

    with pyarrow.CompressedInputStream(pyarrow.BufferReader(content), "zstd") as stream:
        return bytes(stream.read())


_DECOMPRESS: dict[bytes, Callable[[bytes, Path], bytes]] = {
    b"\x1f\x8b": _gunzip,
    b"BZh": lambda content, path: bz2.decompress(content),
    b"\xfd7zXZ\x00": lambda content, path: lzma.decompress(content),
    b"PK\x03\x04": _unzip,
    b"\x28\xb5\x2f\xfd": _unzstd,
}
