"""The Open Inference Protocol over gRPC: every call becomes the REST request that says the same, in this process.

So keys, limits, deadlines, batches, metrics, log lines and errors are those of REST. A message's raw tensors are the
binary tensors of REST as they are; a deadline becomes X-Request-Timeout, metadata become headers.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

import grpc
import grpc.aio
import orjson
from starlette.types import ASGIApp, Message

from sparserve.service.api.open_inference_codec import HEADER, MOST_TENSORS, packed
from sparserve.service.drain import Drain
from sparserve.service.grpc_api.messages import CHOICE, SERVICE, messages
from sparserve.service.http.request_options import ROUTING_KEY_HEADER, TIMEOUT_HEADER
from sparserve.service.settings import Settings

logger = logging.getLogger(__name__)

FORWARDED: Final = frozenset(
    {"authorization", "x-api-key", "x-request-id", "traceparent", "tracestate", ROUTING_KEY_HEADER.lower()}
)
RETURNED: Final = ("x-request-id", "retry-after")
CODES: Final = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
# What says how data travel; over gRPC that is settled.
_TRANSPORT: Final = frozenset({"binary_data", "binary_data_size", "binary_data_output"})
MOST_PARAMETERS: Final = 64
_SHORTEST_SECONDS: Final = 1e-6


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return orjson.loads(self.body[: int(self.headers.get(HEADER.lower(), len(self.body)))])


class GrpcServer:
    """The gRPC side of an app; made and stopped on the event loop that the app runs on."""

    def __init__(self, app: ASGIApp, settings: Settings, drain: Drain) -> None:
        self._app, self._drain, self._grace_seconds = app, drain, settings.grace_seconds
        self._running = 0
        self._stopping: asyncio.Task[None] | None = None
        drain.on_close(self._begin_stopping)
        self._max_items = settings.max_items
        self._messages = messages()
        # By default a second process could listen on the same port unnoticed.
        options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", settings.max_body_bytes)]
        self._server = grpc.aio.server(options=options)
        calls: dict[str, Callable[[Any, Any], Awaitable[Any]]] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
        }
        handlers = {name: self._handler(name, call) for name, call in calls.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self.port: int = self._server.add_insecure_port(f"{host}:{settings.grpc_port}")

    async def start(self) -> None:
        """Listen."""
        await self._server.start()
        logger.info("gRPC on port %d", self.port)

    async def stop(self) -> None:
        """Take no more calls, and wait for those that run; their time began when the drain closed, else it does now."""
        await self._begin_stopping()

    def _begin_stopping(self) -> asyncio.Task[None]:
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())
        return self._stopping

    async def _stop(self) -> None:
        stopping = asyncio.ensure_future(self._server.stop(self._grace_seconds + 1))
        await asyncio.wait([stopping], timeout=self._grace_seconds)
        self._drain.dropped += self._running
        await stopping

    def _handler(self, name: str, call: Callable[[Any, Any], Awaitable[Any]]) -> Any:
        async def counted(request: Any, context: Any) -> Any:
            self._running += 1
            try:
                return await call(request, context)
            finally:
                self._running -= 1

        return grpc.unary_unary_rpc_method_handler(
            counted,
            request_deserializer=self._messages[f"{name}Request"].FromString,
            response_serializer=self._messages[f"{name}Response"].SerializeToString,
        )

    async def _server_live(self, request: Any, context: Any) -> Any:
        answer = await self._ask(context, "GET", "/v2/health/live")
        return self._messages["ServerLiveResponse"](live=answer.status == 200)

    async def _server_ready(self, request: Any, context: Any) -> Any:
        answer = await self._ask(context, "GET", "/v2/health/ready", but_no=(503,))
        return self._messages["ServerReadyResponse"](ready=answer.status == 200)

    async def _model_ready(self, request: Any, context: Any) -> Any:
        path = await _path(context, request.name, request.version)
        answer = await self._ask(context, "GET", f"{path}/ready", but_no=(404, 503))
        return self._messages["ModelReadyResponse"](ready=answer.status == 200)

    async def _server_metadata(self, request: Any, context: Any) -> Any:
        return self._messages["ServerMetadataResponse"](**(await self._ask(context, "GET", "/v2")).json())

    async def _model_metadata(self, request: Any, context: Any) -> Any:
        path = await _path(context, request.name, request.version)
        return self._messages["ModelMetadataResponse"](**(await self._ask(context, "GET", path)).json())

    async def _model_infer(self, request: Any, context: Any) -> Any:
        # Before anything is made of what a client without a key may have sent.
        refusal = _refusal(request, self._max_items)
        if refusal is not None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, refusal)
        raw = list(request.raw_input_contents)
        tensors = raw or [packed(tensor.contents.bytes_contents) for tensor in request.inputs]
        head = orjson.dumps(_asked(request, tensors))
        path = await _path(context, request.model_name, request.model_version)
        headers = [(HEADER.lower().encode(), str(len(head)).encode())]
        answer = await self._ask(context, "POST", f"{path}/infer", headers, b"".join([head, *tensors]))
        found = answer.json()
        place = len(answer.body) - sum(output["parameters"]["binary_data_size"] for output in found["outputs"])
        response = self._messages["ModelInferResponse"](
            model_name=found["model_name"], model_version=found["model_version"], id=found.get("id", "")
        )
        for output in found["outputs"]:
            size = output["parameters"]["binary_data_size"]
            response.outputs.add(name=output["name"], datatype=output["datatype"], shape=output["shape"])
            response.raw_output_contents.append(answer.body[place : place + size])
            place += size
        return response

    async def _ask(
        self,
        context: Any,
        method: str,
        path: str,
        headers: list[tuple[bytes, bytes]] | None = None,
        body: bytes = b"",
        *,
        but_no: tuple[int, ...] = (),
    ) -> _Answer:
        """Send the request to the app; an error ends the call, but for a status that means no."""
        answer = await self._send(_scope(context, method, path, headers or [], body), body)
        if answer.status == 200 or answer.status in but_no:
            return answer
        trailing = tuple((name, answer.headers[name]) for name in RETURNED if name in answer.headers)
        code = CODES.get(answer.status, grpc.StatusCode.UNKNOWN)
        await context.abort(code, answer.json()["error"], trailing_metadata=trailing)
        raise AssertionError("abort raises")

    async def _send(self, scope: dict[str, Any], body: bytes) -> _Answer:
        gone = asyncio.Event()
        unread, sent = [body], list[Message]()

        async def receive() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)

        # A client that has gone is told of in HTTP's way: cancelling is what the server does to requests it drops.
        running = asyncio.ensure_future(self._app(scope, receive, send))
        try:
            await asyncio.shield(running)
        finally:
            gone.set()
        start, *rest = sent
        fields = {name.decode().lower(): value.decode() for name, value in start["headers"]}
        return _Answer(start["status"], fields, b"".join(message.get("body", b"") for message in rest))


async def _path(context: Any, name: str, version: str) -> str:
    if "/" in name or "/" in version:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no name of a model, and no version, has a slash")
    return f"/v2/models/{name}/versions/{version}" if version else f"/v2/models/{name}"


def _scope(context: Any, method: str, path: str, headers: list[tuple[bytes, bytes]], body: bytes) -> dict[str, Any]:
    for name, value in context.invocation_metadata() or ():
        if name in FORWARDED and isinstance(value, str):
            headers.append((name.encode(), value.encode()))
    seconds = context.time_remaining()
    if seconds is not None:
        headers.append((TIMEOUT_HEADER.lower().encode(), f"{max(seconds, _SHORTEST_SECONDS):.6f}".encode()))
    headers.append((b"content-length", str(len(body)).encode()))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "2",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": _client(context.peer()),
        "server": None,
        "state": {},
    }


def _client(peer: str) -> tuple[str, int] | None:
    """Address and port of gRPC's "ipv4:127.0.0.1:80" and "ipv6:%5B::1%5D:80"."""
    kind, _, address = unquote(peer).partition(":")
    host, _, port = address.rpartition(":")
    return (host.strip("[]"), int(port)) if kind in ("ipv4", "ipv6") and port.isdecimal() else None


def _refusal(request: Any, max_items: int) -> str | None:
    """Why a request has more parts than the HTTP protocol's would be read with; None if it has not."""
    inputs, outputs, raw = len(request.inputs), len(request.outputs), len(request.raw_input_contents)
    if max(inputs, outputs) > MOST_TENSORS:
        return f"there are {inputs} inputs and {outputs} outputs, more than the {MOST_TENSORS} allowed"
    if raw and raw != inputs:
        return f"{inputs} inputs have {raw} raw contents: send one each, or contents only"
    for tensor in request.inputs:
        if len(tensor.shape) > MOST_TENSORS:
            return f"input {tensor.name[:99]} has {len(tensor.shape)} dimensions: 1 is needed"
        if len(tensor.contents.bytes_contents) > max_items:
            return f"input {tensor.name[:99]} has {len(tensor.contents.bytes_contents)} texts, more than {max_items}"
    if any(len(part.parameters) > MOST_PARAMETERS for part in (request, *request.inputs, *request.outputs)):
        return f"there are more than {MOST_PARAMETERS} parameters"
    return None


def _asked(request: Any, tensors: list[bytes]) -> dict[str, Any]:
    """The JSON that goes before the tensors."""
    inputs = [
        {
            "name": tensor.name,
            "shape": list(tensor.shape),
            "datatype": tensor.datatype,
            "parameters": {**_parameters(tensor.parameters), "binary_data_size": len(data)},
        }
        for tensor, data in zip(request.inputs, tensors, strict=True)
    ]
    outputs = [{"name": output.name, "parameters": _parameters(output.parameters)} for output in request.outputs]
    parameters = {**_parameters(request.parameters), "binary_data_output": True}
    return {"id": request.id, "parameters": parameters, "inputs": inputs, "outputs": outputs}


def _parameters(found: Mapping[str, Any]) -> dict[str, Any]:
    chosen = {name: (value, value.WhichOneof(CHOICE)) for name, value in found.items() if name not in _TRANSPORT}
    return {name: getattr(value, choice) for name, (value, choice) in chosen.items() if choice}
