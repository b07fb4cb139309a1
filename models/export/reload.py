"""Loading a bundle's network into torch, for training, analysis or another export."""

from pathlib import Path

import onnx
import torch
from transformers import PreTrainedModel

from sparserve.models.bundle.bundle import open_bundle
from sparserve.models.encoders.checkpoint import load_classifier, resolve_checkpoint
from sparserve.models.errors import CheckpointError
from sparserve.models.export.temperature import last_linear
from sparserve.models.export.token_table import restored_table

CHECKPOINT = "checkpoint"


def load_bundle_model(bundle_folder: Path) -> PreTrainedModel:
    """Return the classifier of a bundle in eval mode, after verifying every file. Nothing is unpickled.

    Label names and problem type are those of the manifest. If the graph has a smaller token table (fewer rows or a
    lower rank), the network gets that table, expanded to the whole vocabulary, and if the graph's logits were divided
    by a temperature, its last linear is divided too, so that it computes the same as the graph.

    Raises:
        BundleError: the folder is not a bundle, or was changed.
        CheckpointError: the bundle has no checkpoint (int8 variants have none), or the checkpoint contradicts the
            manifest.
    """
    bundle = open_bundle(bundle_folder)
    manifest = bundle.manifest
    folder = bundle_folder / CHECKPOINT
    if not folder.is_dir():
        raise CheckpointError(
            f"{bundle_folder} of the variant {manifest.variant!r} has no {CHECKPOINT}. Use the fp32 variant."
        )
    checkpoint = resolve_checkpoint(str(folder))
    if len(checkpoint.label_names) != len(manifest.labels):
        raise CheckpointError(
            f"{folder} predicts {len(checkpoint.label_names)} labels, but the manifest has {len(manifest.labels)}. "
            "Publish the bundle again."
        )
    model = load_classifier(folder, manifest.labels, manifest.problem_type).eval()
    assert isinstance(model, PreTrainedModel)
    if manifest.token_table is None and manifest.calibration is None:
        return model
    graph = onnx.load(str(bundle.model_path)).graph
    with torch.no_grad():
        if manifest.token_table is not None:
            model.get_input_embeddings().weight.copy_(torch.tensor(restored_table(graph)))
        if manifest.calibration is not None:
            for name in last_linear(graph):
                model.get_parameter(name).div_(manifest.calibration.temperature)
    return model
