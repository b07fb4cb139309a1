"""KServe's own clients, REST and gRPC, against the running service.

kserve needs older versions of protobuf, psutil and others than the service is tested with, so its clients run in a
separate environment: `make kserve-venv` makes it; .ci/run does so before the tests.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sparserve.models.bundle.store import Store
from tests.support.service.fixtures import NewApp
from tests.support.service.listening import listening
from tests.support.tiny_bundles import TASK, publish

INTERPRETER = Path(__file__).parents[4] / "build" / "kserve-venv" / "bin" / "python"
TEXTS = ["a good movie", "ünïcödé 🎬"]

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(not INTERPRETER.exists(), reason="`make kserve-venv` makes its environment"),
]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, new_app: NewApp) -> dict[str, dict[str, Any]]:
    """Return the answers that the clients got from a service of one task."""
    root = tmp_path_factory.mktemp("kserve") / "store"
    publish(Store(root), variant="dense")
    app = new_app(store=root, grpc_port=0)
    with listening(app) as address:
        grpc = f"127.0.0.1:{app.state.grpc_server.port}"
        script = Path(__file__).parents[3] / "support" / "service" / "kserve_calls.py"
        ran = subprocess.run(
            [INTERPRETER, script, f"http://{address}", grpc, TASK, *TEXTS], capture_output=True, text=True, check=False
        )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, dict[str, Any]] = json.loads(ran.stdout)
    return found


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_kserve_client_sees_the_server(told: dict[str, dict[str, Any]], protocol: str) -> None:
    assert told[protocol]["live"]
    assert told[protocol]["ready"]
    assert told[protocol]["model ready"]


def test_kserve_client_unknown_model(told: dict[str, dict[str, Any]]) -> None:
    assert not told["rest"]["no such model ready"]
    assert "there is no task 'none'" in told["rest"]["refusal"]


@pytest.mark.parametrize(("protocol", "forms"), [("rest", 4), ("grpc", 2)])
def test_kserve_client_infers(told: dict[str, dict[str, Any]], protocol: str, forms: int) -> None:
    answers = [answer for name, answer in told[protocol].items() if name.startswith("answer")]
    assert len(answers) == forms
    for answer in answers:
        assert (answer["id"], answer["model"]) == ("seven", TASK)
        assert len(answer["scores"]) == len(TEXTS)
        assert [sum(row) for row in answer["scores"]] == pytest.approx([1, 1], abs=1e-5)
        assert answer["scores"] == answers[0]["scores"]
