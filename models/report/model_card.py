"""The model card of a bundle: Hugging Face front matter and a page of Markdown."""

import re
from typing import Any, Final

import yaml

from sparserve.models.bundle.manifest import Interval, Manifest
from sparserve.models.report.findings import smaller, token_table_sentences
from sparserve.models.report.rendering import render
from sparserve.models.report.schema import EncoderKept, token_bits

# A Hub id such as `user/name`. Local paths and URLs are not ids and stay out of the front matter.
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(?:/[A-Za-z0-9][\w.-]{0,95})?")


def model_card(manifest: Manifest, dense: Manifest | None = None) -> str:
    """Return the README.md of a bundle: YAML front matter with a model-index, then Markdown.

    The manifest need not be sealed: its version and files are not read. The card states no licence, because those of
    the base checkpoint and the data are unknown here. With the manifest of the `dense` variant it states how much of
    the encoder is kept.
    """
    kept = EncoderKept.of(manifest.sparsity, dense.sparsity) if dense else None
    front = yaml.safe_dump(front_matter(manifest), sort_keys=False, allow_unicode=True, width=10_000)
    body = render(
        "card.md.j2",
        manifest=manifest,
        pruned=_pruned(manifest),
        dense=dense,
        kept=kept if kept and kept.smaller else None,
        file_is=smaller(dense.sizes.onnx / max(manifest.sizes.onnx, 1)) if dense else "",
        token_table=token_table_sentences(manifest.token_table, token_bits(manifest.sparsity)),
    )
    return f"---\n{front}---\n\n{body}"


def front_matter(manifest: Manifest) -> dict[str, Any]:
    """Return the metadata of the card by the model card specification of the Hub."""
    lineage = manifest.lineage
    tags = ["onnx", "onnxruntime", "text-classification", "sparserve", manifest.precision]
    metadata: dict[str, Any] = {
        "library_name": "onnx",
        "pipeline_tag": "text-classification",
        "tags": [*tags, "pruned", "sparse"] if _pruned(manifest) else tags,
    }
    if _HUB_ID.fullmatch(lineage.base_checkpoint):
        metadata["base_model"] = lineage.base_checkpoint
    if _HUB_ID.fullmatch(lineage.data_source):
        metadata["datasets"] = [lineage.data_source]
    if manifest.evaluation:
        figures = {
            "accuracy": ("Accuracy", manifest.evaluation.accuracy),
            "f1": ("Macro F1", manifest.evaluation.macro_f1),
            "matthews_correlation": ("Matthews correlation", manifest.evaluation.mcc),
        }
        result = {
            "task": {"type": "text-classification", "name": "Text classification"},
            "dataset": {"name": lineage.data_source, "type": lineage.data_source, "split": "test"},
            "metrics": [_metric(kind, name, interval) for kind, (name, interval) in figures.items()],
        }
        metadata["model-index"] = [{"name": f"{manifest.task}/{manifest.variant}", "results": [result]}]
    return metadata


def _metric(kind: str, name: str, interval: Interval) -> dict[str, Any]:
    return {"type": kind, "value": interval.value, "name": name}


def _pruned(manifest: Manifest) -> bool:
    return any(tensor.pattern != "dense" for tensor in manifest.sparsity.tensors if tensor.group == "encoder_linear")
