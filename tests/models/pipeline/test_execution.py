"""The whole job on a tiny model, through its command line."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from fastapi.testclient import TestClient
from onnx import numpy_helper
from safetensors.torch import load_file
from transformers import pipeline
from typer.testing import CliRunner

from sparserve.cli import app
from sparserve.compression import job_options
from sparserve.models.bundle.inference import load_bundle
from sparserve.models.bundle.store import Store
from sparserve.models.errors import InputError
from sparserve.models.pipeline.job import prepare
from sparserve.models.progress import PlainReporter
from sparserve.service.app import create_app
from sparserve.service.settings import Settings
from sparserve.termination import EXIT_CODE
from tests.support import tiny_bundles

CommandLine = Callable[..., list[str]]
VARIANTS = ["dense", "dense-int8", "sparse60", "sparse60-int8"]


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_memory_processes")]


def versions(store: Path) -> dict[str, str]:
    return {variant: Store(store).current("tiny", variant) for variant in Store(store).variants("tiny")}


def test_compress_publishes_dense_and_sparse_in_both_precisions(tiny_store: Path) -> None:
    store = Store(tiny_store)
    assert store.tasks() == ["tiny"]
    assert store.variants("tiny") == VARIANTS
    assert store.default_variant("tiny") == "sparse60-int8"
    for variant in VARIANTS:
        manifest = store.open("tiny", variant).manifest
        assert (manifest.labels, manifest.inputs) == (("negative", "positive"), "single")
        assert manifest.evaluation is not None and manifest.measurement is not None
        assert manifest.evaluation.rows == 12
        assert {point.length for point in manifest.measurement.latency} == {8}
        assert manifest.precision == ("int8" if variant.endswith("int8") else "fp32")


def test_manifest_counts_the_nonzeros_of_the_graph(tiny_store: Path) -> None:
    bundle = Store(tiny_store).open("tiny", "sparse60")
    sparsity = bundle.manifest.sparsity
    assert sparsity.encoder_linear.parameters == 2 * (4 * 32 * 32 + 2 * 32 * 48)
    assert sparsity.encoder_linear.sparsity == pytest.approx(0.6, abs=0.001)
    assert Store(tiny_store).open("tiny", "dense").manifest.sparsity.encoder_linear.sparsity == 0
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(bundle.model_path).graph.initializer}
    for tensor in sparsity.tensors:
        assert np.count_nonzero(stored[tensor.name]) == tensor.nonzero
    (prop,) = onnx.load(bundle.model_path).metadata_props
    assert json.loads(prop.value)["encoder_linear"]["nonzero"] == sparsity.encoder_linear.nonzero


def test_bundle_contains_a_checkpoint_to_train_on(tiny_store: Path) -> None:
    folder = Store(tiny_store).open("tiny", "sparse60").folder / "checkpoint"
    plan = json.loads((folder / "pruning.json").read_text())
    weights = load_file(folder / "model.safetensors")
    assert len(plan["matrices"]) == 12
    for name in plan["matrices"]:
        weight = weights[f"{name}.weight"]
        assert int((weight == 0).sum()) == round(0.6 * weight.numel())
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "tokenizer.json"} <= names
    assert not any(name.endswith((".bin", ".pt", ".pth", ".pkl")) for name in names)


def test_manifest_sample_matches_the_graph(tiny_store: Path) -> None:
    for variant in VARIANTS:
        bundle = Store(tiny_store).open("tiny", variant)
        loaded = load_bundle(bundle, threads=1)
        for sample in bundle.manifest.sample:
            (logits,) = loaded.classifier.logits(loaded.tokenizer.encode([sample.text]))
            np.testing.assert_allclose(logits, sample.logits, atol=2e-5)


def test_bundle_names_no_path_of_the_machine(tiny_store: Path, tiny_checkpoint: Path) -> None:
    for path in tiny_store.glob("tiny/*/*/**/*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(tiny_checkpoint.parent).encode() not in content, path
            assert b"site-packages" not in content, path


def test_compress_again_repeats_no_step(tiny_store: Path, compress_tiny: CommandLine) -> None:
    before = versions(tiny_store)
    result = CliRunner().invoke(app, compress_tiny(tiny_store), catch_exceptions=False)
    assert result.exit_code == 0
    assert "done in" not in result.output
    assert versions(tiny_store) == before


def test_compress_at_another_sparsity_reuses_the_teacher(tiny_store: Path, compress_tiny: CommandLine) -> None:
    command = compress_tiny(tiny_store, "--sparsity", "0.8", "--dry-run", "--json")
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    events = [json.loads(line) for line in result.output.splitlines()]
    plan = {e["value"]["step"]: e["value"]["cached"] for e in events if e.get("name") == "plan"}
    assert plan["teacher"] and plan["teacher outputs"] and plan["export dense"] and plan["predict dense-int8"]
    assert not plan["student"] and not plan["export sparse80"]
    assert Store(tiny_store).variants("tiny") == VARIANTS, "a dry run published something"


@pytest.mark.thorough
def test_compress_resumes_after_sigterm_and_kill_9_with_the_same_bundles(
    tiny_store: Path, compress_tiny: CommandLine, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "sparserve", *compress_tiny(store, "--json")]
    chance = random.Random(0)
    # In a training, as soon as a checkpoint begins to be written: it may be whole by the signal, or cut short.
    moments = {
        "teacher": (f"checkpoint-{chance.choice((20, 40))}", signal.SIGTERM),
        "student": (f"checkpoint-{chance.choice((10, 20, 30))}", signal.SIGKILL),
        "predict sparse60": (None, signal.SIGKILL),
    }
    for moment, (checkpoint, sent) in moments.items():
        with (
            (tmp_path / "errors").open("w+") as errors,
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                event = json.loads(line)
                if event["event"] == "begin" and event["step"] == moment:
                    pattern = f".{moment}-*.unfinished/training/{checkpoint}"
                    while checkpoint and not list((store / ".work" / "steps").glob(pattern)):
                        assert process.poll() is None, "it ended before it was stopped"
                    process.send_signal(sent)
                    break
            for _ in process.stdout:
                pass
        said = (tmp_path / "errors").read_text()
        if sent == signal.SIGTERM:
            assert process.returncode == EXIT_CODE, said
            assert said.endswith("\nStopped by SIGTERM. Run the same command again to resume.\n")
            assert "Traceback" not in said
            assert list((store / ".work" / "steps").glob(".*.unfinished"))
        else:
            assert process.returncode == -signal.SIGKILL, said
        assert Store(store).tasks() == []
    result = CliRunner().invoke(app, compress_tiny(store), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert versions(store) == versions(tiny_store)
    assert not list(store.rglob(".tmp-*"))


def test_compress_publishes_without_packed_file_if_packing_fails(
    tiny_checkpoint: Path, tiny_recipe: Path, sentiment_csv: Path, tmp_path: Path
) -> None:
    checkpoint = shutil.copytree(tiny_checkpoint, tmp_path / "quick-gelu-bert")
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "hidden_act": "quick_gelu"}))
    short = ("teacher.epochs=0.1", "student.epochs=0.1", "quantization.enabled=false", "distillation=null")
    command = ["compress", str(tiny_recipe), "--model", str(checkpoint), "--data", str(sentiment_csv), "--threads", "1"]
    command += ["--store", str(tmp_path / "store"), "--task", "tiny", *(x for o in short for x in ("--set", o))]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "sparse60 has no model.sparse.onnx: The sparse runtime does not support" in result.output
    manifest = Store(tmp_path / "store").open("tiny", "sparse60").manifest
    assert manifest.packed is None
    assert manifest.measurement is not None and manifest.measurement.sparse is None


def test_compress_of_multi_label_pairs_and_a_given_teacher(
    tiny_checkpoint: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [
        {
            "premise": f"the good movie {i}",
            "hypothesis": f"a plot {i % 7}",
            "labels": (["a"] * (i % 2) + ["b"] * (i % 3 == 0)),
        }
        for i in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    common = [
        "--data",
        str(path),
        "--store",
        str(tmp_path / "store"),
        "--threads",
        "1",
        "--set",
        "quantization.enabled=false",
    ]
    short = ["--set", "teacher.epochs=1", "--set", "student.epochs=1", "--set", "distillation=null"]
    command = ["compress", str(tiny_recipe), "--model", str(tiny_checkpoint), *common, *short]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    store = Store(tmp_path / "store")
    assert store.variants("pairs") == ["dense", "dense-int8", "sparse60"]
    bundle = store.open("pairs", "sparse60")
    assert bundle.manifest.problem_type == "multi_label_classification"
    loaded = load_bundle(bundle, threads=1)
    assert loaded.classifier.logits(loaded.tokenizer.encode(["the movie"], ["a plot"])).shape == (1, 2)

    teacher = store.open("pairs", "dense").folder / "checkpoint"
    command = ["compress", str(tiny_recipe), "--teacher", str(teacher), *common, *short, "--dry-run"]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "given teacher  " in result.output
    assert "\n  teacher  " not in result.output, "a teacher that was given is not trained"


def test_compress_of_a_reranker_ranks_the_test_queries(
    tiny_checkpoint: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    path = tmp_path / "search.csv"
    words = ("good", "bad", "fine")
    lines = [
        f"{words[row % 3]} film {row // 5},the {words[row * 7 % 5 % 3]} plot {row},{row * 7 % 5 % 3}"
        for row in range(150)
    ]
    path.write_text("\n".join(["query,passage,grade", *lines]) + "\n", encoding="utf-8")
    fields = {"teacher.epochs": 1, "student.epochs": 1, "distillation.attention": 0, "measurement.seconds": 0.1}
    command = ["compress", str(tiny_recipe), "--model", str(tiny_checkpoint), "--data", str(path), "--threads", "1"]
    command += ["--label-column", "grade", "--head", "relevance", "--store", str(tmp_path / "store")]
    command += [part for name, value in fields.items() for part in ("--set", f"{name}={value}")]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "relevance: from 0 to 1" in result.output
    manifest = Store(tmp_path / "store").open("search", "sparse60-int8").manifest
    assert (manifest.labels, manifest.problem_type) == (("relevance",), "multi_label_classification")
    assert manifest.evaluation is None
    assert manifest.score_evaluation is not None
    assert manifest.score_evaluation.ranking is not None and manifest.score_evaluation.agreement is not None
    report = (tmp_path / "store" / "search" / "report.md").read_text()
    assert "nDCG@10" in report and "## Accuracy" not in report
    pairs = [("good film", "the bad plot"), ("bad film 3", "the good plot"), ("fine", "a")]
    # As most rerankers are saved, without a problem type, the score is a sigmoid too.
    assert_scores_are_the_pipelines(Store(tmp_path / "store"), "search", pairs, (manifest.problem_type, None))


def test_compress_of_a_regression_has_correlations_and_the_scores_of_the_pipeline(
    tiny_checkpoint: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    path, words = tmp_path / "ratings.csv", ("bad", "fine", "good")
    lines = [f"the {words[row % 3]} film {row},{row % 3 - 1.25}" for row in range(90)]
    path.write_text("\n".join(["text,rating", *lines]) + "\n", encoding="utf-8")
    fields = {"teacher.epochs": 1, "student.epochs": 1, "distillation": "null", "measurement.seconds": 0.1}
    command = ["compress", str(tiny_recipe), "--model", str(tiny_checkpoint), "--data", str(path), "--threads", "1"]
    command += ["--head", "number", "--store", str(tmp_path / "store")]
    command += [part for name, value in fields.items() for part in ("--set", f"{name}={value}")]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    store = Store(tmp_path / "store")
    manifest = store.open("ratings", "sparse60").manifest
    assert (manifest.labels, manifest.problem_type) == (("score",), "regression")
    figures = manifest.score_evaluation
    assert figures is not None and figures.ranking is None and figures.pearson.value != 0
    agreement = figures.agreement
    assert agreement is not None and agreement.reference == store.current("ratings", "dense")
    assert 0 < agreement.same_order.value <= 1
    texts: list[tuple[str, str | None]] = [
        ("the bad film", None),
        ("good nul \x00 \U0001f600", None),
        ("word " * 50, None),
    ]
    assert_scores_are_the_pipelines(store, "ratings", texts, ("regression",))


def assert_scores_are_the_pipelines(
    store: Store, task: str, rows: Sequence[tuple[str, str | None]], problem_types: tuple[str | None, ...]
) -> None:
    """Check the scores that the service has of `dense` against the pipeline's with its checkpoint."""
    inputs = [text if pair is None else {"text": text, "text_pair": pair} for text, pair in rows]
    service = create_app(Settings(store=store.root, threads=1, runtime="onnx"))
    with TestClient(service) as client:
        assert client.portal
        client.portal.call(service.state.service.loaded)
        answer = client.post(f"/v1/models/{task}/dense/classify", json={"inputs": inputs})
    served = [one["score"] for (one,) in answer.json()["predictions"]]
    folder = store.open(task, "dense").folder / "checkpoint"
    reference = pipeline("text-classification", model=str(folder), device="cpu")
    for problem_type in problem_types:
        reference.model.config.problem_type = problem_type
        answers = [reference(text, top_k=1, truncation=True, max_length=32) for text in inputs]
        assert served == pytest.approx([one["score"] for (one,) in answers], abs=1e-5)


def test_job_compares_labels_again_before_it_publishes(
    tiny_store: Path, tiny_recipe: Path, tiny_checkpoint: Path, sentiment_csv: Path, tmp_path: Path
) -> None:
    work = shutil.copytree(tiny_store / ".work", tmp_path / "store" / ".work")  # every step is cached
    run = prepare(
        job_options(
            sentiment_csv, recipe=tiny_recipe, model=tiny_checkpoint, task="tiny", store=work.parent, threads=1
        ),
        PlainReporter(),
    )
    tiny_bundles.publish(run.store, "tiny", labels=("down", "up"))  # another job was faster
    with pytest.raises(InputError, match=r"tiny/dense in .* has the labels down, up"):
        run.execute(PlainReporter())
    assert run.store.variants("tiny") == ["dense"]
    assert run.store.open("tiny", "dense").manifest.labels == ("down", "up")
