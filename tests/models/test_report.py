import json
import re
import subprocess
import sys

import jsonschema
import numpy as np
import plotly.graph_objects as go
import pytest
import tiny_bundles
from rich.console import Console

from models.bundle import MANIFEST
from models.errors import StoreError
from models.evaluation import compare_with_reference, evaluate
from models.manifest import Density, LatencyPoint, Machine, Measurement, Sparsity, TensorSparsity
from models.plots import matrix_title, plots
from models.report import build_report, terminal_table, to_html, to_markdown, write_report
from models.report_schema import Report
from models.store import Store
from models.templates import markdown_text, milliseconds, quantity

TASK = tiny_bundles.TASK
ATTACK = "<script>alert('x')</script> | a\n\npipe & `code` </script>"
LABELS = ("negative", "<b>posi|tive</b>")
MACHINE = Machine(
    cpu="A CPU",
    isa=("avx2",),
    cores=2,
    memory_bytes=2**34,
    system="Linux 6.1 x86_64",
    python="3.11",
    onnxruntime="1.31",
)


def measurement(seconds: float, measured_at: str = "2026-01-01T00:00:00+00:00") -> Measurement:
    """As fast as `seconds` at batch 1, against 10 ms of fp32 dense and 5 ms of int8 dense."""
    points = tuple(
        LatencyPoint(
            batch=batch,
            length=length,
            p50_seconds=seconds * batch,
            p95_seconds=1.2 * seconds * batch,
            items_per_second=1 / seconds,
            dense_p50_seconds=0.010 * batch,
            dense_int8_p50_seconds=0.005 * batch,
        )
        for batch in (1, 8)
        for length in (16, 64)
    )
    return Measurement(
        measured_at=measured_at, machine=MACHINE, threads=2, repeats=7, resident_bytes=10**8, latency=points
    )


def sparsity(zeros: float) -> Sparsity:
    """Two layers of two matrices, of which `zeros` are zero."""
    kept = round(100 * (1 - zeros))
    tensors = tuple(
        TensorSparsity(
            name=f"bert.encoder.layer.{layer}.{name}.weight",
            shape=(10, 10),
            nonzero=kept,
            pattern="unstructured" if zeros > 0.25 else "dense",
            bits=32,
            group="encoder_linear",
        )
        for layer in (0, 1)
        for name in ("attention.self.query", "output.dense")
    )
    encoder = Density(parameters=400, nonzero=4 * kept)
    whole = Density(parameters=800, nonzero=400 + 4 * kept)
    return Sparsity(encoder_linear=encoder, all_linear=encoder, whole_model=whole, tensors=tensors)


@pytest.fixture
def store(tmp_path) -> Store:
    """Four variants of a task; the pruned ones get every tenth row wrong, with texts and labels that attack."""
    store = Store(tmp_path)
    labels = np.arange(100) % 2
    right = np.where(labels[:, None] == np.arange(2), 2, -2).astype(np.float32)
    options = {"label_names": LABELS, "problem_type": "single_label_classification", "bootstrap_samples": 100}
    dense = None
    for variant, seconds in {"dense": 0.010, "dense-int8": 0.005, "sparse90": 0.010, "sparse90-int8": 0.005}.items():
        logits = right.copy()
        if "sparse" in variant:
            logits[::10] *= -1
        evaluation = evaluate(logits, labels, **options)
        if dense is not None:
            version = dense.manifest.version
            texts = [ATTACK] * 100
            evaluation = compare_with_reference(
                evaluation, logits, right, labels, texts=texts, text_pairs=texts, reference_version=version, **options
            )
        bundle = tiny_bundles.publish(
            store,
            variant=variant,
            labels=LABELS,
            precision="int8" if variant.endswith("int8") else "fp32",
            sparsity=sparsity(0.9 if "sparse" in variant else 0.0),
            evaluation=evaluation,
            measurement=measurement(seconds),
            recipe={"name": ATTACK, "pruning": {"sparsity": 0.9}},
        )
        dense = dense or bundle
    store.set_default_variant(TASK, "sparse90-int8")
    return store


@pytest.fixture
def report(store) -> Report:
    return build_report(store, TASK)


def test_there_is_one_row_a_variant_dense_first(report):
    assert [row.variant for row in report.variants] == ["dense", "dense-int8", "sparse90", "sparse90-int8"]
    dense, _, sparse, sparse_int8 = report.variants
    assert (dense.ratios.bytes, dense.ratios.flops) == (1, 10)
    assert sparse.encoder_linear.sparsity == 0.9
    assert sparse.whole_model.sparsity == 0.45
    assert report.cell == (1, 64)
    speed = sparse_int8.speed((8, 16))
    assert (speed.speedup, speed.speedup_int8) == (pytest.approx(2), pytest.approx(1))
    assert sparse.evaluation.agreement.accuracy_kept.value == 0.9
    assert [(m.layer, m.matrix) for m in sparse.matrices][:2] == [(0, "attention.self.query"), (0, "output.dense")]


def test_the_json_is_of_its_schema_and_reads_back(report):
    document = json.loads(report.model_dump_json())
    jsonschema.validate(document, Report.model_json_schema(mode="serialization"))
    assert document["schema_version"] == 1
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_the_files_are_written_where_the_store_wants_them(store):
    written = write_report(store, TASK)
    assert Report.model_validate_json(store.report_path(TASK, "json").read_bytes()) == written
    assert store.report_path(TASK, "markdown").read_text(encoding="utf-8") == to_markdown(written)
    assert store.report_path(TASK, "html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert not list((store.root / TASK).glob(".tmp-*"))


def test_findings_are_what_the_figures_say(report):
    found = " ".join(report.findings).replace("\u00a0", " ")
    assert (
        "sparse90 runs at 1.00x the speed of fp32 dense (geometric mean over the grid): stock ONNX Runtime multiplies"
        in found
    )
    assert "sparse90-int8 runs at 2.00x the speed of fp32 dense" in found
    assert "comes from quantisation, not from its zeros" in found
    assert "sparse90 keeps 90.0 % of dense's accuracy" in found
    assert "the loss is real" in found
    assert "dense-int8 keeps 100.0 % of dense's accuracy" in found
    assert "cannot be told from chance" in found


def test_a_runtime_that_skips_zeros_is_not_told_that_it_does_not(store):
    fast = tiny_bundles.publish(
        store, variant="sparse95", labels=LABELS, sparsity=sparsity(0.95), measurement=measurement(0.001)
    )
    found = " ".join(build_report(store, TASK).findings)
    assert fast.manifest.variant in found
    assert "sparse95 runs at 10.00x the speed of fp32 dense (geometric mean over the grid) and at 5.00x" in found
    assert "sparse95 was not evaluated." in found


def test_variants_of_different_sessions_machines_and_data_are_told_apart(store):
    later = measurement(0.01, "2026-02-02T00:00:00+00:00")
    tiny_bundles.publish(store, variant="later", labels=LABELS, measurement=later)
    assert any("more than one session" in finding for finding in build_report(store, TASK).findings)
    elsewhere = later.model_copy(update={"machine": MACHINE.model_copy(update={"cpu": "Another CPU"})})
    lineage = tiny_bundles.manifest().lineage.model_copy(update={"data_digest": "1" * 64})
    tiny_bundles.publish(store, variant="elsewhere", labels=LABELS, measurement=elsewhere, lineage=lineage)
    found = build_report(store, TASK)
    assert any("different machines" in finding for finding in found.findings)
    assert any("different data" in finding for finding in found.findings)
    assert "Another CPU" in to_html(found)
    assert "Another CPU" in to_markdown(found)


def test_a_stale_reference_is_told(store):
    tiny_bundles.publish(store, variant="dense", labels=LABELS, architecture="newer")
    assert any("is not the current one" in finding for finding in build_report(store, TASK).findings)


def test_what_is_missing_is_left_out_and_said(tmp_path):
    store = Store(tmp_path)
    tiny_bundles.publish(store, variant="sparse90")
    bare = build_report(store, TASK)
    assert bare.cell is None
    assert "There is no dense variant" in bare.findings[0]
    assert "sparse90 was not measured." in bare.findings
    assert plots(bare) == {}
    page = to_html(bare)
    assert "plotly" not in page.lower()
    assert "sparse90" in to_markdown(bare)
    assert "sparse90" in printed(bare)


def test_a_bundle_that_cannot_be_read_is_left_out_and_said(store):
    (store.folder(TASK, "sparse90") / MANIFEST).write_text("{")
    found = build_report(store, TASK)
    assert "sparse90" not in [row.variant for row in found.variants]
    assert "sparse90 is left out" in found.findings[-1]


def test_without_any_bundle_there_is_no_report(store, tmp_path):
    with pytest.raises(StoreError, match="no task 'other'"):
        build_report(store, "other")
    for variant in store.variants(TASK):
        (store.folder(TASK, variant) / MANIFEST).write_text("{")
    with pytest.raises(StoreError, match="can be read"):
        build_report(store, TASK)


def test_the_page_escapes_texts_and_labels(report):
    page = to_html(report)
    assert "<script>alert" not in page
    assert "<b>posi" not in page
    assert "&lt;script&gt;alert" in page
    assert page.count("<script>") == page.count("</script>") == 2


def test_the_page_asks_the_network_for_nothing(report):
    page = to_html(report)
    assert not re.search(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=", page)
    assert "@import" not in page
    # plotly.js would offer a button that sends the figures to a cloud.
    assert 'showSendToCloud: false, plotlyServerURL: ""' in page


def test_every_table_row_of_the_markdown_has_its_heading_s_columns(report):
    text = to_markdown(report)
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(tables) >= 8
    for table in tables:
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(columns) == 1, table
    assert "<script>" not in text
    assert not re.search(r"\n{4,}", text)


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("a|b", r"a\|b"),
        ("a\r\n b\tc", "a b c"),
        ("<i> & *x* [y](z) `c` ~~d~~", r"&lt;i&gt; &amp; \*x\* \[y\](z) \`c\` \~\~d\~\~"),
        ("LABEL_0 _em_", r"LABEL_0 \_em\_"),
        ("# no heading", r"\# no heading"),
        ("1. no list", r"\1. no list"),
        ("back\\|slash", r"back\\\|slash"),
        ("5-star, 3 > 2 😀", "5-star, 3 &gt; 2 😀"),
    ],
)
def test_texts_survive_markdown(text, markdown):
    assert markdown_text(text) == markdown


def test_the_plots_are_figures_that_plotly_takes(report):
    found = plots(report)
    assert list(found) == ["latency", "size", "sparsity"]
    assert next(iter(found["latency"])) == "batch 1, 64 tokens"
    assert list(found["size"]) == ["deflated", "as stored"]
    assert next(iter(found["sparsity"])) == "sparse90"
    for choices in found.values():
        for figure in choices.values():
            # The page resolves its own colour variables; plotly itself knows only colours.
            go.Figure(json.loads(re.sub(r"var\(--[a-z0-9-]+\)", "#123456", json.dumps(figure))))
    heat = found["sparsity"]["sparse90"]["data"][0]
    assert heat["x"] == ["query", "FFN out"]
    assert np.allclose(heat["z"], 90)


def test_what_a_squeezed_matrix_lacks_of_denses_is_gone(report):
    def halved(matrix):
        half = matrix.parameters // 2
        return matrix.model_copy(update={"parameters": half, "nonzero": half, "sparsity": 0.0})

    rows = [
        row.model_copy(update={"matrices": tuple(map(halved, row.matrices))}) if row.variant == "sparse90" else row
        for row in report.variants
    ]
    found = plots(report.model_copy(update={"variants": tuple(rows)}))["sparsity"]
    assert np.allclose(found["sparse90"]["data"][0]["z"], 50)
    assert np.allclose(found["dense"]["data"][0]["z"], 0)


def test_matrices_have_short_titles():
    assert matrix_title("attention.q_lin") == "query"
    assert matrix_title("mlp.Wi") == "mlp.Wi"


def printed(report: Report) -> str:
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(terminal_table(report))
        return console.export_text()


def test_the_terminal_table_has_the_summary(report):
    text = printed(report).replace("\u00a0", " ")
    assert "sparse90-int8 *" in text
    assert "90.0 [" in text
    assert "2.00" in text
    assert "1 x 64" in text


def test_quantities_are_short():
    assert quantity(2_869_200_384) == "2.87\u00a0G"
    assert quantity(22_713_600) == "22.7\u00a0M"
    assert quantity(423_086_592) == "423\u00a0M"
    assert quantity(999) == "999"
    assert [milliseconds(s) for s in (0.00457, 0.0137, 0.4364, 1.5)] == ["4.57", "13.7", "436", "1,500"]


def test_reporting_needs_neither_torch_nor_transformers():
    code = (
        "import sys, models.report, models.card, models.evaluation, models.measurement, models.plots; "
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
