"""A bare ASGI application on uvicorn, the floor for a server in Python.

It has no routes, limits, deadlines, errors, metrics or logs. Requests wait in a queue for one thread that runs batches.
With `--no-model` the application parses, tokenises and answers a constant. `GET /metrics` has the sizes of the batches.
"""

import asyncio
import queue
import sys
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson
import uvicorn

from benchmarks.serving.peers.classifier import MAX_BATCH, Classifier, Options
from sparserve.models.bundle.text_tokenizer import Tokens

Message = MutableMapping[str, Any]
Waiting = tuple[Tokens, asyncio.Future[dict[str, float]]]

SWITCH_SECONDS = 0.0005  # that of the service: a finished batch waits for the GIL no longer
HEADERS = [(b"content-type", b"application/json")]


class Batcher:
    """A queue and a thread that runs what waits, up to `MAX_BATCH` inputs at a time."""

    def __init__(self, classifier: Classifier) -> None:
        self.batches = self.inputs = 0
        self._classifier = classifier
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Waiting] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    async def classify(self, tokens: Tokens) -> dict[str, float]:
        """Return the scores of one input."""
        answer: asyncio.Future[dict[str, float]] = self._loop.create_future()
        self._queue.put((tokens, answer))
        return await answer

    def _run(self) -> None:
        while True:
            batch = [self._queue.get()]
            while len(batch) < MAX_BATCH and not self._queue.empty():
                batch.append(self._queue.get())
            scores = self._classifier.scores([tokens for tokens, _ in batch])
            self._loop.call_soon_threadsafe(self._answer, batch, scores)

    def _answer(self, batch: list[Waiting], scores: list[dict[str, float]]) -> None:
        self.batches += 1
        self.inputs += len(batch)
        for (_, answer), row in zip(batch, scores, strict=True):
            answer.set_result(row)


class BareApp:
    """The application. Every POST request is a classification."""

    def __init__(self, classifier: Classifier, *, with_model: bool) -> None:
        self._classifier = classifier
        self._with_model = with_model
        self._constant = classifier(["a constant"])[0]
        self._batcher: Batcher | None = None

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        if scope["method"] == "GET":
            counts = (self._batcher.inputs, self._batcher.batches) if self._batcher else (0, 0)
            content = "bare_batch_inputs_sum {}\nbare_batch_inputs_count {}\n".format(*counts).encode()
        else:
            message = await receive()
            body = message["body"]
            while message["more_body"]:
                message = await receive()
                body += message["body"]
            (tokens,) = self._classifier.tokens([orjson.loads(body)["text"]])
            scores = self._constant
            if self._with_model:
                if self._batcher is None:
                    self._batcher = Batcher(self._classifier)
                scores = await self._batcher.classify(tokens)
            content = orjson.dumps({"scores": scores})
        headers = [*HEADERS, (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


def main() -> None:
    options = Options.of_command_line()
    sys.setswitchinterval(SWITCH_SECONDS)
    app = BareApp(Classifier(options), with_model=options.model)
    uvicorn.run(
        app, host="127.0.0.1", port=options.port, http="httptools", loop="uvloop", lifespan="off", access_log=False,
        log_level="error",
    )  # fmt: skip


if __name__ == "__main__":
    main()
