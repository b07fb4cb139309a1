"""LitServe: `LitAPI` with dynamic batching, one worker, ZeroMQ queues (recommended above 100 requests/s)."""

from typing import Any

import litserve  # type: ignore[import-not-found]

from benchmarks.serving.peers.classifier import MAX_BATCH, WINDOW_SECONDS, Classifier, Options


class Api(litserve.LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        self.classifier = Classifier(Options.of_environment())

    def decode_request(self, request: dict[str, Any]) -> str:
        return str(request["text"])

    def batch(self, inputs: list[str]) -> list[str]:
        return inputs

    def predict(self, texts: list[str]) -> list[dict[str, float]]:
        return self.classifier(texts)

    def unbatch(self, output: list[dict[str, float]]) -> list[dict[str, float]]:
        return output

    def encode_response(self, output: dict[str, float]) -> dict[str, Any]:
        return {"scores": output}


def main() -> None:
    options = Options.of_command_line()
    api = Api(max_batch_size=MAX_BATCH, batch_timeout=WINDOW_SECONDS)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=options.timeout, fast_queue=True)
    server.run(
        host="127.0.0.1", port=options.port, num_api_servers=1, generate_client_file=False, log_level="error",
        access_log=False,
    )  # fmt: skip


if __name__ == "__main__":
    main()
