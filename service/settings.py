"""Settings of the service: from the command line, else from `SPARSERVE_*` variables, else these defaults."""

import os
import re
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Self

from pydantic import AnyHttpUrl, ConfigDict, Field, IPvAnyNetwork, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from sparserve.models.cpus import available_cpus
from sparserve.service.strict_model import StrictModel

THREADS_PER_BATCH = 4
# The extra otel; `observability.tracing` needs them.
_TRACING_MODULES = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter")
_ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")
# First segments of the service's own paths: a prefix like one could not be told from them.
OWN_SEGMENTS = frozenset(
    {
        *(
            "classify",
            "docs",
            "health",
            "hf",
            "info",
            "livez",
            "metrics",
            "openapi.json",
            "pages",
            "predict",
            "readyz",
            "rerank",
            "tei",
        ),
        *("v1", "v2"),
    }
)
_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?")


class Guard(StrictModel):
    """Rule that stops a candidate once its agreement is below a level, with the given confidence."""

    model_config = ConfigDict(frozen=True)

    agreement: float = Field(gt=0, le=1, description="least fraction of inputs with the same labels")
    confidence: float = Field(
        0.999, gt=0.5, lt=1, description="of the one-sided bound; high, because it is checked after every request"
    )
    inputs: int = Field(200, ge=1, description="inputs to compare before the first decision")


class Policy(StrictModel):
    """Share of a task's live traffic that a candidate gets, and its role."""

    model_config = ConfigDict(frozen=True)

    mode: Literal["shadow", "split"]
    candidate: str = Field(description="the variant beside the task's default")
    share: float = Field(gt=0, le=1, description="fraction of the requests")
    guard: Guard | None = None


class Settings(BaseSettings):
    """Serve the bundles of a store over HTTP."""

    model_config = SettingsConfigDict(
        env_prefix="SPARSERVE_",
        env_ignore_empty=True,  # Compose sets a variable whose own value is missing to nothing
        frozen=True,
        cli_prog_name="sparserve serve",
        cli_kebab_case=True,
        cli_hide_none_type=True,
    )

    store: Path = Field(
        Path("store"),
        description="folder of bundles; must be writable for a mirror (store_url) and for clients that set the default "
        "variant of a task",
    )
    store_url: str | None = Field(
        None,
        description="URL of a store (fsspec), such as s3://bucket/store, that is mirrored into the folder `store`",
    )
    host: str = Field(
        "127.0.0.1", description="address to listen on; 0.0.0.0 for every interface with IPv4, :: for IPv6 as well"
    )
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 lets the system choose")
    root_path: str = Field(
        "",
        description="path prefix under which a reverse proxy serves this service, such as /sparserve; the proxy may "
        "remove it from requests or not",
    )
    grpc_port: int | None = Field(
        None, ge=0, le=65535, description="port of the Open Inference Protocol over gRPC; needs the extra grpc"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="lowest level that is logged; texts are never logged"
    )

    log_format: Literal["text", "json"] | None = Field(
        None, description="format of log lines; by default text on a terminal, else JSON"
    )
    log_client_address: bool = Field(True, description="log the address of the client with each request")
    otlp_endpoint: AnyHttpUrl | None = Field(
        None,
        description="OTLP collector that receives traces over HTTP, such as http://localhost:4318; needs the extra "
        "otel",
    )

    runtime: Literal["auto", "onnx", "sparse"] = Field(
        "auto",
        description="`auto`: the sparse runtime where it was measured faster, by the job or, if that had other "
        "instruction sets, when the bundle is loaded; `onnx`: stock ONNX Runtime only; `sparse`: require the sparse "
        "runtime for every bundle that ships model.sparse.onnx",
    )
    watch_seconds: float = Field(
        2.0, ge=0, description="seconds between two polls of the store for new versions; 0 polls once, at the start"
    )
    pins: dict[str, str] = Field(
        {}, description='versions to serve instead of the current ones, as {"task/variant": "version"}'
    )
    max_model_bytes: int | None = Field(
        None,
        ge=1,
        description="bytes of all loaded graphs together, those of every worker; a new version counts beside the one "
        "that it replaces; bundles over the limit are refused until there is room",
    )
    workers: int = Field(
        0,
        ge=0,
        le=1024,
        description="processes that share the port and look like one service; 0 chooses their number: one, or more if "
        "the measured models are so fast that Python would be the bottleneck",
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="CPU threads for inference in total, of all workers; by default the CPUs that this process may use",
    )
    concurrency: int | None = Field(
        None, ge=1, description="batches that run at the same time; by default one per four threads, at least one"
    )
    max_batch_tokens: int = Field(
        4096, ge=1, description="tokens of one batch, padding included; larger requests take several batches"
    )
    max_batch_seconds: float = Field(
        0.025, gt=0, description="predicted run time of one batch in seconds; a longer input runs alone"
    )
    max_padding: float = Field(0.125, ge=0, lt=1, description="fraction of a batch's tokens that may be padding")
    max_waiting_inputs: int = Field(
        1024,
        ge=0,
        description="inputs that may wait for a batch; further requests are answered 429; a quarter more may wait for "
        "clients with less than an equal share waiting",
    )
    max_waiting_tokens: int = Field(
        65_536,
        ge=0,
        description="tokens that may wait for a batch; further requests are answered 429; a quarter more as above",
    )
    request_timeout_seconds: float | None = Field(
        None, gt=0, description="time limit of a request, else 504; the header X-Request-Timeout can shorten it"
    )

    experiments: dict[str, Policy] = Field(
        {}, description="candidates compared with default variants on live traffic, by task; see /v1/compare/{task}"
    )
    disagreements_url: str = Field(
        "sqlite:///disagreements.db",
        description="SQLAlchemy URL of the database of disagreements; created when the first one occurs",
    )
    disagreements_most: int = Field(
        100_000, ge=1, description="number of disagreements that are kept; the oldest are deleted first"
    )
    disagreements_days: float = Field(30, gt=0, description="days that a disagreement is kept")
    disagreements_texts: bool = Field(False, description="also keep the texts of disagreements")

    keys_file: Path | None = Field(
        None,
        description="file of API keys, created by `sparserve keys create`; by default any client can classify",
    )
    metrics_need_key: bool = Field(False, description="require a key for /metrics too")
    admin_without_key: bool = Field(
        False, description="without a keys file, let clients load, unload and promote models"
    )
    anonymous_rate: int | None = Field(
        None,
        ge=1,
        description="without a keys file, requests per minute and client address; more are answered 429",
    )
    trusted_proxies: list[IPvAnyNetwork] = Field(
        [],
        description='addresses or networks of reverse proxies, such as ["10.0.0.0/8"], whose X-Forwarded-For names the '
        "client for anonymous_rate and the log; by default none",
    )
    cors_origins: list[str] = Field(
        [],
        description='origins of web pages that may call the service, such as ["https://app.example"]; ["*"] for all',
    )

    max_body_bytes: int = Field(2 * 2**20, ge=1, description="bytes of a request body")
    max_bodies_bytes: int = Field(
        256 * 2**20, ge=1, description="bytes of all request bodies together; further requests are answered 503"
    )
    max_items: int = Field(256, ge=1, description="inputs of one request")
    max_windows: int = Field(
        32,
        ge=1,
        description="windows of one text; one with more is answered 413 if the request or the task wants windows; each "
        "counts as an input of the request",
    )
    max_characters: int = Field(100_000, ge=1, description="characters of one input, text and text_pair together")
    input_mismatch: Literal["warn", "refuse"] = Field(
        "warn",
        description="answer to a pair of texts by a model that was trained on single texts, or the reverse: a warning "
        "beside the prediction, or 422",
    )

    moderation_safe_labels: dict[str, list[str]] = Field(
        {},
        description="labels of each task by which /v1/moderations does not flag a text, as "
        '{"task": ["label"]}; a task with one label per text cannot moderate without them',
    )

    receive_timeout_seconds: float = Field(
        20,
        gt=0,
        description="seconds to receive the head of a request, and then its body, else 408; a client that does not "
        "read a long response for this time is disconnected",
    )
    keep_alive_seconds: int = Field(
        75, ge=1, description="seconds that a connection may be idle; set it higher than the load balancer's idle time"
    )

    sample_tolerance: float = Field(
        0.02, ge=0, description="difference of a logit from the bundle's sample above which a warning is logged"
    )
    shutdown_delay_seconds: float = Field(
        0, ge=0, description="seconds between SIGTERM, when /readyz turns 503, and the closing of the listening socket"
    )
    grace_seconds: int = Field(30, ge=1, description="seconds that running requests then have to finish")

    @field_validator("disagreements_url")
    @classmethod
    def _database_has_a_driver(cls, url: str) -> str:
        try:
            make_url(url).get_dialect().import_dbapi()
        except ImportError as error:
            raise ValueError(
                f'the driver {error.name} is not installed: pip install "sparserve[postgresql]"'
            ) from error
        except SQLAlchemyError as error:
            raise ValueError("write sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE") from error
        return url

    @field_validator("otlp_endpoint")
    @classmethod
    def _traces_can_be_sent(cls, endpoint: AnyHttpUrl | None) -> AnyHttpUrl | None:
        if endpoint is not None:
            try:
                for module in _TRACING_MODULES:
                    import_module(module)
            except ImportError as error:
                raise ValueError(f'traces need {error.name}: pip install "sparserve[otel]"') from error
        return endpoint

    @field_validator("port", "grpc_port", mode="before")
    @classmethod
    def _links_are_no_ports(cls, port: object, info: ValidationInfo) -> object:
        """Replace the address that Kubernetes sets for a Service of that name, such as tcp://10.96.0.7:8000."""
        if isinstance(port, str) and port.startswith(("tcp://", "udp://", "sctp://")):
            name = info.field_name or ""
            default = cls.model_fields[name].default
            print(
                f"SPARSERVE_{name.upper()}={port} is not a port but an address, as Kubernetes "
                f"sets it for a Service of that name; {default} is used. Set enableServiceLinks to false.",
                file=sys.stderr,
            )
            return default
        return port

    @field_validator("host")
    @classmethod
    def _host_without_brackets(cls, host: str) -> str:
        """Remove the brackets that an address of IPv6 has in URLs."""
        return host.strip().removeprefix("[").removesuffix("]")

    @field_validator("grpc_port")
    @classmethod
    def _grpc_can_be_spoken(cls, port: int | None) -> int | None:
        if port is not None and find_spec("grpc") is None:
            raise ValueError('gRPC needs grpcio: pip install "sparserve[grpc]"')
        return port

    @model_validator(mode="after")
    def _threads_are_enough(self) -> Self:
        if self.concurrency is not None and self.concurrency > self.total_threads:
            raise ValueError(
                f"concurrency {self.concurrency} is more than the {self.total_threads} available threads: "
                "lower it or raise threads"
            )
        return self

    @field_validator("workers")
    @classmethod
    def _system_can_share_sockets(cls, workers: int) -> int:
        if workers > 1 and sys.platform == "win32":
            raise ValueError("several workers cannot share a port on Windows: set it to 1")
        return workers

    @model_validator(mode="after")
    def _bodies_have_room(self) -> Self:
        if self.max_bodies_bytes < self.max_body_bytes:
            raise ValueError(
                f"max_bodies_bytes {self.max_bodies_bytes} is less than max_body_bytes {self.max_body_bytes}, the "
                "limit of one body: raise max_bodies_bytes or lower max_body_bytes"
            )
        return self

    @model_validator(mode="after")
    def _keys_are_there(self) -> Self:
        if self.keys_file is None and os.environ.get("SPARSERVE_KEYS_FILE") == "":
            # Ignored like other empty variables, it would open the service to everybody.
            raise ValueError("SPARSERVE_KEYS_FILE is empty: name a file, or unset it to serve without keys")
        if self.keys_file is not None and not self.keys_file.is_file():
            raise ValueError(f"keys_file {self.keys_file} does not exist: create a key with `sparserve keys create`")
        return self

    @field_validator("root_path")
    @classmethod
    def _root_path_is_a_prefix(cls, path: str) -> str:
        if path and not _ROOT_PATH.fullmatch(path):
            raise ValueError(f"{path!r} is not a path prefix: write /name or /name/name, without a slash at the end")
        if path and path.split("/")[1] in OWN_SEGMENTS:
            raise ValueError(f"{path!r} begins like a path of the service itself: choose another prefix")
        return path

    @field_validator("cors_origins")
    @classmethod
    def _origins_are_origins(cls, origins: list[str]) -> list[str]:
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is not an origin: write https://host or https://host:port, without a path"
                )
        return origins

    @property
    def total_threads(self) -> int:
        """CPU threads for inference in total."""
        return self.threads or available_cpus()

    @property
    def concurrent_batches(self) -> int:
        """Batches that run at the same time: several small graphs use many threads better than one."""
        return self.concurrency or max(self.total_threads // THREADS_PER_BATCH, 1)

    @property
    def threads_per_session(self) -> int:
        """Threads of one ONNX Runtime session: concurrent batches of one model must not oversubscribe the CPUs.

        Each batch runs on a thread of the batcher, and the threads of the session help any batch: together they are
        `total_threads`, and a batch that runs alone has almost all of them. Concurrent batches of two models share the
        CPUs.
        """
        return self.total_threads - self.concurrent_batches + 1
