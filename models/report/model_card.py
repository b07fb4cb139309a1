"""The model card of a bundle: Hugging Face front matter and a page of Markdown."""

import re
from typing import Any, Final

import yaml

from sparserve.models.bundle.manifest import Interval, Manifest
from sparserve.models.report.findings import smaller, token_table_sentences
from sparserve.models.report.rendering import render
from sparserve.models.report.schema import EncoderKept, token_bits

# A Hub id such as `user/name`.
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(?:/[A-Za-z0-9][\w.-]{0,95})?")


def model_card(
    manifest: Manifest, dense: Manifest | None = None, *, base_model: str | None = None, data_set: str | None = None
) -> str:
    """Return the README.md of a bundle: YAML front matter with a model-index, then Markdown.

    The manifest need not be sealed: its version and files are not read. The card states no licence, because those of
    the base checkpoint and the data are unknown here. With the manifest of the `dense` variant it states how much of
    the encoder is kept. `base_model` and `data_set` are the Hub ids of the checkpoint and the data; None if they are
    local, as a file may have the name of a data set.
    """
    kept = EncoderKept.of(manifest.sparsity, dense.sparsity) if dense else None
    front = yaml.safe_dump(
        front_matter(manifest, base_model, data_set), sort_keys=False, allow_unicode=True, width=10_000
    )
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


def front_matter(manifest: Manifest, base_model: str | None = None, data_set: str | None = None) -> dict[str, Any]:
    """Return the metadata of the card by the model card specification of the Hub; see `model_card`."""
    hub_data_set = data_set if data_set and _HUB_ID.fullmatch(data_set) else None
    lineage = manifest.lineage
    tags = ["onnx", "onnxruntime", "text-classification", "sparserve", manifest.precision]
    metadata: dict[str, Any] = {
        "library_name": "onnx",
        "pipeline_tag": "text-classification",
        "tags": [*tags, "pruned", "sparse"] if _pruned(manifest) else tags,
    }
    if base_model and _HUB_ID.fullmatch(base_model):
        metadata["base_model"] = base_model
    if hub_data_set:
        metadata["datasets"] = [hub_data_set]
    if manifest.evaluation:
        figures = {
            "accuracy": ("Accuracy", manifest.evaluation.accuracy),
            "f1": ("Macro F1", manifest.evaluation.macro_f1),
            "matthews_correlation": ("Matthews correlation", manifest.evaluation.mcc),
        }
        result = {
            "task": {"type": "text-classification", "name": "Text classification"},
            "dataset": {"name": lineage.data_source, "type": hub_data_set or "unknown", "split": "test"},
            "metrics": [_metric(kind, name, interval) for kind, (name, interval) in figures.items()],
        }
        metadata["model-index"] = [{"name": f"{manifest.task}/{manifest.variant}", "results": [result]}]
    return metadata


def _metric(kind: str, name: str, interval: Interval) -> dict[str, Any]:
    return {"type": kind, "value": interval.value, "name": name}


def _pruned(manifest: Manifest) -> bool:
    return any(tensor.pattern != "dense" for tensor in manifest.sparsity.tensors if tensor.group == "encoder_linear")
