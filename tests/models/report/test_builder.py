"""Figures and findings of the report of a task, and reports of incomplete bundles."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import tests.support.tiny_bundles
from sparserve.models.bundle.bundle import MANIFEST
from sparserve.models.bundle.manifest import Interval, TeacherTraining, TrainingSettings
from sparserve.models.bundle.store import Store
from sparserve.models.errors import StoreError
from sparserve.models.report.builder import build_report, to_html, to_markdown, write_report
from sparserve.models.report.findings import findings, warnings
from sparserve.models.report.plots import plots
from sparserve.models.report.schema import Report
from tests.support.models.reports import LABELS, MACHINE, TASK, measurement, printed, publish_variants, sparsity


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return publish_variants(tmp_path)


@pytest.fixture
def report(store: Store) -> Report:
    return build_report(store, TASK)


def test_build_report_has_one_row_per_variant_dense_first(report: Report) -> None:
    assert [row.variant for row in report.variants] == ["dense", "dense-int8", "sparse90", "sparse90-int8"]
    variants: Any = report.variants
    dense, _, sparse, sparse_int8 = variants
    assert (dense.ratios.bytes, dense.ratios.flops) == (1, 10)
    assert sparse.encoder_linear.sparsity == 0.9
    assert sparse.whole_model.sparsity == 0.45
    assert report.cell == (1, 64)
    speed = sparse_int8.speed((8, 16))
    assert (speed.speedup, speed.speedup_int8) == (pytest.approx(2), pytest.approx(1))
    assert sparse.evaluation.agreement.accuracy_kept.value == 0.9
    assert [(m.layer, m.matrix) for m in sparse.matrices][:2] == [(0, "attention.self.query"), (0, "output.dense")]


def test_report_json_matches_schema_and_round_trips(report: Report) -> None:
    document = json.loads(report.model_dump_json())
    jsonschema.validate(document, Report.model_json_schema(mode="serialization"))
    assert document["schema_version"] == 1
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_report_warns_of_a_weak_teacher(report: Report) -> None:
    assert warnings(report) == []
    dense, *others = report.variants
    settings = TrainingSettings(learning_rate=5e-5, epochs=4, batch_size=32)
    rising = TeacherTraining(settings=settings, epochs=4, best_epoch=4, scores=(0.5, 0.7), still_rising=True)
    assert dense.evaluation is not None
    accuracy = Interval(value=0.52, low=0.45, high=0.6)
    weak = dense.model_copy(
        update={
            "teacher_training": rising,
            "evaluation": dense.evaluation.model_copy(update={"accuracy": accuracy}),
        }
    )
    unconverged, barely = warnings(report.model_copy(update={"variants": (weak, *others)}))
    assert "still rose at the end of 4 epochs" in unconverged and "teacher: auto" in unconverged
    assert "barely better than the most frequent label" in barely
    assert findings((weak, *others))[:2] == [unconverged, barely]


def test_write_report_writes_all_formats(store: Store) -> None:
    written = write_report(store, TASK)
    assert Report.model_validate_json(store.report_path(TASK, "json").read_bytes()) == written
    assert store.report_path(TASK, "markdown").read_text(encoding="utf-8") == to_markdown(written)
    assert store.report_path(TASK, "html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert not list((store.root / TASK).glob(".tmp-*"))


def test_findings_match_figures(report: Report) -> None:
    found = " ".join(report.findings).replace("\u00a0", " ")
    assert (
        "sparse90 runs at 1.00x the speed of fp32 dense (geometric mean over the grid): stock ONNX Runtime multiplies"
        in found
    )
    assert "sparse90-int8 runs at 2.00x the speed of fp32 dense" in found
    assert "comes from quantisation, not from its zeros" in found
    assert "sparse90 keeps 90.0 % of the accuracy of dense" in found
    assert "the loss is statistically significant" in found
    assert "dense-int8 keeps 100.0 % of the accuracy of dense" in found
    assert "the difference is not statistically significant" in found


def test_findings_of_runtime_that_skips_zeros(store: Store) -> None:
    fast = tests.support.tiny_bundles.publish(
        store, variant="sparse95", labels=LABELS, sparsity=sparsity(0.95), measurement=measurement(0.001)
    )
    found = " ".join(build_report(store, TASK).findings)
    assert fast.manifest.variant in found
    assert "sparse95 runs at 10.00x the speed of fp32 dense (geometric mean over the grid) and at 5.00x" in found
    assert "sparse95 was not evaluated." in found


def test_findings_separate_sessions_machines_and_data(store: Store) -> None:
    later = measurement(0.01, "2026-02-02T00:00:00+00:00")
    tests.support.tiny_bundles.publish(store, variant="later", labels=LABELS, measurement=later)
    assert any("several sessions" in finding for finding in build_report(store, TASK).findings)
    elsewhere = later.model_copy(update={"machine": MACHINE.model_copy(update={"cpu": "Another CPU"})})
    lineage = tests.support.tiny_bundles.manifest().lineage.model_copy(update={"data_digest": "1" * 64})
    tests.support.tiny_bundles.publish(
        store, variant="elsewhere", labels=LABELS, measurement=elsewhere, lineage=lineage
    )
    found = build_report(store, TASK)
    assert any("different machines" in finding for finding in found.findings)
    assert any("different data" in finding for finding in found.findings)
    assert "Another CPU" in to_html(found)
    assert "Another CPU" in to_markdown(found)


def test_findings_name_stale_reference(store: Store) -> None:
    tests.support.tiny_bundles.publish(store, variant="dense", labels=LABELS, architecture="newer")
    assert any("is not the current version" in finding for finding in build_report(store, TASK).findings)


def test_report_without_dense_and_measurement(tmp_path: Path) -> None:
    store = Store(tmp_path)
    tests.support.tiny_bundles.publish(store, variant="sparse90")
    bare = build_report(store, TASK)
    assert bare.cell is None
    assert "There is no dense variant" in bare.findings[0]
    assert "sparse90 was not measured." in bare.findings
    assert plots(bare) == {}
    page = to_html(bare)
    assert "plotly" not in page.lower()
    assert "sparse90" in to_markdown(bare)
    assert "sparse90" in printed(bare)


def test_report_omits_and_names_unreadable_bundle(store: Store) -> None:
    (store.folder(TASK, "sparse90") / MANIFEST).write_text("{")
    found = build_report(store, TASK)
    assert "sparse90" not in [row.variant for row in found.variants]
    assert "sparse90 is not in this report" in found.findings[-1]


def test_build_report_without_bundles_raises(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no task 'other'"):
        build_report(store, "other")
    for variant in store.variants(TASK):
        (store.folder(TASK, variant) / MANIFEST).write_text("{")
    with pytest.raises(StoreError, match="is readable"):
        build_report(store, TASK)


def test_report_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, sparserve.models.report.builder, sparserve.models.report.model_card, "
        "sparserve.models.report.plots, sparserve.models.evaluation.latency, sparserve.models.evaluation.scores; "
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
