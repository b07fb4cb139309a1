"""GET /v1/reports: the files of the job, as they are, in the format asked for."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from sparserve.models.bundle.store import Store
from sparserve.service.api.report import accepted_format
from tests.support.tiny_bundles import TASK

CONTENT = {"json": '{"é": 1}', "markdown": "# é", "html": "<!doctype html><p>é"}
URL = f"/v1/reports/{TASK}"


@pytest.fixture
def reports(store: Store) -> Store:
    for name, content in CONTENT.items():
        store.report_path(TASK, name).write_text(content, encoding="utf-8")
    return store


@pytest.mark.parametrize("name", CONTENT)
def test_report_format_parameter(reports: Store, client: TestClient, name: str) -> None:
    answer = client.get(URL, params={"format": name}, headers={"Accept": "application/json"})
    assert answer.status_code == 200
    assert answer.content.decode() == CONTENT[name]


@pytest.mark.parametrize(
    "accept, expected",
    [
        ("*/*", "json"),
        ("application/json", "json"),
        ("text/markdown", "markdown"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "html"),
        ("text/html;q=0.5, text/markdown;q=0.9", "markdown"),
        ("text/*", "markdown"),
        ("TEXT/HTML", "html"),
        ("application/json;q=0", None),
        ("image/png", None),
        ("text/html;q=x", None),
        ("", None),
    ],
)
def test_report_accept_header(accept: str, expected: str | None) -> None:
    assert accepted_format(accept) == expected


def test_report_page_may_not_load_anything(reports: Store, client: TestClient) -> None:
    answer = client.get(URL, headers={"Accept": "text/html"})
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["vary"] == "Accept"


@pytest.mark.parametrize("query, accept", [("?format=pdf", "*/*"), ("?format=", "image/png"), ("", "image/png")])
def test_report_unknown_format_is_406(reports: Store, client: TestClient, query: str, accept: str) -> None:
    answer = client.get(URL + query, headers={"Accept": accept})
    assert answer.status_code == 406
    assert answer.headers["content-type"] == "application/problem+json"


def test_report_of_a_task_without_one_is_404(client: TestClient) -> None:
    assert client.get(URL).status_code == 404
    assert client.get("/v1/reports/none").status_code == 404


def test_report_list_has_formats(reports: Store, client: TestClient) -> None:
    expected = {"task": TASK, "url": URL, "formats": ["json", "markdown", "html"]}
    assert client.get("/v1/reports").json() == {"reports": [expected]}


def test_report_symbolic_link_is_not_followed(store: Store, client: TestClient, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    store.report_path(TASK, "json").symlink_to(secret)
    assert client.get(URL).status_code == 404
    assert client.get("/v1/reports").json() == {"reports": []}
