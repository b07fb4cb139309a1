"""MLServer: adaptive batching and one inference worker, over the Open Inference Protocol."""

import json
import os
import sys
import tempfile
from pathlib import Path

from mlserver import MLModel  # type: ignore[import-not-found]
from mlserver.codecs import StringCodec  # type: ignore[import-not-found]
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput  # type: ignore[import-not-found]

from benchmarks.serving.peers.classifier import MAX_BATCH, WINDOW_SECONDS, Classifier, Options

MODEL = "classifier"


class Runtime(MLModel):  # type: ignore[misc]
    async def load(self) -> bool:
        self.classifier = Classifier(Options.of_environment())
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = self.classifier(StringCodec.decode_input(payload.inputs[0]))
        outputs = [
            ResponseOutput(name=label, datatype="FP32", shape=[len(rows), 1], data=[row[label] for row in rows])
            for label in rows[0]
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)


def main() -> None:
    options = Options.of_command_line()
    folder = Path(tempfile.gettempdir()) / f"mlserver-{options.port}"
    folder.mkdir(exist_ok=True)
    settings = {
        "host": "127.0.0.1", "http_port": options.port, "grpc_port": options.port + 1, "metrics_endpoint": None,
        "parallel_workers": 1, "debug": False, "use_structured_logging": False,
    }  # fmt: skip
    model = {
        "name": MODEL, "implementation": f"{__spec__.name if __spec__ else __name__}.Runtime",
        "max_batch_size": MAX_BATCH, "max_batch_time": WINDOW_SECONDS,
    }  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")
    program = Path(sys.executable).parent / "mlserver"
    os.execv(program, [str(program), "start", str(folder)])


if __name__ == "__main__":
    main()
