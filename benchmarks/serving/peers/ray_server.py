"""Ray Serve: one replica with `@serve.batch`, without the dashboard."""

import logging
import os
import signal

import ray  # type: ignore[import-not-found]
from ray import serve
from starlette.requests import Request

from benchmarks.serving.peers.classifier import MAX_BATCH, WINDOW_SECONDS, Classifier, Options

# Two batches, so that one fills while another runs. The proxy queues further requests.
ONGOING = 2 * MAX_BATCH
OBJECT_STORE_BYTES = 100 * 2**20


class Classify:
    def __init__(self, options: Options) -> None:
        self.classifier = Classifier(options)

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=WINDOW_SECONDS)  # type: ignore[untyped-decorator]
    async def classify(self, texts: list[str]) -> list[dict[str, float]]:
        return self.classifier(texts)

    async def __call__(self, request: Request) -> dict[str, dict[str, float]]:
        return {"scores": await self.classify((await request.json())["text"])}


def main() -> None:
    options = Options.of_command_line()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        num_cpus=2, include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, logging_level=logging.ERROR,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",  # otherwise its processes use the address of the machine
    )  # fmt: skip
    serve.start(
        http_options={"host": "127.0.0.1", "port": options.port, "request_timeout_s": options.timeout},
        logging_config={"log_level": "ERROR", "enable_access_log": False},
    )
    deployment = serve.deployment(Classify, max_ongoing_requests=ONGOING, ray_actor_options={"num_cpus": 1})
    serve.run(deployment.bind(options), route_prefix="/classify")
    try:
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
