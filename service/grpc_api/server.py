"""The Open Inference Protocol over gRPC: an adapter between its messages and the serving core.

Keys, limits, deadlines, metrics, log lines and traces are those of REST. Each call is counted and logged as the REST
route that does the same.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import grpc
import grpc.aio

from sparserve.service import errors
from sparserve.service.api.dialects import open_inference_calls as calls
from sparserve.service.api.dialects.open_inference_codec import (
    MAX_TENSORS,
    InferRequest,
    pack_texts,
    read_message,
    tensor_bytes,
)
from sparserve.service.core import ServingCore
from sparserve.service.errors import InvalidRequest, RateLimited, ServiceError, Unavailable, UnknownResource, nearest
from sparserve.service.grpc_api.messages import PARAMETER_CHOICE, SERVICE, load_messages
from sparserve.service.http.problems import headers_of, status_of
from sparserve.service.http.request_options import check_routing_key
from sparserve.service.limits import BodyBudget, BodyShare, check_count
from sparserve.service.observability.request_log import LoggedRequest, RequestLog, choose_request_id, trace_id_of
from sparserve.service.observability.request_record import RequestRecord, recording
from sparserve.service.security.authorizer import Authorizer, Credentials, client_name
from sparserve.service.types import RequestOptions

if TYPE_CHECKING:
    from sparserve.service.observability.tracing import RequestTracer

logger = logging.getLogger(__name__)

CODES: Final[Mapping[type[ServiceError], grpc.StatusCode]] = {
    ServiceError: grpc.StatusCode.INTERNAL,
    errors.UnreadableRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.EmptyRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Unauthorized: grpc.StatusCode.UNAUTHENTICATED,
    errors.Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    UnknownResource: grpc.StatusCode.NOT_FOUND,
    errors.TooLarge: grpc.StatusCode.INVALID_ARGUMENT,
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.InferenceFailed: grpc.StatusCode.INTERNAL,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
}
# Parameters that say how data travel; over gRPC that is settled.
TRANSPORT_PARAMETERS: Final = frozenset({"binary_data", "binary_data_size", "binary_data_output"})
MAX_PARAMETERS: Final = 64
_NAME_IN_MESSAGE_CHARACTERS: Final = 99
_SHORTEST_DEADLINE_SECONDS: Final = 1e-6


@dataclass(frozen=True)
class _Call:
    """One call of the service.

    Attributes:
        run: returns the fields of the response.
        method, route: of the REST request that does the same; `{model}` stands for the model and its version.
        negative: errors that the response expresses by its false default.
    """

    run: Callable[[Any, RequestOptions], Awaitable[Mapping[str, Any]]]
    method: str
    route: str
    negative: tuple[type[ServiceError], ...] = ()


class GrpcServer:
    """The gRPC server beside an app; made and stopped on the app's event loop.

    It shares the app's authorizer, budget of body bytes and request log.
    """

    def __init__(
        self,
        core: ServingCore,
        *,
        authorizer: Authorizer,
        bodies: BodyBudget,
        log: RequestLog,
        tracer: "RequestTracer | None" = None,
    ) -> None:
        settings = core.settings
        self._core = core
        self._authorizer = authorizer
        self._bodies = bodies
        self._log = log
        self._tracer = tracer
        self._running = 0
        self._stopping: asyncio.Task[None] | None = None
        core.drain.on_close(self._begin_stopping)
        self._messages = load_messages()
        # Only workers of one service share a port: another process would go unnoticed.
        options = [
            ("grpc.so_reuseport", int(core.peers is not None)),
            ("grpc.max_receive_message_length", settings.max_body_bytes),
        ]
        self._server = grpc.aio.server(options=options)
        table = {
            "ServerLive": _Call(self._server_live, "GET", "/v2/health/live"),
            "ServerReady": _Call(self._server_ready, "GET", "/v2/health/ready", (Unavailable,)),
            "ModelReady": _Call(self._model_ready, "GET", "{model}/ready", (UnknownResource, Unavailable)),
            "ServerMetadata": _Call(self._server_metadata, "GET", "/v2"),
            "ModelMetadata": _Call(self._model_metadata, "GET", "{model}"),
            "ModelInfer": _Call(self._model_infer, "POST", "{model}/infer"),
        }
        handlers = {name: self._handler(name, call) for name, call in table.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self.port: int = self._server.add_insecure_port(f"{host}:{settings.grpc_port}")

    async def start(self) -> None:
        """Start to listen."""
        await self._server.start()
        logger.info("gRPC on port %d", self.port)

    async def stop(self) -> None:
        """Accept no more calls, and wait for those that run, within the grace time since the drain closed."""
        await self._begin_stopping()

    def _begin_stopping(self) -> asyncio.Task[None]:
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())
        return self._stopping

    async def _stop(self) -> None:
        grace_seconds = self._core.settings.grace_seconds
        stopping = asyncio.ensure_future(self._server.stop(grace_seconds + 1))
        await asyncio.wait([stopping], timeout=grace_seconds)
        self._core.drain.dropped += self._running
        await stopping

    def _handler(self, name: str, call: _Call) -> Any:
        response_class = self._messages[f"{name}Response"]

        async def handle(request: Any, context: Any) -> Any:
            return await self._handle(call, response_class, request, context)

        return grpc.unary_unary_rpc_method_handler(
            handle,
            request_deserializer=self._messages[f"{name}Request"].FromString,
            response_serializer=response_class.SerializeToString,
        )

    async def _handle(self, call: _Call, response_class: Any, request: Any, context: Any) -> Any:
        """Run a call within its span, metrics and log line; abort it on an error."""
        metadata = [(name, value) for name, value in context.invocation_metadata() or () if isinstance(value, str)]
        route = _route(call, request)
        failure: tuple[grpc.StatusCode, str, dict[str, str]] | None = None
        negative: tuple[type[ServiceError], ...] = ()
        logged = LoggedRequest(
            request_id=choose_request_id(_first(metadata, "x-request-id") or ""),
            method=call.method,
            record=RequestRecord(trace_id_of([value for name, value in metadata if name == "traceparent"])),
            client=_client(context.peer()),
            bytes_in=request.ByteSize(),
        )
        self._running += 1
        with self._span(logged, route, metadata):
            token = recording.set(logged.record)
            try:
                client, weight = self._check_access(call.method, route, metadata, logged)
                logged.route = route
                _check_names(request)
                negative = call.negative
                options = replace(
                    self._options(metadata, context.time_remaining(), logged), client=client, weight=weight
                )
                response = response_class(**await call.run(request, options))
                logged.status, logged.bytes_out = 200, response.ByteSize()
            except ServiceError as error:
                logged.status = status_of(error)
                response = response_class()
                if not isinstance(error, negative):
                    failure = nearest(CODES, error), str(error), headers_of(error)
            except Exception as error:
                logged.status = 500
                failure = grpc.StatusCode.INTERNAL, self._log.log_failure(logged, error), {}
            finally:
                recording.reset(token)
                self._log.finish(logged)
                self._running -= 1
        if failure is not None:
            code, detail, headers = failure
            trailers = [("x-request-id", logged.request_id)]
            if "Retry-After" in headers:
                trailers.append(("retry-after", headers["Retry-After"]))
            await context.abort(code, detail, trailing_metadata=tuple(trailers))
        if (warning := logged.record.warning()) is not None:
            context.set_trailing_metadata((("x-sparserve-warning", warning),))
        return response

    @contextlib.contextmanager
    def _span(self, logged: LoggedRequest, route: str, metadata: Sequence[tuple[str, str]]) -> Iterator[None]:
        if self._tracer is None:
            yield
            return
        with self._tracer.request(logged.method, route, dict(metadata), lambda: logged.status):
            logged.record = RequestRecord(self._tracer.trace_id(), self._tracer)
            yield

    def _check_access(
        self, method: str, route: str, metadata: Sequence[tuple[str, str]], logged: LoggedRequest
    ) -> tuple[str, float]:
        """Return the client and its weight."""
        if not self._authorizer.scopes(method, route):
            return "", 1.0
        credentials = Credentials(
            authorization=_first(metadata, "authorization") or "",
            api_key=_first(metadata, "x-api-key") or "",
            address=logged.client or "",
        )
        try:
            key = self._authorizer.authenticate(credentials)
            if key is not None:
                logged.key_name = key.name
            self._authorizer.authorize(key, method, route, credentials)
        except ServiceError as error:
            http = self._core.metrics.http
            (http.rate_limited if isinstance(error, RateLimited) else http.denied).inc()
            raise
        return client_name(key, credentials.address), (key.weight if key else None) or 1.0

    def _options(
        self, metadata: Sequence[tuple[str, str]], seconds_left: float | None, logged: LoggedRequest
    ) -> RequestOptions:
        routing_key = _first(metadata, "x-routing-key")
        options = RequestOptions(
            routing_key=None if routing_key is None else check_routing_key(routing_key),
            request_id=logged.request_id,
            arrived=logged.started,
        )
        if self._core.settings.request_timeout_seconds is not None:
            options = options.within(self._core.settings.request_timeout_seconds)
        return options if seconds_left is None else options.within(max(seconds_left, _SHORTEST_DEADLINE_SECONDS))

    async def _server_live(self, request: Any, options: RequestOptions) -> Mapping[str, Any]:
        return {"live": True}

    async def _server_ready(self, request: Any, options: RequestOptions) -> Mapping[str, Any]:
        if reason := self._core.reason_not_ready():
            raise Unavailable(reason)
        return {"ready": True}

    async def _model_ready(self, request: Any, options: RequestOptions) -> Mapping[str, Any]:
        calls.model_ready(self._core, request.name, request.version or None)
        return {"ready": True}

    async def _server_metadata(self, request: Any, options: RequestOptions) -> Mapping[str, Any]:
        return calls.server_metadata()

    async def _model_metadata(self, request: Any, options: RequestOptions) -> Mapping[str, Any]:
        return calls.model_metadata(self._core, request.name, request.version or None)

    async def _model_infer(self, request: Any, options: RequestOptions) -> Mapping[str, Any]:
        with BodyShare(self._bodies) as share:
            share.resize(request.ByteSize())
            infer_request, texts = read_infer_request(request, self._core.settings.max_items)
            model, version = request.model_name, request.model_version or None
            inference = await calls.infer(self._core, model, version, infer_request, texts, options)
            return {
                "model_name": inference.model_name,
                "model_version": inference.model_version,
                "id": inference.id or "",
                "outputs": [
                    {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
                    for tensor in inference.outputs
                ],
                "raw_output_contents": [tensor_bytes(tensor) for tensor in inference.outputs],
            }


def read_infer_request(request: Any, max_items: int) -> tuple[InferRequest, dict[str, list[str]]]:
    """Return a ModelInferRequest as REST's, and the texts of its inputs by name.

    Raises:
        InvalidRequest, UnreadableRequest, TooLarge: as in `open_inference_codec.read_request`.
    """
    _check_parts(request, max_items)
    raw = list(request.raw_input_contents)
    data = raw or [pack_texts(tensor.contents.bytes_contents) for tensor in request.inputs]
    content = {
        "id": request.id,
        "parameters": _parameters(request.parameters),
        "inputs": [
            {
                "name": tensor.name,
                "shape": list(tensor.shape),
                "datatype": tensor.datatype,
                "parameters": _parameters(tensor.parameters),
            }
            for tensor in request.inputs
        ],
        "outputs": [{"name": output.name, "parameters": _parameters(output.parameters)} for output in request.outputs],
    }
    return read_message(content, data, max_items)


def _check_parts(request: Any, max_items: int) -> None:
    """Refuse a request of too many parts before doing any work for each part.

    Raises:
        InvalidRequest, TooLarge: there are too many.
    """
    inputs, outputs, raw = len(request.inputs), len(request.outputs), len(request.raw_input_contents)
    if max(inputs, outputs) > MAX_TENSORS:
        raise InvalidRequest(f"there are {inputs} inputs and {outputs} outputs, more than the {MAX_TENSORS} allowed")
    if raw and raw != inputs:
        raise InvalidRequest(f"{inputs} inputs have {raw} raw contents: send one each, or contents only")
    for tensor in request.inputs:
        name = tensor.name[:_NAME_IN_MESSAGE_CHARACTERS]
        if len(tensor.shape) > MAX_TENSORS:
            raise InvalidRequest(f"input {name} has {len(tensor.shape)} dimensions: 1 is needed")
        check_count(len(tensor.contents.bytes_contents), max_items)
    if any(len(part.parameters) > MAX_PARAMETERS for part in (request, *request.inputs, *request.outputs)):
        raise InvalidRequest(f"there are more than {MAX_PARAMETERS} parameters")


def _parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    values = {}
    for name, value in parameters.items():
        choice = value.WhichOneof(PARAMETER_CHOICE)
        if choice is not None and name not in TRANSPORT_PARAMETERS:
            values[name] = getattr(value, choice)
    return values


def _route(call: _Call, request: Any) -> str:
    version = getattr(request, "version", "") or getattr(request, "model_version", "")
    return call.route.replace("{model}", "/v2/models/{task}" + ("/versions/{variant}" if version else ""))


def _check_names(request: Any) -> None:
    if any("/" in getattr(request, field, "") for field in ("name", "version", "model_name", "model_version")):
        raise UnknownResource("names of models and versions have no slash")


def _first(metadata: Sequence[tuple[str, str]], name: str) -> str | None:
    return next((value for key, value in metadata if key == name), None)


def _client(peer: str) -> str | None:
    """Return the address in gRPC's "ipv4:127.0.0.1:80" or "ipv6:%5B::1%5D:80"."""
    kind, _, address = unquote(peer).partition(":")
    host, _, port = address.rpartition(":")
    return host.strip("[]") if kind in ("ipv4", "ipv6") and port.isdecimal() else None
