"""KServe's own clients, REST and gRPC, against the running service."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
from listening import listening
from tiny_bundles import TASK, publish

from models.store import Store
from service.app import create_app
from service.settings import Settings

kserve = pytest.importorskip(
    "kserve", reason="kserve asks for older versions of protobuf, psutil and python-dateutil than are tested here"
)
TEXTS = ["a good movie", "ünïcödé 🎬"]


@dataclass(frozen=True)
class Addresses:
    """Where the service listens."""

    rest: str
    grpc: str


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    """A running service of one task."""
    root = tmp_path_factory.mktemp("kserve") / "store"
    publish(Store(root), variant="dense")
    app = create_app(Settings(store=root, threads=1, grpc_port=0))
    with listening(app) as address:
        yield Addresses(f"http://{address}", f"127.0.0.1:{app.state.grpc_server.port}")


def request(binary: bool, columns: bool = False) -> Any:
    shape = [len(TEXTS), 1] if columns else [len(TEXTS)]
    text = kserve.InferInput("text", shape, "BYTES")
    text.set_data_from_numpy(np.array(TEXTS, dtype=object).reshape(shape), binary_data=binary)
    return kserve.InferRequest(TASK, [text], request_id="seven")


def scores(answer: Any) -> Any:
    return next(output for output in answer.outputs if output.name == "scores").as_numpy()


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("binary", [False, True])
def test_the_rest_client_infers(at: Addresses, binary: bool, columns: bool) -> None:
    async def steps() -> None:
        async with kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2")) as client:
            assert await client.is_server_live(at.rest)
            assert await client.is_server_ready(at.rest)
            assert await client.is_model_ready(at.rest, TASK)
            assert not await client.is_model_ready(at.rest, "no-such-task")
            answer = await client.infer(at.rest, request(binary, columns), model_name=TASK)
            assert (answer.id, answer.model_name) == ("seven", TASK)
            assert scores(answer).sum(axis=1) == pytest.approx(1, abs=1e-5)

    asyncio.run(steps())


def test_the_rest_client_hears_why_it_is_refused(at: Addresses) -> None:
    async def steps() -> None:
        async with kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2")) as client:
            with pytest.raises(httpx.HTTPStatusError, match="there is no task 'none'"):
                await client.infer(at.rest, request(True), model_name="none")

    asyncio.run(steps())


@pytest.mark.parametrize("binary", [False, True])
def test_the_grpc_client_infers(at: Addresses, binary: bool) -> None:
    async def steps() -> None:
        async with kserve.InferenceGRPCClient(url=at.grpc) as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready(TASK)
            answer = await client.infer(request(binary))
            assert (answer.id, answer.model_name) == ("seven", TASK)
            assert scores(answer).sum(axis=1) == pytest.approx(1, abs=1e-5)

    asyncio.run(steps())
