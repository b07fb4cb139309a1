"""BentoML: adaptive batching and one worker. There is no batch window; `max_latency_ms` sheds load."""

import os
import sys

import bentoml  # type: ignore[import-not-found]

from benchmarks.serving.peers.classifier import MAX_BATCH, Classifier, Options

if "SERVING_OPTIONS" not in os.environ:
    Options.of_command_line()
OPTIONS = Options.of_environment()


@bentoml.service(
    workers=1,
    traffic={"timeout": OPTIONS.timeout},
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
)
class Classify:
    def __init__(self) -> None:
        self.classifier = Classifier(OPTIONS)

    @bentoml.api(  # type: ignore[untyped-decorator]
        route="/classify", batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=int(1000 * OPTIONS.timeout)
    )
    def classify(self, texts: list[str]) -> list[dict[str, float]]:
        return self.classifier(texts)


def main() -> None:
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    target = f"{__spec__.name if __spec__ else __name__}:Classify"
    command = ["-m", "bentoml", "serve", target, "--host", "127.0.0.1", "--port", str(OPTIONS.port), "--quiet"]
    os.execv(sys.executable, [sys.executable, *command])


if __name__ == "__main__":
    main()
