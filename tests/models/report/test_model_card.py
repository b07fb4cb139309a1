import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard

import tests.support.tiny_bundles
from sparserve.models.bundle.manifest import LatencyPoint, Machine, Measurement, Packed, SparseMeasurement
from sparserve.models.evaluation.scores import compare_with_reference, evaluate
from sparserve.models.report.model_card import model_card

LABELS = ("neg|ative\n", "<script>alert(1)</script>")


def manifest(**changes: Any) -> Any:
    labels = np.arange(40) % 2
    logits = np.where(labels[:, None] == np.arange(2), 1, -1).astype(np.float32)
    options: Any = {"label_names": LABELS, "problem_type": "single_label_classification", "bootstrap_samples": 100}
    rows: Any = {"texts": ["a text"] * 40, "reference_version": "0" * 16}
    evaluation = evaluate(logits, labels, **options)
    evaluation = compare_with_reference(evaluation, logits, logits, labels, **rows, **options)
    machine = Machine(cpu="A CPU", isa=(), cores=2, memory_bytes=1, system="Linux", python="3.11", onnxruntime="1.31")
    point = LatencyPoint(
        batch=1, length=64, p50_seconds=0.01, p95_seconds=0.02, items_per_second=100, dense_p50_seconds=0.02
    )
    measurement = Measurement(
        measured_at="2026", machine=machine, threads=2, repeats=7, resident_bytes=10**8, latency=(point,)
    )
    lineage = tests.support.tiny_bundles.manifest().lineage.model_copy(
        update={"base_checkpoint": "someone/a-model", "data_source": "someone/a-set", "libraries": {"torch": "2.13.0"}}
    )
    fields: Any = {
        "variant": "sparse90",
        "labels": LABELS,
        "evaluation": evaluation,
        "measurement": measurement,
        "lineage": lineage,
        "recipe": {"name": "a recipe", "description": "yes: *no*"},
    } | changes
    return tests.support.tiny_bundles.manifest(**fields)


def front(card: str) -> Any:
    _, head, _ = card.split("---\n", 2)
    return yaml.safe_load(head)


def test_front_matter_is_valid_for_hub() -> None:
    card = ModelCard(model_card(manifest(), base_model="someone/a-model", data_set="someone/a-set"))
    data: Any = card.data
    assert (data.library_name, data.pipeline_tag, data.base_model) == ("onnx", "text-classification", "someone/a-model")
    assert data.datasets == ["someone/a-set"]
    assert data.model_name == "movie-sentiment/sparse90"
    results = {result.metric_type: result for result in data.eval_results}
    assert set(results) == {"accuracy", "f1", "matthews_correlation"}
    assert results["accuracy"].metric_value == 1.0
    assert results["accuracy"].dataset_type == "someone/a-set"
    assert results["accuracy"].task_type == "text-classification"
    assert {"pruned", "fp32"} <= set(data.tags)


def test_model_card_claims_no_licence() -> None:
    card = model_card(manifest())
    assert "license" not in front(card)
    assert "No licence is stated" in card


@pytest.mark.parametrize("name", ["/home/me/model", "../model", "C:\\model", "a/b/c", "reviews of mine.csv: v2"])
def test_front_matter_omits_local_paths(name: Any) -> None:
    lineage = manifest().lineage.model_copy(update={"base_checkpoint": name, "data_source": name})
    data = front(model_card(manifest(lineage=lineage), base_model=name, data_set=name))
    assert "base_model" not in data
    assert "datasets" not in data


@pytest.mark.parametrize("name", ["train.csv", "bert", "reviews", "someone/a-set"])
def test_front_matter_gives_local_files_no_hub_ids(name: str) -> None:
    lineage = manifest().lineage.model_copy(update={"base_checkpoint": name, "data_source": name})
    card = model_card(manifest(lineage=lineage))
    data = front(card)
    assert "base_model" not in data and "datasets" not in data
    assert data["model-index"][0]["results"][0]["dataset"] == {"name": name, "type": "unknown", "split": "test"}
    assert f"Data: {name}" in card


def test_model_card_of_unevaluated_bundle() -> None:
    card = model_card(manifest(evaluation=None, measurement=None, recipe={}))
    assert "model-index" not in front(card)
    assert "Not evaluated." in card


def test_tables_of_the_model_card_begin_after_an_empty_line() -> None:
    bundle = manifest()
    assert bundle.measurement is not None
    latency = bundle.measurement.latency
    sparse = SparseMeasurement(
        isa="avx2", rows=40, accuracy=1.0, same_labels=1.0, largest_difference=0.0, resident_bytes=1,
        latency=latency, faster_at=((1, 64),), preferred=True,
    )  # fmt: skip
    packed = Packed(
        format_version=1, opset_version=1, values="fp32", bytes=1, encoder_bytes=1, index_bytes=1, value_bytes=1,
        layouts={}, first_token_only=True,
    )  # fmt: skip
    bundle = manifest(measurement=bundle.measurement.model_copy(update={"sparse": sparse}), packed=packed)
    lines = model_card(bundle).splitlines()
    begins = [number for number, line in enumerate(lines[1:], 1) if line[:1] == "|" and lines[number - 1][:1] != "|"]
    assert len(begins) == 4
    assert [lines[number - 1] for number in begins] == [""] * 4


def test_model_card_is_independent_of_version() -> None:
    before = manifest()
    assert model_card(before) == model_card(before.model_copy(update={"version": "f" * 16}))


def test_model_card_escapes_labels() -> None:
    body = model_card(manifest()).split("---\n", 2)[2]
    assert "<script>" not in body
    for table in re.findall(r"(?:^\|.*\n)+", body, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table
    assert not re.search(r"\n{4,}", body)


def test_model_card_states_usage_and_limits() -> None:
    card = model_card(manifest())
    assert "/v1/models/movie-sentiment/sparse90/classify" in card
    assert "Stock ONNX Runtime multiplies by the zeros" in card
    assert "quantised at run time" not in card
    dense_int8 = model_card(manifest(variant="dense-int8", precision="int8", sparsity=dense_sparsity()))
    assert "quantised at run time" in dense_int8
    assert "multiplies by the zeros" not in dense_int8


def dense_sparsity() -> Any:
    counted = tests.support.tiny_bundles.manifest().sparsity
    return counted.model_copy(
        update={"tensors": tuple(t.model_copy(update={"pattern": "dense"}) for t in counted.tensors)}
    )


def test_model_card_python_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.onnx").write_bytes(tests.support.tiny_bundles.graph())
    (tmp_path / "tokenizer.json").write_bytes(tests.support.tiny_bundles.tokenizer_json())
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", model_card(manifest()), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["logits"].shape == (1, 2)


def test_model_card_of_a_reranker_sends_pairs() -> None:
    card = model_card(
        manifest(labels=("relevance",), problem_type="multi_label_classification", inputs="pair", evaluation=None)
    )
    assert '{"inputs": [{"text": "a text", "text_pair": "its second text"}]}' in card
    assert 'tokenizer.encode("a text", "its second text")' in card
    assert "`logits` is [1, 1], the relevance; apply sigmoid." in card
