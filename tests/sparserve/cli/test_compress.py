"""`sparserve compress`, `report` and `recipes`: errors in one line with the way out, and exit codes."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from sparserve.cli import app
from sparserve.models.encoders.weights import WEIGHTS

CommandLine = Callable[..., list[str]]
Refused = Callable[..., None]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def refused(compress_tiny: CommandLine, tmp_path: Path) -> Refused:
    """Return a function that runs the tiny job with wrong options; nothing may be published."""

    def invoke(*extra: str | Path, code: int, message: str) -> None:
        result = run(*compress_tiny(tmp_path / "store", *map(str, extra)))
        assert result.exit_code == code, result.output
        assert message in " ".join(result.stderr.split()), result.stderr
        assert "Traceback" not in result.output
        assert not list((tmp_path / "store").glob("*/*/*/manifest.json"))

    return invoke


def test_compress_refuses_a_wrong_recipe(refused: Refused) -> None:
    refused("--sparsity", "1.5", code=2, message="pruning.sparsity")
    refused("--set", "pruning.sparsty=0.5", code=2, message="unknown field 'pruning.sparsty'")
    refused("--set", "student.epochs", code=2, message="field=value")


def test_compress_refuses_a_checkpoint_that_is_no_encoder(
    refused: Refused, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(tiny_checkpoint, tmp_path / "gpt2")
    messages = {
        "gpt2": "not an encoder",
        "new": "take the checkpoint as transformers has it, with the model_type 'gte'",
    }
    for model_type, message in messages.items():
        (copy / "config.json").write_text(json.dumps({"model_type": model_type}))
        refused("--model", copy, code=2, message=message)


def test_compress_says_that_an_adapter_is_merged(
    compress_tiny: CommandLine, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "a-base"}))
    monkeypatch.setattr("sparserve.models.pipeline.job.merge_adapter", lambda folder, cache: tiny_checkpoint)
    result = run(*compress_tiny(tmp_path / "store", "--model", str(folder), "--dry-run"))
    assert result.exit_code == 0, result.output
    assert f"  note: {folder} holds an adapter: it is merged into its base model a-base\n" in result.stdout


def test_compress_refuses_unlabelled_rows_without_a_teacher_to_answer(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("another film\n")
    given = ["--unlabeled", tmp_path / "more.txt"]
    refused(*given, "--set", "distillation=null", code=2, message="add --set distillation.logits=1")
    one_shot = ["--set", "student.start=teacher", "--set", "distillation=null", "--set", "student.epochs=0"]
    refused(*given, *one_shot, code=2, message="trains no student")
    refused("--unlabeled", tmp_path / "missing.csv", code=2, message="missing.csv does not exist")


def test_compress_refuses_wrong_data(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "one.csv"
    path.write_text("text,label\n" + "".join(f"text {i},same\n" for i in range(40)))
    refused("--data", path, code=2, message="only the label 'same'")
    refused("--data", tmp_path / "missing.csv", code=2, message="does not exist")
    refused("--label-column", "labels", code=2, message="has no column 'labels'")


@pytest.fixture
def teacher(tiny_store: Path) -> Path:
    """A checkpoint that is fine-tuned on the tiny task."""
    dense = tiny_store / "tiny" / "dense"
    return dense / (dense / "current").read_text().strip() / "checkpoint"


def test_compress_refuses_a_teacher_of_other_labels(refused: Refused, teacher: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("text,label\n" + "".join(f"text {i},{'spam' if i % 2 else 'ham'}\n" for i in range(40)))
    refused("--teacher", teacher, "--data", path, code=2, message="negative, positive, but the data has ham, spam")


def test_compress_refuses_a_teacher_of_another_shape_but_learns_from_one_of_another_vocabulary(
    refused: Refused, compress_tiny: CommandLine, teacher: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    refused(
        "--teacher", tiny_checkpoint, code=2, message="give it as --model, and a teacher will be fine-tuned from it"
    )
    copy = shutil.copytree(teacher, tmp_path / "other")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    refused("--teacher", copy, code=2, message="of the saved weights have no place in the network")
    weights = {name: weight for name, weight in load_file(copy / WEIGHTS).items() if "layer.1" not in name}
    save_file(weights, copy / WEIGHTS, metadata={"format": "pt"})
    refused("--teacher", copy, code=2, message="the student has 2 layers and its teacher 1")
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["extra"] = len(tokenizer["model"]["vocab"])
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    refused("--teacher", copy, code=2, message="take the tokenizer that it was trained with")
    tokenizer["model"]["vocab"]["extra"] = tokenizer["model"]["vocab"].pop("movie")
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    result = run(*compress_tiny(tmp_path / "store", "--teacher", str(copy), "--dry-run"))
    assert result.exit_code == 0, result.output
    assert "its logits teach the dense variant and then the student" in " ".join(result.stdout.split())
    assert "predict bigger teacher" in result.stdout


def test_compress_needs_a_model_beside_a_teacher_of_another_architecture(teacher: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(teacher, tmp_path / "rembert")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "rembert"}))
    result = run("compress", "demo", "--teacher", copy, "--store", tmp_path / "store")
    assert result.exit_code == 2, result.output
    assert "add --model with the checkpoint of the student" in " ".join(result.stderr.split())


def test_compress_prints_its_guess_for_unnamed_labels(
    compress_tiny: CommandLine, teacher: Path, tmp_path: Path
) -> None:
    def guesses(folder: Path) -> bool:
        result = run(*compress_tiny(tmp_path / "store", "--teacher", folder, "--dry-run"))
        assert result.exit_code == 0, result.output
        return "have no names. Assumed: LABEL_0 for negative, LABEL_1 for positive." in " ".join(result.output.split())

    copy = shutil.copytree(teacher, tmp_path / "unnamed")
    config = json.loads((copy / "config.json").read_text())
    config |= {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}
    (copy / "config.json").write_text(json.dumps(config))
    assert guesses(copy) and not guesses(teacher)


def test_compress_renames_labels(compress_tiny: CommandLine, refused: Refused, teacher: Path, tmp_path: Path) -> None:
    rows = [f"the {'good' if i % 2 else 'bad'} movie {i},{i % 2}" for i in range(60)]
    (tmp_path / "numbers.csv").write_text("\n".join(["text,label", *rows]))
    given: list[str | Path] = ["--teacher", teacher, "--data", tmp_path / "numbers.csv"]
    offer = "add --label-map 0=negative --label-map 1=positive"
    refused(*given, code=2, message=offer)
    result = run(*compress_tiny(tmp_path / "store", *map(str, given), *offer.split()[1:], "--dry-run"))
    assert result.exit_code == 0, result.output
    assert "labels: negative 30 (50 %), positive 30 (50 %)" in result.output
    refused(*given, "--label-map", "2=b", code=2, message="the data has no label '2'. Its labels: 0, 1.")
    refused(*given, "--label-map", "0=1", code=2, message="has only the label '1'")
    refused(*given, "--label-map", "0", code=2, message="write it as old=new")
    refused(*given, "--label-map", "0=a", "--label-map", "0=b", code=2, message="'0' has a new name already")


def test_compress_refuses_texts_longer_than_the_positions(
    refused: Refused, make_checkpoint: Callable[..., Path]
) -> None:
    refused("--set", "max_length=128", code=2, message="positions for 72: add --set max_length=72")
    refused("--model", make_checkpoint("roberta"), "--set", "max_length=72", code=2, message="positions for 71")


def test_compress_refuses_invalid_names(refused: Refused) -> None:
    refused("--task", "../up", code=2, message="cannot be the name of a task")
    refused("--variant", "Sparse 90", code=2, message="cannot be the name of a variant")


def test_compress_reports_a_file_in_place_of_the_store(compress_tiny: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    result = run(*compress_tiny(tmp_path / "store"))
    assert result.exit_code == 4
    assert "is in the way" in " ".join(result.stderr.split())


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root writes everywhere")
def test_compress_reports_a_store_that_is_not_writable(compress_tiny: CommandLine, tmp_path: Path) -> None:
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


def test_compress_reports_a_full_disk_and_publishes_nothing(
    compress_tiny: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sparserve.models.pipeline.stages.teacher.train_teacher", full)
    result = run(*compress_tiny(tmp_path / "store"))
    assert result.exit_code == 4
    assert "the disk is full" in result.stderr
    assert not list((tmp_path / "store").glob("tiny*"))


@pytest.mark.parametrize("format", ["table", "json", "markdown", "html"])
def test_report_has_four_formats(tiny_store: Path, format: str) -> None:
    result = run("report", "tiny", "--store", tiny_store, "--format", format)
    assert result.exit_code == 0
    assert "sparse60-int8" in result.output
    if format == "json":
        assert json.loads(result.stdout)["task"] == "tiny"


def test_report_writes_a_file(tiny_store: Path, tmp_path: Path) -> None:
    result = run("report", "tiny", "--store", tiny_store, "--format", "markdown", "--output", tmp_path / "report.md")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "sparse60-int8" in (tmp_path / "report.md").read_text()


def test_report_of_an_unknown_task(tmp_path: Path) -> None:
    result = run("report", "tiny", "--store", tmp_path)
    assert result.exit_code == 3
    assert "no task 'tiny'" in result.stderr


def test_recipes_lists_recipes_and_goals() -> None:
    result = run("recipes")
    assert result.exit_code == 0
    assert all(word in result.output for word in ("sparsebert-best", "balanced", "no-training"))


def test_compress_refuses_a_goal_with_a_recipe(refused: Refused) -> None:
    refused("--goal", "fastest", code=2, message="Leave one out: the goal stands for the recipe 'squeeze-sparsify'")


@pytest.mark.parametrize(
    ("options", "recipe"),
    [
        ([], "sparsebert-best"),
        (["--goal", "balanced"], "sparsebert-best"),
        (["--goal", "no-training"], "post-training"),
    ],
)
def test_compress_chooses_a_recipe_by_goal(
    compress_tiny: CommandLine, tmp_path: Path, options: list[str], recipe: str
) -> None:
    command, _, *given = compress_tiny(tmp_path / "store", "--dry-run", "--set", "max_length=32", *options)
    result = run(command, *given)
    assert result.exit_code == 0, result.output
    assert f"Recipe {recipe}: " in result.stdout
    # The tiny data and network are smaller than what the recipe's settings are for.
    adapted = recipe == "sparsebert-best"
    assert ("The rows are few: the student passes over them 40 times, not 4" in result.stdout) is adapted
    assert ("for a hidden size of 384: the student has 0.024, not 0.002" in result.stdout) is adapted


def test_compress_names_the_extra_that_is_missing(compress_tiny: CommandLine, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from sparserve.cli import main; "
        f"sys.argv = ['sparserve', *{compress_tiny(tmp_path / 'store')!r}]; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1
    assert 'needs torch, which is not installed. Run: pip install "sparserve[compress]"' in done.stderr


def test_compress_can_be_interrupted(
    compress_tiny: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sparserve.models.pipeline.job.prepare", interrupt)
    result = run(*compress_tiny(tmp_path / "store"))
    assert result.exit_code == 130
    assert result.stderr == "\nInterrupted. Run the same command again to resume.\n"


def test_compress_without_data_recipe_or_goal_names_the_way_out() -> None:
    result = run("compress")
    assert result.exit_code == 2
    assert "sparserve compress --data reviews.csv" in result.stderr
