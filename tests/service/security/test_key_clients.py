"""Keys as operators and clients meet them: the warning of an open service, and the protocols' own clients."""

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tritonclient.http as httpclient
from huggingface_hub import InferenceClient

from sparserve.models.bundle.store import Store
from sparserve.service.app import create_app
from sparserve.service.drain import Drain
from sparserve.service.security.authorizer import exposure_warning
from sparserve.service.security.key_file import create
from sparserve.service.settings import Settings
from tests.support.service.listening import listening
from tests.support.tiny_bundles import TASK

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, None),
        ({"host": "localhost"}, None),
        ({"host": "::1"}, None),
        ({"host": "127.0.0.2"}, None),
        ({"host": "0.0.0.0"}, "can classify."),
        ({"host": "inner.example"}, "can classify."),
        ({"host": "::", "admin_without_key": True}, "can classify and change the models served."),
    ],
)
def test_a_service_that_is_open_to_others_says_so(settings: dict[str, Any], told: str | None) -> None:
    found = exposure_warning(port=8000, has_keys=False, **{"host": "127.0.0.1", "admin_without_key": False, **settings})
    assert found is None if told is None else told in str(found)


def test_a_service_with_keys_is_not_open(tmp_path: Path) -> None:
    create(tmp_path / "keys", "ci", frozenset({"classify"}))
    assert exposure_warning("0.0.0.0", 8000, has_keys=True, admin_without_key=False) is None


def test_the_warning_is_in_the_log_of_the_process(store: Store) -> None:
    with socket.socket() as taken:  # so that it ends at once
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [
            sys.executable,
            "-m",
            "sparserve.service",
            "--store",
            str(store.root),
            "--host",
            "0.0.0.0",
            "--port",
            port,
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.stderr.count("Serving without authentication on 0.0.0.0") == 1


def test_the_protocols_own_clients_send_keys(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    key = create(tmp_path / "keys", "ci", frozenset({"classify", "admin"}))
    app = create_app(Settings(store=store.root, threads=1, keys_file=tmp_path / "keys"), Drain())
    with listening(app) as address:
        found = InferenceClient(model=f"http://{address}/hf/{TASK}", token=key).text_classification("good")
        assert len(found) == 2
        with pytest.raises(Exception, match="401"):
            InferenceClient(model=f"http://{address}/hf/{TASK}").text_classification("good")
        triton = httpclient.InferenceServerClient(address)
        assert triton.is_server_ready()
        with pytest.raises(Exception, match="send an API key"):
            triton.unload_model(TASK)
        mine = {"X-Api-Key": key}
        triton.unload_model(TASK, headers=mine)
        assert not triton.is_model_ready(TASK, headers=mine)
        triton.load_model(TASK, headers=mine)
        assert triton.is_model_ready(TASK, headers=mine)
        with pytest.raises(Exception, match="config"):
            triton.load_model(TASK, headers=mine, config="{}")
        triton.close()
