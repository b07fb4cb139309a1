"""Bodies with Content-Encoding: every protocol accepts gzip and deflate, within the limit of bytes."""

import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from sparserve.service.errors import ServiceError, TooLarge
from sparserve.service.http.middleware.body_limit import decompress
from sparserve.service.http.problems import status_of
from tests.support.tiny_bundles import TASK

ATTACKS = Path(__file__).parents[2] / "attacks" / "gzip"
TEXT = json.dumps({"inputs": "good"}).encode()
INFER = json.dumps({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good"]}]}).encode()
ROUTES = [
    (f"/v1/models/{TASK}/classify", TEXT),
    (f"/v1/models/{TASK}/compare", TEXT),
    (f"/hf/{TASK}", TEXT),
    (f"/tei/{TASK}/predict", TEXT),
    (f"/v2/models/{TASK}/infer", INFER),
]


def headers(encoding: str) -> dict[str, str]:
    return {"Content-Type": "application/json", "Content-Encoding": encoding}


@pytest.mark.parametrize(("url", "body"), ROUTES)
@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", "deflate", "identity"])
def test_compressed_body_is_accepted_by_every_protocol(
    module_client: TestClient, url: str, body: bytes, encoding: str
) -> None:
    packers: dict[str, Callable[[bytes], bytes]] = {"deflate": zlib.compress, "identity": bytes}
    pack = packers.get(encoding, gzip.compress)
    answer = module_client.post(url, content=pack(body), headers=headers(encoding))
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(("url", "body"), ROUTES)
@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "x" * 5000])
def test_compressed_body_of_another_encoding_is_415(
    module_client: TestClient, url: str, body: bytes, encoding: str
) -> None:
    answer = module_client.post(url, content=body, headers=headers(encoding))
    assert answer.status_code == 415
    assert "send gzip, deflate" in answer.json()["error"]
    assert len(answer.text) < 500


@pytest.mark.parametrize("attack", sorted(ATTACKS.iterdir()), ids=lambda path: path.stem)
def test_compressed_body_hostile_files(module_client: TestClient, attack: Path) -> None:
    answer = module_client.post(ROUTES[0][0], content=attack.read_bytes(), headers=headers("gzip"))
    assert answer.status_code == int(attack.name.partition("-")[0]), answer.text
    if answer.status_code != 200:
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(("url", "body"), ROUTES)
def test_compressed_body_bomb_is_413(module_client: TestClient, url: str, body: bytes) -> None:
    answer = module_client.post(url, content=zlib.compress(b" " * 30_000_000), headers=headers("deflate"))
    assert answer.status_code == 413
    assert "once unpacked" in answer.json()["error"]


def test_compressed_body_may_be_empty(module_client: TestClient) -> None:
    assert module_client.get("/livez", headers={"Content-Encoding": "br"}).status_code == 200
    assert module_client.post(ROUTES[0][0], content=b"", headers=headers("gzip")).status_code == 422


@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate"]))
def test_decompress_restores_the_body_or_refuses_its_size(body: bytes, encoding: str) -> None:
    packed = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)
    if len(body) <= 100:
        assert decompress(packed, encoding, 100) == body
    else:
        with pytest.raises(TooLarge):
            decompress(packed, encoding, 100)


@given(st.binary(max_size=100), st.sampled_from(["gzip", "deflate"]), st.booleans())
def test_decompress_raises_only_service_errors(body: bytes, encoding: str, headed: bool) -> None:
    start = gzip.compress(b"", mtime=0)[:10] if encoding == "gzip" else b"\x78\x9c"
    try:
        assert len(decompress(start + body if headed else body, encoding, 50)) <= 50
    except ServiceError as error:
        assert status_of(error) in (400, 413)
