"""`sparserve compress --data`: files as people have them, from the command line to the summary or the way out."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from typer.testing import CliRunner, Result

from sparserve.cli import app
from sparserve.models.bundle.store import Store
from tests.support import tiny_bundles
from tests.support.models.labelled import csv_text, rows, write

DryRun = Callable[..., Result]
TEXTS = [f"the {'fine' if i % 2 else 'dull'} film number {i} was very long" for i in range(40)]
LABELS = ["pos" if i % 2 else "neg" for i in range(40)]
ROWS = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
FLAGS = {"toxic": 2, "insult": 5}


@pytest.fixture
def dry_run(tiny_checkpoint: Path, tiny_recipe: Path, tmp_path: Path) -> DryRun:
    """Return a function that plans a job on some data."""

    def invoke(data: Path | str, *options: str) -> Result:
        given = ["--model", str(tiny_checkpoint), "--store", str(tmp_path / "store"), "--threads", "1", "--dry-run"]
        command = ["compress", str(tiny_recipe), "--data", str(data), *given, *options]
        return CliRunner().invoke(app, command, catch_exceptions=False)

    return invoke


def planned(result: Result, *parts: str) -> None:
    assert result.exit_code == 0, result.output
    for part in parts:
        assert part in result.stdout, result.stdout


def refused(result: Result, *parts: str) -> None:
    assert result.exit_code == 2, result.output
    message = " ".join(result.stderr.split())
    assert message.startswith("sparserve: ") and "Traceback" not in result.output
    for part in parts:
        assert part in message


def test_compress_reads_lists_in_cells(dry_run: DryRun, tmp_path: Path) -> None:
    items = [
        {"text": text, "labels": str(["odd", label][i % 3 > 0 :])}
        for i, (text, label) in enumerate(zip(TEXTS, LABELS, strict=True))
    ]
    path = write(tmp_path / "lists.csv", csv_text(items))
    for options in ([], ["--multi-label"], ["--label-separator", ","]):
        planned(dry_run(path, *options), "labels: neg 20 (50 %), odd 14", "(multi-label: a row can have several)")
    refused(dry_run(path, "--no-multi-label"), "row 1 has 2 labels (odd, neg)")


def test_compress_keeps_a_label_column_without_a_single_1(dry_run: DryRun, tmp_path: Path) -> None:
    items = [
        {"text": text, "threat": 0, **{n: int(i % k == 0) for n, k in FLAGS.items()}} for i, text in enumerate(TEXTS)
    ]
    path = write(tmp_path / "multihot_zero.csv", csv_text(items))
    planned(dry_run(path), "insult 8 (20 %), threat 0 (0 %), toxic 20 (50 %)", "no row has", ": threat\n")


def test_compress_obeys_no_multi_label(dry_run: DryRun, tmp_path: Path) -> None:
    lines = [json.dumps({"text": row["text"], "label": [row["label"]], "Comments": []}) for row in ROWS]
    path = write(tmp_path / "doccano.jsonl", "\n".join(lines))
    planned(dry_run(path), "multi-label: a row can have several", "use --no-multi-label")
    planned(dry_run(path, "--no-multi-label"), "labels: neg 20 (50 %), pos 20 (50 %) (single-label: a row has one)")


def test_compress_names_utf_16_and_reads_it_if_told(dry_run: DryRun, tmp_path: Path) -> None:
    path = write(tmp_path / "utf16le_nonl.csv", csv_text(ROWS).strip().encode("utf-16-le"))
    refused(dry_run(path), "looks like UTF-16-LE, not UTF-8. Use --encoding utf-16-le")
    planned(dry_run(path, "--encoding", "utf-16-le"), "40 rows (text = 'text', label = 'label')")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("semi_first.csv", "I like it; really; so good,pos\n" + csv_text(ROWS).partition("\n")[2], "41 rows"),
        (
            "semi_header.csv",
            '"Review, full text";"Label"\r\n' + csv_text(ROWS, ";").partition("\n")[2],
            "separated by ';'",
        ),
        ("barequote.csv", csv_text(ROWS) + '"Great" the phone,pos\n', "quotes are characters like any other"),
        ("comment_head.csv", "# exported 2026-01-01\n" + csv_text(ROWS), "as comments or title: 1 line\n"),
        ("spaces_line.csv", csv_text(ROWS) + "   \n", "40 rows"),
        ("lines.json", "\n".join(map(json.dumps, ROWS)), "format: JSON lines"),
        ("array.json", json.dumps(ROWS, indent=1), "format: JSON array"),
        ("packed.csv.gz", gzip.compress(csv_text(ROWS).encode()), "format: CSV, delimiter ','"),
    ],
)
def test_compress_reads_usual_files(
    dry_run: DryRun, tmp_path: Path, name: str, content: str | bytes, expected: str
) -> None:
    planned(dry_run(write(tmp_path / name, content)), expected, "single-label")


def test_compress_takes_the_dialect_from_options(dry_run: DryRun, tmp_path: Path) -> None:
    text = "text:label\n" + "".join(f"~{row['text']}: so\\~so~:{row['label']}\n" for row in ROWS)
    path = write(tmp_path / "a.csv", text)
    refused(dry_run(path), "a.csv")
    dialect = ["--delimiter", ":", "--quote", "~", "--escape", "\\"]
    planned(dry_run(path, *dialect), "format: CSV, delimiter ':', quote ~, escape \\")
    refused(dry_run(path, "--quote", "::"), "--quote '::': give one character")


def test_compress_reads_folders_as_hubs_store_them(dry_run: DryRun, tmp_path: Path) -> None:
    info = {"info": {"features": {"label": {"names": ["neg", "pos", "odd"], "_type": "ClassLabel"}}}}
    table = pyarrow.table({"text": TEXTS, "label": [int(label == "pos") for label in LABELS]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    folder = tmp_path / "hfflat"
    for name in ("data/train-00000-of-00002", "data/train-00001-of-00002", "data/test-00000-of-00001"):
        write(folder / f"{name}.parquet", b"")
        pyarrow.parquet.write_table(table, folder / f"{name}.parquet")
    both = "labels: neg 60 (50 %), odd 0 (0 %), pos 60 (50 %)"
    planned(dry_run(folder), "Data hfflat: 120 rows", "format: Parquet, 2 files", both, "no row has", "test 40")
    planned(dry_run(folder / "data" / "train-*.parquet"), "80 rows", "format: Parquet, 2 files")
    one = folder / "data" / "train-00000-of-00002.parquet"
    planned(dry_run(one), "train-00000-of-00002.parquet is one of 2 shards")


def test_compress_says_what_to_do_without_labels(dry_run: DryRun, tmp_path: Path) -> None:
    write(tmp_path / "kaggle" / "train.csv", csv_text(ROWS))
    test = write(tmp_path / "kaggle" / "test.csv", csv_text([{"id": i, "text": text} for i, text in enumerate(TEXTS)]))
    planned(dry_run(tmp_path / "kaggle"), "the test split is left out: it has no column 'label'", "sparserve predict")
    refused(dry_run(tmp_path / "kaggle" / "train.csv", "--test", str(test)), "Leave the file out", "sparserve predict")
    refused(dry_run(test), "no column looks like a label", "Training needs labelled rows; `sparserve predict`")


def test_compress_has_no_bound_on_the_classes_of_a_named_column(dry_run: DryRun, tmp_path: Path) -> None:
    items = [{"text": f"subject {i} item", "label": f"class {i // 2}"} for i in range(2 * 220)]
    path = write(tmp_path / "many.csv", csv_text(items))
    refused(dry_run(path), "220 different labels", "name their column with --label-column")
    planned(dry_run(path, "--label-column", "label"), "and 170 more (single-label")


def test_compress_uses_a_split_column_and_joins_texts(dry_run: DryRun, tmp_path: Path) -> None:
    items = [
        {
            "Title": f"title {i}",
            "Description": row["text"],
            "label": row["label"],
            "split": "test" if i % 4 == 0 else "train",
        }
        for i, row in enumerate(ROWS)
    ]
    path = write(tmp_path / "news.csv", csv_text(items))
    offer = "to join the texts, use --text-column 'Title' --text-column 'Description'"
    planned(dry_run(path), "splits by column 'split': train 30, test 10", offer)
    joined = dry_run(path, "--text-column", "Title", "--text-column", "Description")
    planned(joined, "text = 'Title, Description'", "texts are joined by a space: Title + Description")


def test_compress_refuses_other_labels_for_a_task(dry_run: DryRun, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    tiny_bundles.publish(store, "train", labels=("neg", "pos"))
    write(tmp_path / "a" / "train.csv", csv_text(ROWS))
    write(tmp_path / "b" / "train.csv", csv_text(rows()))
    planned(dry_run(tmp_path / "a" / "train.csv"), "the task 'train' is already in", "made of other rows or splits")
    refused(dry_run(tmp_path / "b" / "train.csv"), "train/dense in", "but this data has no, yes", "--replace-labels")
    planned(dry_run(tmp_path / "b" / "train.csv", "--replace-labels"), "variants of the same names are replaced")
    planned(dry_run(tmp_path / "b" / "train.csv", "--task", "other"), "Plan:")
    refused(dry_run(write(tmp_path / "отзывы.csv", csv_text(ROWS))), "name the task with --task")
