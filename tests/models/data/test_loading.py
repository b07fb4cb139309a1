"""Labelled text as users have it: in every format, with and without headers, and invalid in many ways."""

import json
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from sparserve.models.data.dataset import Dataset
from sparserve.models.data.loading import load_dataset
from sparserve.models.errors import DataError, EnvironmentFault


def rows(count: int = 40) -> list[dict[str, str]]:
    return [{"text": f"this is text number {i}", "label": "yes" if i % 2 else "no"} for i in range(count)]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def csv_of(items: Sequence[Mapping[str, object]], separator: str = ",") -> str:
    names = list(items[0])
    lines = [separator.join(names), *(separator.join(str(item[name]) for name in names) for item in items)]
    return "\n".join(lines) + "\n"


def notes(dataset: Dataset) -> str:
    return " | ".join(dataset.summary.notes)


def test_load_dataset_reads_every_format_alike(tmp_path: Path) -> None:
    items = rows()
    files = [
        write(tmp_path / "a.csv", csv_of(items)),
        write(tmp_path / "b.tsv", csv_of(items, "\t")),
        write(tmp_path / "c.csv", csv_of(items, ";")),
        write(tmp_path / "tabs.csv", csv_of(items, "\t")),
        write(tmp_path / "bars.csv", csv_of(items, "|")),
        write(tmp_path / "said.csv", "sep=;\r\n" + csv_of(items, ";").replace("\n", "\r\n")),
        write(tmp_path / "spaces.csv", csv_of([{k: f' "{v}"' for k, v in item.items()} for item in items])),
        write(tmp_path / "d.csv", "\ufeff" + csv_of(items).replace("\n", "\r\n")),
        write(tmp_path / "e.jsonl", "".join(json.dumps(item) + "\n" for item in items)),
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(items), tmp_path / "f.parquet")
    digests = {load_dataset(path).digest for path in [*files, tmp_path / "f.parquet"]}
    assert len(digests) == 1


def test_load_dataset_notes_detected_columns(tmp_path: Path) -> None:
    items = [{"Review": f"text {i} of some length", "Sentiment": i % 3} for i in range(60)]
    dataset = load_dataset(write(tmp_path / "a.csv", csv_of(items)))
    assert dataset.label_names == ("0", "1", "2")
    assert "'Review'" in notes(dataset) and "'Sentiment'" in notes(dataset)
    named = load_dataset(tmp_path / "a.csv", text_column="Review", label_column="Sentiment")
    assert named.summary.notes == ()
    assert named.digest == dataset.digest


@pytest.mark.parametrize("names", [",text,label", "text,label,", "what they said about it all,label,text"])
def test_load_dataset_detects_a_header_by_one_known_name(tmp_path: Path, names: str) -> None:
    first = names.split(",").index("label")
    lines = [",".join("yn"[i % 2] if at == first else f"some text {i}" for at in range(3)) for i in range(40)]
    dataset = load_dataset(write(tmp_path / "a.csv", "\n".join([names, *lines])))
    assert (sum(dataset.summary.rows.values()), dataset.label_names) == (40, ("n", "y"))


def test_load_dataset_detects_a_header_by_a_given_name(tmp_path: Path) -> None:
    lines = [f"{i},some text {i},{'yn'[i % 2]}" for i in range(40)]
    path = write(tmp_path / "a.csv", "\n".join([",words,verdict", *lines]))
    dataset = load_dataset(path, text_column="words", label_column="verdict")
    assert (sum(dataset.summary.rows.values()), dataset.label_names) == (40, ("n", "y"))
    with pytest.raises(DataError, match=r"No header row was detected; use --header"):
        load_dataset(write(tmp_path / "b.csv", "\n".join(["1,2,3", *lines])), text_column="wurds")


def test_load_dataset_reads_unbalanced_classes_without_a_header(tmp_path: Path) -> None:
    chance = random.Random(0)
    names = ["billing", "tech", "sales", "hr", "legal", "other"]
    lines = [f'{chance.choices(names, [50, 30, 10, 5, 3, 2])[0]}\tmessage {i}, about "it"' for i in range(400)]
    dataset = load_dataset(write(tmp_path / "a.tsv", "\n".join(lines)))
    assert sorted(dataset.label_names) == sorted(names)
    assert sum(dataset.summary.rows.values()) == 400
    assert set(dataset.train.labels) == set(range(6))
    assert dataset.train.texts[0].endswith('about "it"')
    assert "no header row" in notes(dataset)


def test_load_dataset_reads_a_folder_of_splits_with_text_pairs(tmp_path: Path) -> None:
    items = [{"sentence1": f"a long premise {i}", "sentence2": f"a {i}", "label": i % 2} for i in range(60)]
    write(tmp_path / "train.jsonl", "".join(json.dumps(item) + "\n" for item in items[:40]))
    write(tmp_path / "dev.jsonl", "".join(json.dumps(item) + "\n" for item in items[40:]))
    dataset = load_dataset(tmp_path)
    assert dataset.test.texts == [item["sentence1"] for item in items[40:]]
    assert dataset.test.text_pairs == [item["sentence2"] for item in items[40:]]
    assert dataset.summary.rows == {"train": 36, "validation": 4, "test": 20}
    assert "the validation split is used as the test split" in notes(dataset)


@pytest.mark.parametrize("form", ["columns", "lists", "separated"])
def test_load_dataset_reads_multi_label_rows(tmp_path: Path, form: str) -> None:
    sets = [[name for name, every in (("spam", 3), ("threat", 7), ("toxic", 2)) if i % every == 0] for i in range(90)]
    if form == "columns":
        items = [
            {"text": f"t {i}", **{n: int(n in s) for n in ("spam", "threat", "toxic")}} for i, s in enumerate(sets)
        ]
        path = write(tmp_path / "a.csv", csv_of(items))
    elif form == "lists":
        lines = (json.dumps({"text": f"t {i}", "labels": s}) + "\n" for i, s in enumerate(sets))
        path = write(tmp_path / "a.jsonl", "".join(lines))
    else:
        items = [{"text": f"t {i}", "label": "|".join(s) or "toxic"} for i, s in enumerate(sets)]
        path = write(tmp_path / "a.csv", csv_of(items))
    dataset = load_dataset(path, label_separator="|" if form == "separated" else None)
    assert dataset.problem_type == "multi_label_classification"
    assert dataset.label_names == ("spam", "threat", "toxic")
    row = dataset.train.texts.index(next(t for t in dataset.train.texts if t == "t 42" or t == "t 84" or t == "t 21"))
    number = int(dataset.train.texts[row].split()[1])
    assert dataset.train.labels[row] == [int(number % 3 == 0), int(number % 7 == 0), int(number % 2 == 0)]


def test_load_dataset_counts_dropped_rows(tmp_path: Path) -> None:
    items = [*rows(), {"text": " ", "label": "yes"}, {"text": "unlabelled", "label": ""}]
    summary = load_dataset(write(tmp_path / "a.csv", csv_of(items))).summary
    assert summary.dropped == {"empty text": 1, "no label": 1}
    assert any("dropped: 1 rows (empty text)" in line for line in summary.lines())


def test_load_dataset_keeps_long_texts_quoted_newlines_and_nul(tmp_path: Path) -> None:
    items = rows()
    items[0]["text"] = "x" * 100_000
    items[1]["text"] = '"two\nlines, and ""quotes"""'
    items[2]["text"] = "nul\x00inside"
    dataset = load_dataset(write(tmp_path / "a.csv", csv_of(items)))
    texts = {t for s in (dataset.train, dataset.validation, dataset.test) for t in s.texts}
    assert {"x" * 100_000, 'two\nlines, and "quotes"', "nul inside"} <= texts
    assert dataset.summary.characters["max"] == 100_000


def two_labels(count: int) -> str:
    return "".join(f"some text {i},{i % 2}\n" for i in range(count))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,label\n" + "a,b\n" * 30, "only the label 'b'"),
        ("a.csv", "text,label\n" + two_labels(30) + "lonely,rare\n", "'rare' has 1 row"),
        ("a.csv", "text,label\n" + "".join(f"text {i},{i}\n" for i in range(30)), "30 of 30 labels are rare: check"),
        ("a.csv", "text,label\n" + " ,1\n , 0\n" * 20, "empty text"),
        ("a.csv", "text,label\ncaf\xe9,1\n".encode("latin-1"), r"not UTF-8: byte 14 \(0xe9\) in line 2"),
        ("a.csv", "text,label,class\n" + "a b c,1,x\nd e f,0,y\n" * 20, "'label' and 'class' could be the label"),
        ("a.csv", "text,label\na,b,c\n", r"line 2: 3 fields, but most rows have 2 \(delimiter ','"),
        ("a.csv", 'text,label\n"open, 2,1\n', "line 2"),
        (
            "a.csv",
            'text,label\n"a, "quoted" word",1\n',
            r"line 2 is not valid CSV \(delimiter ','.*quotes within it twice; or use --quote",
        ),
        ("a.csv", "", "no rows"),
        ("a.csv", "text,label\n" + two_labels(9), "9 usable rows"),
        ("a.csv", "text,label\n" + "the same,a\nand the same,b\n" * 30, "only 2 different texts"),
        ("a.csv", "text,text,label\na,b,1\n", "same name"),
        ("a.csv", "sep=;\ntext;label\na;b;c\n", "line 3: 3 fields"),
        (
            "a.jsonl",
            '{"text": "a", "label": "x\\ud800"}\n' * 30,
            r"'x\\ud800' contains half of a surrogate",
        ),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": \n', "line 2 is not valid JSON"),
        ("a.jsonl", "[1, 2]\n", "row 1 is not a JSON object"),
        ("a.jsonl", '{"text": "a", "label": 1}\n2\n', "line 2 is not a JSON object"),
        ("a.jsonl", "[" * 100_000, "not valid JSON"),
        ("a.jsonl", "".join(json.dumps({"text": i, "label": i % 2}) + "\n" for i in range(30)), "type int in row 1"),
        (
            "a.jsonl",
            "".join(json.dumps({"text": "a", "label": {"a": 1}}) + "\n" for _ in range(30)),
            "only the label 'a'",
        ),
        ("a.parquet", b"PAR1 no", "not a readable Parquet file"),
        ("a.xlsx", b"\xd0\xcf\x11\xe0 more", "is an Excel workbook: save it as CSV"),
    ],
)
def test_load_dataset_refuses_invalid_data(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset(write(tmp_path / name, content))


def test_load_dataset_refuses_a_single_row(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n")
    with pytest.raises(DataError, match="only one row, which may be a header"):
        load_dataset(tmp_path / "rows.csv")
    train = write(tmp_path / "train.csv", csv_of(rows()))
    with pytest.raises(DataError, match=r"\(test\) has only one row, which may be a header"):
        load_dataset(train, splits={"test": tmp_path / "rows.csv"})


def test_load_dataset_refuses_one_column_for_two_roles(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", csv_of(rows()))
    with pytest.raises(DataError, match=r"need different columns, not \['text', 'text'\]"):
        load_dataset(path, text_column="text", label_column="text")


def test_load_dataset_refuses_missing_columns_and_files(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", csv_of(rows()))
    options: list[dict[str, Any]] = [{f"{role}_column": "nothing"} for role in ("text", "text_pair", "label")]
    for option in options:
        with pytest.raises(DataError, match=r"no column 'nothing'.*text, label"):
            load_dataset(path, **option)
    with pytest.raises(DataError, match="does not exist"):
        load_dataset(tmp_path / "b.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no training file\. Name it train\.csv"):
        load_dataset(tmp_path / "empty")
    with pytest.raises((DataError, EnvironmentFault), match="owner/name"):
        load_dataset("owner/name")


def test_load_dataset_refuses_a_parquet_text_column_of_numbers(tmp_path: Path) -> None:
    table = pyarrow.table({"text": list(range(40)), "label": [i % 2 for i in range(40)]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="column 'text' holds a value of type int in row 1"):
        load_dataset(tmp_path / "a.parquet")


def test_load_dataset_refuses_a_label_that_train_lacks(tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", csv_of(rows()))
    test = write(tmp_path / "other.csv", "text,label\nnew,maybe\nnewer,maybe\n")
    with pytest.raises(DataError, match="'maybe' does not occur in the train split, but in 2 rows of test"):
        load_dataset(train, splits={"test": test})
    lines = [json.dumps({"text": f"t {i}", "labels": ["yes", "no"][: i % 3]}) for i in range(40)]
    several = write(tmp_path / "train.jsonl", "\n".join(lines))
    other = write(tmp_path / "other.jsonl", '{"text": "new", "labels": ["yes", "maybe"]}\n' * 2)
    with pytest.raises(DataError, match="'maybe' does not occur in the train split"):
        load_dataset(several, splits={"test": other})


def test_load_dataset_counts_duplicates_and_keeps_them_together(tmp_path: Path) -> None:
    items = [*rows(), *rows()[:4]]
    summary = load_dataset(write(tmp_path / "a.csv", csv_of(items))).summary
    assert (summary.duplicates, summary.shared) == (4, 0)
    assert "  duplicate rows: 4 (none across splits)" in summary.lines()
    assert not [note for note in summary.notes if "too optimistic" in note]


def test_load_dataset_notes_texts_that_given_splits_share(tmp_path: Path) -> None:
    items = rows(60)
    train = write(tmp_path / "train.csv", csv_of(items))
    shouted = [{**item, "text": item["text"].upper()} for item in items[:30]]
    dataset = load_dataset(train, splits={"test": write(tmp_path / "test.csv", csv_of(shouted))})
    assert dataset.test.texts == [item["text"] for item in shouted]
    assert len(dataset.train) + len(dataset.validation) == 60
    assert (dataset.summary.duplicates, dataset.summary.shared) == (30, 30)
    assert "  duplicate rows: 30 (30 of them across splits)" in dataset.summary.lines()
    assert "30 of 30 test rows (100 %) have a text that is also in train" in notes(dataset)
    fresh = [{**item, "text": f"new {item['text']}"} for item in items]
    validation = write(tmp_path / "validation.csv", csv_of(items[:1] + fresh[:7]))
    test = write(tmp_path / "test.csv", csv_of(items[:1] + fresh[8:10]))
    three = load_dataset(train, splits={"validation": validation, "test": test})
    assert "1 of 8 validation rows (12.5 %) have a text that is also in train" in notes(three)
    assert "1 of 3 test rows (33.3 %) have a text that is also in validation" in notes(three)
    assert three.summary.lines()[-1] == "  duplicate rows: 2 (2 of them across splits)"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that sets the features and splits of the Hub's data set."""

    def publish(features: Mapping[str, Any], splits: Mapping[str, Mapping[str, list[Any]]]) -> None:
        package = ModuleType("datasets")
        loaded = {name: HubRows(features, columns) for name, columns in splits.items()}
        package.__dict__["load_dataset"] = lambda name: loaded
        monkeypatch.setitem(sys.modules, "datasets", package)

    return publish


class HubRows(dict[str, list[Any]]):
    def __init__(self, features: Mapping[str, Any], columns: Mapping[str, list[Any]]) -> None:
        super().__init__(columns)
        self.features = features


CLASSES = SimpleNamespace(names=["joy", "anger", "calm"])


def hub_columns(split: str, labels: Callable[[int], Any], count: int = 60) -> dict[str, list[Any]]:
    return {"text": [f"{split} text {i}" for i in range(count)], "labels": [labels(i) for i in range(count)]}


@pytest.mark.parametrize("feature", [SimpleNamespace(feature=CLASSES), [CLASSES]])
def test_load_dataset_names_hub_classes_in_lists(hub: Callable[..., None], feature: Any) -> None:
    splits = {name: hub_columns(name, lambda i: [i % 3, 2] if i % 4 else []) for name in ("train", "test")}
    hub({"text": SimpleNamespace(), "labels": feature}, splits)
    dataset = load_dataset("hub:owner/name")
    assert dataset.label_names == ("anger", "calm", "joy")
    assert dataset.test.labels[:4] == [[0, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1]]


def test_load_dataset_ignores_a_hub_test_split_without_labels(hub: Callable[..., None]) -> None:
    splits = {"train": hub_columns("train", lambda i: i % 3), "test": hub_columns("test", lambda i: -1)}
    hub({"text": SimpleNamespace(), "labels": CLASSES}, splits)
    dataset = load_dataset("hub:owner/name")
    assert dataset.label_names == ("anger", "calm", "joy")
    assert dataset.test.texts[0].startswith("train")
