"""Random sparse classifiers of every architecture, and how tests export them."""

from sparserve.models.encoders.checkpoint import load_classifier
from sparserve.models.export.onnx_export import export_onnx

LABELS = ("negative", "neutral", "positive")
# CamemBERT and XLM-RoBERTa are RoBERTa to the last parameter name.
ENCODERS = ("bert", "distilbert", "electra", "mpnet", "roberta")
TYPED = ("bert", "electra")


def classifier(folder):
    return load_classifier(folder, LABELS, "single_label_classification", attention="eager").eval()


def export(model, path, **changes):
    """Write the model's graph; the largest difference of a logit from torch's."""
    typed = ("token_type_ids",) if model.config.model_type in TYPED else ()
    options = {
        "input_names": ("input_ids", *typed, "attention_mask"),
        "max_length": 64,
        "vocabulary": model.config.vocab_size,
        "pad_token_id": model.config.pad_token_id,
        "opset": 20,
        "tolerance": 1e-4,
    }
    return export_onnx(model, path, **{**options, **changes})
