"""What a user sees who gives something wrong: one line that names it and the way out, and an exit code."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from sparserve.models.cli.app import app


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def wrong(compress_tiny, tmp_path):
    """Run the tiny job with something wrong; nothing may be published then."""

    def invoke(*extra, code, message):
        result = run(*compress_tiny(tmp_path / "store", *map(str, extra)))
        assert result.exit_code == code, result.output
        assert message in " ".join(result.stderr.split()), result.stderr
        assert "Traceback" not in result.output
        assert not list((tmp_path / "store").glob("*/*/*/manifest.json"))

    return invoke


def test_a_recipe_that_is_wrong(wrong):
    wrong("--sparsity", "1.5", code=2, message="pruning.sparsity")
    wrong("--set", "pruning.sparsty=0.5", code=2, message="unknown field 'pruning.sparsty'")
    wrong("--set", "student.epochs", code=2, message="field=value")


def test_a_checkpoint_that_is_no_encoder(wrong, tiny_checkpoint, tmp_path):
    copy = shutil.copytree(tiny_checkpoint, tmp_path / "gpt2")
    (copy / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    wrong("--model", copy, code=2, message="not an encoder")


def test_data_that_is_wrong(wrong, tmp_path):
    path = tmp_path / "one.csv"
    path.write_text("text,label\n" + "".join(f"text {i},same\n" for i in range(40)))
    wrong("--data", path, code=2, message="'same' only")
    wrong("--data", tmp_path / "missing.csv", code=2, message="does not exist")
    wrong("--label-column", "labels", code=2, message="has no column 'labels'")


@pytest.fixture
def teacher(tiny_store):
    """A checkpoint that was fine-tuned on the tiny task."""
    dense = tiny_store / "tiny" / "dense"
    return dense / (dense / "current").read_text().strip() / "checkpoint"


def test_a_teacher_of_other_labels(wrong, teacher, tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("text,label\n" + "".join(f"text {i},{'spam' if i % 2 else 'ham'}\n" for i in range(40)))
    wrong("--teacher", teacher, "--data", path, code=2, message="negative, positive, but the data has ham, spam")


def test_a_teacher_that_the_student_cannot_imitate(wrong, teacher, tiny_checkpoint, tmp_path):
    wrong("--teacher", tiny_checkpoint, code=2, message="give it as --model, and a teacher is fine-tuned from it")
    copy = shutil.copytree(teacher, tmp_path / "other")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    wrong("--teacher", copy, code=2, message="the student has 2 layers and its teacher 1")
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["extra"] = len(tokenizer["model"]["vocab"])
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    wrong("--teacher", copy, code=2, message="take the tokenizer that it was trained with")
    tokenizer["model"]["vocab"]["extra"] = tokenizer["model"]["vocab"].pop("movie")
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    wrong("--teacher", copy, code=2, message="different vocabularies")


def test_what_a_teachers_labels_without_names_are_taken_for_is_said(compress_tiny, teacher, tmp_path):
    def said(folder):
        result = run(*compress_tiny(tmp_path / "store", "--teacher", folder, "--dry-run"))
        assert result.exit_code == 0, result.output
        return "have no names: LABEL_0 for negative, LABEL_1 for positive (guessed" in " ".join(result.output.split())

    copy = shutil.copytree(teacher, tmp_path / "unnamed")
    config = json.loads((copy / "config.json").read_text())
    config |= {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}
    (copy / "config.json").write_text(json.dumps(config))
    assert said(copy) and not said(teacher)


def test_texts_longer_than_the_model_has_positions(wrong, make_checkpoint):
    wrong("--set", "max_length=128", code=2, message="positions for 72: add --set max_length=72")
    wrong("--model", make_checkpoint("roberta"), "--set", "max_length=72", code=2, message="positions for 71")


def test_names_that_cannot_be_names(wrong):
    wrong("--task", "../up", code=2, message="cannot be the name of a task")
    wrong("--variant", "Sparse 90", code=2, message="cannot be the name of a variant")


def test_a_store_that_is_a_file(compress_tiny, tmp_path):
    (tmp_path / "store").write_text("")
    result = run(*compress_tiny(tmp_path / "store"))
    assert result.exit_code == 4
    assert "is in the way" in " ".join(result.stderr.split())


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root writes everywhere")
def test_a_store_that_cannot_be_written(compress_tiny, tmp_path, tiny_checkpoint):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    command = [sys.executable, "-m", "sparserve", *compress_tiny(folder / "store")]
    if os.geteuid() == 0:
        # Root ignores permissions unless it gives up the capability to.
        command = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override", *command]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 4, result.stderr
    assert "cannot be written" in result.stderr
    assert list(folder.iterdir()) == []


def test_a_full_disk_is_said_and_leaves_nothing_half(compress_tiny, tmp_path, monkeypatch):
    from sparserve.models.pipeline import execution as pipeline

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pipeline.steps, "train_teacher", full)
    result = run(*compress_tiny(tmp_path / "store"))
    assert result.exit_code == 4
    assert "the disk is full" in result.stderr
    assert not list((tmp_path / "store").glob("tiny*"))


@pytest.mark.parametrize("format", ["table", "json", "markdown", "html"])
def test_reports_are_printed_in_every_format(tiny_store, format):
    result = run("report", "tiny", "--store", tiny_store, "--format", format)
    assert result.exit_code == 0
    assert "sparse60-int8" in result.output
    if format == "json":
        assert json.loads(result.stdout)["task"] == "tiny"


def test_a_report_of_nothing(tmp_path):
    result = run("report", "tiny", "--store", tmp_path)
    assert result.exit_code == 3
    assert "no task 'tiny'" in result.stderr


def test_bundles_are_listed_verified_and_switched(tiny_store, tmp_path):
    store = shutil.copytree(tiny_store, tmp_path / "store", ignore=shutil.ignore_patterns(".work"))
    assert "default" in run("bundles", "list", "--store", store).output
    assert run("bundles", "verify", "--store", store).exit_code == 0
    assert run("bundles", "default", "tiny", "dense-int8", "--store", store).exit_code == 0
    assert (store / "tiny" / "default").read_text().strip() == "dense-int8"
    result = run("bundles", "promote", "tiny", "dense", "0" * 16, "--store", store)
    assert result.exit_code == 3
    model = next(store.glob("tiny/dense/*/model.onnx"))
    model.write_bytes(model.read_bytes()[:-10])
    result = run("bundles", "verify", "--store", store)
    assert result.exit_code == 3
    assert "model.onnx has" in " ".join(result.output.split())


@pytest.mark.parametrize("command", ["list", "verify"])
def test_a_store_that_is_not_there_is_not_a_good_one(command, tmp_path):
    result = run("bundles", command, "--store", tmp_path / "stroe")
    assert result.exit_code == 3
    assert "there is no store" in result.stderr


def test_recipes_are_listed():
    result = run("recipes")
    assert result.exit_code == 0
    assert "sparsebert-best" in result.output
