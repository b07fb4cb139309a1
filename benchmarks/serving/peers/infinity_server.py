"""Infinity: its optimum engine over the same graph, from a folder with configuration and tokenizer.

The checkpoint of a bundle in fp32 has both; for one in int8, `--configuration` names such a checkpoint. Infinity sets
no onnxruntime options, so it gets those of the other arms.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.serving.peers.classifier import MAX_BATCH, Options
from sparserve.models.bundle.bundle import MODEL, TOKENIZER
from sparserve.models.bundle.inference import session_options

NAME = "classifier"
CONFIGURATION = ("config.json", "tokenizer_config.json")


def model_folder(bundle: Path, configuration: Path) -> Path:
    """Create a model folder for optimum with the graph and tokenizer of the bundle."""
    folder = Path(tempfile.mkdtemp(prefix="infinity-"))
    for name in CONFIGURATION:
        if not (configuration / name).is_file():
            raise SystemExit(f"Infinity needs {name}. Pass --configuration with the checkpoint of a bundle in fp32.")
        shutil.copyfile(configuration / name, folder / name)
    for name in (MODEL, TOKENIZER):
        (folder / name).symlink_to(bundle / name)
    return folder


def main() -> None:
    options = Options.of_command_line()
    if options.runtime != "onnx":
        raise SystemExit("Infinity cannot load a library of custom operators. Use --runtime onnx.")
    os.environ |= {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
    import torch
    import uvicorn
    from infinity_emb.args import EngineArgs  # type: ignore[import-not-found]
    from infinity_emb.infinity_server import create_server  # type: ignore[import-not-found]
    from optimum.onnxruntime import ORTModelForSequenceClassification  # type: ignore[import-not-found]

    torch.set_num_threads(options.threads)
    original = ORTModelForSequenceClassification.from_pretrained

    def from_pretrained(*positional: Any, file_name: str, **named: Any) -> Any:
        # Infinity passes a path, but this version of optimum expects the name in the folder.
        shared_options = session_options(options.threads)
        return original(*positional, file_name=Path(file_name).name, session_options=shared_options, **named)

    ORTModelForSequenceClassification.from_pretrained = from_pretrained
    bundle = Path(options.bundle)
    folder = model_folder(bundle, Path(options.configuration or bundle / "checkpoint"))
    engine = EngineArgs(
        model_name_or_path=str(folder), engine="optimum", device="cpu",
        batch_size=MAX_BATCH, served_model_name=NAME, onnx_disable_optimize=True,
        onnx_do_not_prefer_quantized=True, bettertransformer=False, model_warmup=False,
    )  # fmt: skip
    app = create_server(engine_args_list=[engine], url_prefix="")
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="error", access_log=False)


if __name__ == "__main__":
    main()
