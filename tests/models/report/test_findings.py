"""Findings and cards of variants with smaller encoders and token tables."""

import re
from pathlib import Path
from typing import Any

import pytest

import tests.support.tiny_bundles
from sparserve.models.bundle.manifest import Density, Flops, Sizes, Sparsity, TensorSparsity, TokenTable
from sparserve.models.bundle.store import Store
from sparserve.models.report.builder import build_report, to_html, to_markdown
from sparserve.models.report.findings import token_table_sentences
from sparserve.models.report.model_card import model_card
from sparserve.models.report.schema import EncoderKept, Report, token_bits
from tests.support.models.reports import TASK, printed

TABLE = TokenTable(tokens=30_522, rows=8_123, rank=None, energy_kept=1.0)


def counted(layers: Any = 6, side: Any = 10, kept: Any = 1.0, bits: Any = 32, token_bits: Any = 32) -> Sparsity:
    """Return one square matrix per layer with a fraction `kept` of nonzeros, and a token table of 1,000 entries."""
    nonzero = round(kept * side * side)
    tensors = [
        TensorSparsity(
            name=f"encoder.layer.{layer}.output.dense.weight",
            shape=(side, side),
            nonzero=nonzero,
            pattern="unstructured" if kept < 0.75 else "dense",
            bits=bits,
            group="encoder_linear",
        )
        for layer in range(layers)
    ]
    table = {"shape": (100, 10), "nonzero": 1000, "pattern": "dense", "group": "embedding"}
    tensors.append(TensorSparsity(name="embeddings.word_embeddings.weight", bits=token_bits, **table))
    encoder = Density(parameters=layers * side * side, nonzero=layers * nonzero)
    whole = Density(parameters=encoder.parameters + 1000, nonzero=encoder.nonzero + 1000)
    return Sparsity(encoder_linear=encoder, all_linear=encoder, whole_model=whole, tensors=tuple(tensors))


def described(variant: Any, sparsity: Any, **changes: Any) -> Any:
    encoder = sparsity.encoder_linear
    figures = {
        "sparsity": sparsity,
        "flops": Flops(length=128, dense=10 * encoder.parameters, effective=10 * encoder.nonzero),
        "sizes": Sizes(onnx=4 * sparsity.whole_model.parameters, onnx_zipped=4 * sparsity.whole_model.nonzero),
        "precision": "int8" if variant.endswith("int8") else "fp32",
    }
    return tests.support.tiny_bundles.manifest(variant=variant, **figures | changes)


DENSE = described("dense", counted())


def report_of(folder: Path, *manifests: Any) -> Report:
    store = Store(folder)
    files = {"model.onnx": b"a graph", "tokenizer.json": b"a tokenizer"}
    for manifest in (DENSE, *manifests):
        store.publish(manifest, files)
    store.set_default_variant(TASK, manifests[-1].variant)
    return build_report(store, TASK)


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


def tile(page: str) -> str:
    """Return the text of the encoder tile: title, figure and note."""
    (found,) = re.findall(r'<div class="tile">(?=<span class="what">(?:Encoder|Zeros))(.*?)</div>', plain(page))
    return re.sub(r"<[^>]+>", " ", found).strip()


def summary_row(report: Report, variant: str) -> list[str]:
    """Return the cells of a variant in the first Markdown table."""
    line = next(line for line in plain(to_markdown(report)).splitlines() if line.startswith(f"| {variant} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize(
    ("variant", "sparsity", "finding"),
    [
        (
            "squeezed",
            counted(side=5),
            "The encoder of squeezed has 150 of dense's 600 weights in smaller dense matrices: 4.0x fewer operations. "
            "Its file is 1.4x smaller than dense's.",
        ),
        (
            "squeezed-int8",
            counted(side=5, kept=0.96, bits=8),
            "The encoder of squeezed-int8 has 150 of dense's 600 weights in smaller dense matrices: 4.0x fewer "
            "operations. Its file, in int8, is 1.4x smaller than dense's.",
        ),
        (
            "distilbert",
            counted(layers=3),
            "The encoder of distilbert has 300 of dense's 600 weights in fewer dense matrices: 2.0x fewer operations. "
            "Its file is 1.2x smaller than dense's.",
        ),
        (
            "tinybert",
            counted(layers=4, side=5),
            "The encoder of tinybert has 100 of dense's 600 weights in fewer and smaller dense matrices: 6.0x fewer "
            "operations. Its file is 1.5x smaller than dense's.",
        ),
    ],
)
def test_report_describes_smaller_encoder_everywhere(tmp_path: Path, variant: Any, sparsity: Any, finding: Any) -> None:
    manifest = described(variant, sparsity)
    report = report_of(tmp_path, manifest)
    assert finding in report.findings
    assert not any("zeros" in sentence for sentence in report.findings)
    kept = sparsity.encoder_linear.nonzero / 6
    assert re.match(rf"Encoder weights kept +{kept:.1f} % +of dense’s, in .* dense matrices", tile(to_html(report)))
    assert summary_row(report, variant)[4] == f"{kept:.1f} %"
    assert f"{kept:.1f} %" in printed(report)
    card = plain(model_card(manifest, DENSE))
    assert finding.split(" has ")[1].split(":")[0] in card
    assert "are zero" not in card


def test_report_describes_masked_encoder(tmp_path: Path) -> None:
    manifest = described("sparse90", counted(kept=0.1))
    report = report_of(tmp_path, manifest)
    assert not any("matrices" in finding for finding in report.findings)
    assert any(plain(finding).startswith("sparse90 has 90.0 % zeros") for finding in report.findings)
    assert re.match(r"Encoder weights kept +10\.0 % +of dense’s; 90\.0 % zeros", tile(to_html(report)))
    assert summary_row(report, "sparse90")[4] == "10.0 %"
    assert summary_row(report, "dense")[4] == "100.0 %"
    card = plain(model_card(manifest, DENSE))
    assert "90.0 % of the weights in the linear layers of the encoder are zero" in card
    assert "whose embeddings are not pruned" in card
    assert "encoder is smaller" not in card


def test_report_describes_squeezed_and_pruned_encoder(tmp_path: Path) -> None:
    manifest = described("both", counted(side=5, kept=0.4), recipe={"squeeze": {"method": "post-training"}})
    report = report_of(tmp_path, manifest)
    found = plain(" ".join(report.findings))
    assert (
        "The encoder of both has 150 of dense's 600 weights in smaller matrices: 4.0x fewer operations, zeros "
        "included. 10.0 % of dense's weights remain and are not zero."
    ) in found
    assert "both has 60.0 % zeros in the linear layers of the encoder" in found
    assert "A runtime that skips zeros needs 10.0x fewer operations" in found
    assert re.match(
        r"Encoder weights kept +10\.0 % +of dense’s, in smaller matrices; 60\.0 % zeros", tile(to_html(report))
    )
    card = plain(model_card(manifest, DENSE))
    assert "whole attention heads, feed-forward units or hidden dimensions are removed" in card
    assert "60.0 % of the remaining weights in the linear layers of the encoder are zero" in card


def test_report_of_dense_encoder_and_missing_baseline(tmp_path: Path) -> None:
    report = report_of(tmp_path, described("dense-int8", counted(kept=0.97, bits=8)))
    assert not any("encoder" in finding for finding in report.findings)
    assert "encoder is smaller" not in model_card(DENSE)
    alone = Store(tmp_path / "alone")
    alone.publish(described("squeezed", counted(side=5)), {"model.onnx": b"", "tokenizer.json": b""})
    report = build_report(alone, TASK)
    assert report.variants[0].encoder_kept is None
    assert tile(to_html(report)).startswith("Zeros")
    assert summary_row(report, "squeezed")[4] == "-"
    assert EncoderKept.of(counted(), counted(layers=0)) is None


def test_report_describes_smaller_token_table_of_both_precisions(tmp_path: Path) -> None:
    twins = [
        described("smallest", counted(kept=0.05), token_table=TABLE),
        described("smallest-int8", counted(kept=0.05, bits=8, token_bits=4), token_table=TABLE),
    ]
    report = report_of(tmp_path, *twins)
    shares = (
        "The token table has 8,123 rows for 30,522 tokens; each token without a row uses the row of its nearest token."
    )
    assert f"smallest has a smaller token table. {shares}" in report.findings
    assert (
        f"smallest-int8 has a smaller token table. {shares} Each entry of the token table has 4 bits."
    ) in report.findings
    for manifest in twins:
        limits = model_card(manifest, DENSE).split("## Limits")[1].split("##")[0]
        assert f"- {shares}" in limits
        assert "tokens of the training texts" in limits
        assert ("has 4 bits" in limits) == manifest.variant.endswith("int8")
        assert "not pruned" not in model_card(manifest, DENSE)
        assert not re.search(r"^- .*\n\n+- ", limits, flags=re.MULTILINE)
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_token_table_sentences_describe_changes_only() -> None:
    assert token_table_sentences(None, 8) == token_table_sentences(None, None) == []
    assert token_bits(counted(token_bits=4)) == 4
    whole = TABLE.model_copy(update={"rows": TABLE.tokens, "rank": 64, "energy_kept": 0.875})
    (said,) = token_table_sentences(whole, 32)
    assert plain(said).startswith("The token table has rank 64, which keeps 87.5 % of the squared length of its rows")
