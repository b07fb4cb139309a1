"""Every limit and choice of the service, from the command line, then `SPARSERVE_*` variables, then these defaults."""

import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Self

from pydantic import AnyHttpUrl, ConfigDict, Field, IPvAnyNetwork, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from sparserve.models.cpus import available_cpus
from sparserve.service.strict_model import StrictModel

THREADS_A_BATCH = 4
# The extra otel; `observability.tracing` needs them.
_TRACING_MODULES = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter")
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
        frozen=True,
        cli_prog_name="sparserve serve",
        cli_kebab_case=True,
        cli_hide_none_type=True,
    )

    store: Path = Field(
        Path("store"),
        description="folder of bundles; written to by a mirror, see store_url, and where a client makes a variant the "
        "default of its task",
    )
    store_url: str | None = Field(
        None,
        description="fsspec URL of a store, such as s3://bucket/store, that is mirrored into the folder `store`",
    )
    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for every interface")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 lets the system choose")
    grpc_port: int | None = Field(
        None, ge=0, le=65535, description="port of the Open Inference Protocol over gRPC; needs the extra grpc"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe level that is logged; texts are never logged"
    )

    log_format: Literal["text", "json"] | None = Field(
        None, description="lines of text or of JSON objects; by default text on a terminal and JSON elsewhere"
    )
    log_client_address: bool = Field(True, description="whether the log has the address of a request's client")
    otlp_endpoint: AnyHttpUrl | None = Field(
        None,
        description="OTLP collector that gets traces over HTTP, such as http://localhost:4318; needs the extra otel",
    )

    runtime: Literal["auto", "onnx", "sparse"] = Field(
        "auto",
        description="what runs bundles with a model.sparse.onnx: auto, the sparse runtime where it was measured to be "
        "faster and works here; onnx, always stock onnxruntime; sparse, never that",
    )
    watch_seconds: float = Field(
        2.0, ge=0, description="seconds between two looks at the store for new versions; 0: look once, at the start"
    )
    pins: dict[str, str] = Field(
        {}, description='versions to serve in place of the current ones, as {"task/variant": "version"}'
    )
    max_model_bytes: int | None = Field(
        None,
        ge=1,
        description="bytes of all loaded graphs together, a new version counted beside the one that it replaces; a "
        "bundle beyond that is refused until there is room",
    )
    threads: int | None = Field(
        None, ge=1, description="CPU threads for inference in all; by default the CPUs that this process may use"
    )
    concurrency: int | None = Field(
        None, ge=1, description="batches that run at once; by default one for every four threads, at least one"
    )
    max_batch_tokens: int = Field(
        4096, ge=1, description="tokens, padding included, of one batch; larger requests take several"
    )
    max_batch_seconds: float = Field(
        0.025, gt=0, description="time of one batch, as fast as its model has run so far; longer inputs run alone"
    )
    max_padding: float = Field(0.125, ge=0, lt=1, description="share of a batch's tokens that may be padding")
    batch_window_seconds: float = Field(
        0.05, ge=0, description="how much earlier than its turn an input may run because its length suits a batch"
    )
    max_waiting_inputs: int = Field(
        1024, ge=0, description="inputs that may wait for a batch; what would wait behind more is answered 429"
    )
    max_waiting_tokens: int = Field(
        65_536, ge=0, description="tokens that may wait for a batch; what would wait behind more is answered 429"
    )
    request_timeout_seconds: float | None = Field(
        None, gt=0, description="longest time for an answer, else 504; a request's X-Request-Timeout may be shorter"
    )

    experiments: dict[str, Policy] = Field(
        {}, description="candidates beside default variants on live traffic, by task; see /v1/compare/{task}"
    )
    disagreements_url: str = Field(
        "sqlite:///disagreements.db",
        description="SQLAlchemy's URL of the database that keeps what variants disagree on; made when there is any",
    )
    disagreements_most: int = Field(100_000, ge=1, description="disagreements that are kept; the oldest go first")
    disagreements_days: float = Field(30, gt=0, description="days that a disagreement is kept")
    disagreements_texts: bool = Field(False, description="keep the texts of disagreements, too")

    keys_file: Path | None = Field(
        None, description="file of API keys, made by `sparserve keys create`; by default every client may classify"
    )
    metrics_need_key: bool = Field(False, description="whether /metrics asks for a key, too")
    admin_without_key: bool = Field(
        False, description="whether clients may load, unload and promote models where there are no keys"
    )
    anonymous_rate: int | None = Field(
        None, ge=1, description="requests a minute of one client address where there are no keys; more are answered 429"
    )
    trusted_proxies: list[IPvAnyNetwork] = Field(
        [],
        description='addresses or networks of reverse proxies, such as ["10.0.0.0/8"], whose X-Forwarded-For says who '
        "the client is, for anonymous_rate and the log; by default nobody's does",
    )
    cors_origins: list[str] = Field(
        [], description='web pages\' origins that may call the service, such as ["https://app.example"]; ["*"]: all'
    )

    max_body_bytes: int = Field(2 * 2**20, ge=1, description="bytes of a request body")
    max_bodies_bytes: int = Field(
        256 * 2**20, ge=1, description="bytes of all requests' bodies together; what comes on top is answered 503"
    )
    max_items: int = Field(256, ge=1, description="inputs of one request")
    max_characters: int = Field(100_000, ge=1, description="characters of one input, text and text_pair together")

    receive_timeout_seconds: float = Field(
        20,
        gt=0,
        description="seconds for a request's head to come, then for its body, else 408; a client that reads nothing of "
        "a long answer for so long is given up, too",
    )
    keep_alive_seconds: int = Field(
        75, ge=1, description="seconds that a connection may be idle; keep it above a load balancer's own"
    )

    sample_tolerance: float = Field(
        0.02, ge=0, description="largest difference of a logit from the bundle's own sample before a warning is logged"
    )
    shutdown_delay_seconds: float = Field(
        0, ge=0, description="seconds between SIGTERM, when /readyz turns 503, and the closing of the listening socket"
    )
    grace_seconds: int = Field(30, ge=1, description="seconds that running requests have to finish after that")

    @field_validator("disagreements_url")
    @classmethod
    def _database_has_a_driver(cls, url: str) -> str:
        try:
            make_url(url).get_dialect().import_dbapi()
        except ImportError as error:
            raise ValueError(f'its driver is missing, {error.name}: pip install "sparserve[postgresql]"') from error
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
                f"concurrency {self.concurrency} is more than the {self.total_threads} threads there are to divide: "
                "lower it or raise threads"
            )
        return self

    @model_validator(mode="after")
    def _bodies_have_room(self) -> Self:
        if self.max_bodies_bytes < self.max_body_bytes:
            raise ValueError(
                f"max_bodies_bytes {self.max_bodies_bytes} is less than the {self.max_body_bytes} of max_body_bytes, "
                "the limit of one body: raise it or lower that"
            )
        return self

    @model_validator(mode="after")
    def _keys_are_there(self) -> Self:
        if self.keys_file is not None and not self.keys_file.is_file():
            raise ValueError(f"keys_file {self.keys_file} does not exist: make a key with `sparserve keys create`")
        return self

    @field_validator("cors_origins")
    @classmethod
    def _origins_are_origins(cls, origins: list[str]) -> list[str]:
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin: write https://host or https://host:port, without a path")
        return origins

    @property
    def total_threads(self) -> int:
        """CPU threads for inference in all."""
        return self.threads or available_cpus()

    @property
    def concurrent_batches(self) -> int:
        """Batches that run at once: a small graph does not keep many threads busy, several of them do."""
        return self.concurrency or max(self.total_threads // THREADS_A_BATCH, 1)

    @property
    def threads_per_session(self) -> int:
        """Threads of one onnxruntime session, so that batches of one model that run at once do not oversubscribe CPUs.

        Each batch brings the thread that runs it, the session's own threads help whoever asks: together they are
        `total_threads`, and a batch that runs alone has almost all of them. Batches of two models that run at once ask
        for more threads than there are CPUs: they share them.
        """
        return self.total_threads - self.concurrent_batches + 1
