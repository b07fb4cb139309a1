"""Bodies with Content-Encoding: every protocol takes gzip and deflate, within the limit of bytes."""

import gzip
import json
import zlib
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
def test_every_protocol_takes_packed_bodies(module_client: TestClient, url: str, body: bytes, encoding: str) -> None:
    pack = {"deflate": zlib.compress, "identity": bytes}.get(encoding, gzip.compress)
    answer = module_client.post(url, content=pack(body), headers=headers(encoding))
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(("url", "body"), ROUTES)
@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "x" * 5000])
def test_other_encodings_are_415(module_client: TestClient, url: str, body: bytes, encoding: str) -> None:
    answer = module_client.post(url, content=body, headers=headers(encoding))
    assert answer.status_code == 415
    assert "send gzip, deflate" in answer.json()["error"]
    assert len(answer.text) < 500


@pytest.mark.parametrize("attack", sorted(ATTACKS.iterdir()), ids=lambda path: path.stem)
def test_a_hostile_packed_body_gets_the_status_in_its_name(module_client: TestClient, attack: Path) -> None:
    answer = module_client.post(ROUTES[0][0], content=attack.read_bytes(), headers=headers("gzip"))
    assert answer.status_code == int(attack.name.partition("-")[0]), answer.text
    if answer.status_code != 200:
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(("url", "body"), ROUTES)
def test_a_bomb_is_413_wherever_it_is_sent(module_client: TestClient, url: str, body: bytes) -> None:
    answer = module_client.post(url, content=zlib.compress(b" " * 30_000_000), headers=headers("deflate"))
    assert answer.status_code == 413
    assert "once unpacked" in answer.json()["error"]


def test_nothing_packed_is_nothing(module_client: TestClient) -> None:
    assert module_client.get("/livez", headers={"Content-Encoding": "br"}).status_code == 200
    assert module_client.post(ROUTES[0][0], content=b"", headers=headers("gzip")).status_code == 422


@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate"]))
def test_what_is_packed_comes_out_as_it_was_or_is_too_large(body: bytes, encoding: str) -> None:
    packed = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)
    if len(body) <= 100:
        assert decompress(packed, encoding, 100) == body
    else:
        with pytest.raises(TooLarge):
            decompress(packed, encoding, 100)


@given(st.binary(max_size=100), st.sampled_from(["gzip", "deflate"]), st.booleans())
def test_no_bytes_raise_anything_but_a_refusal(body: bytes, encoding: str, headed: bool) -> None:
    start = gzip.compress(b"", mtime=0)[:10] if encoding == "gzip" else b"\x78\x9c"
    try:
        assert len(decompress(start + body if headed else body, encoding, 50)) <= 50
    except ServiceError as error:
        assert status_of(error) in (400, 413)
