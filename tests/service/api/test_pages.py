"""The pages for people load nothing from elsewhere."""

import re

import pytest
from fastapi.testclient import TestClient

from sparserve.service.api.pages import FOLDER


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_and_all_that_it_loads_comes_from_here(client: TestClient, path: str) -> None:
    page = client.get(path)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "http" not in policy
    loaded = re.findall(r'(?:src|href)="(pages/[^"]+)"', page.text)
    assert len(loaded) >= 3
    for name in loaded:
        assert client.get(f"/{name}").status_code == 200


def test_no_page_names_another_host() -> None:
    for path in FOLDER.iterdir():
        found = re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]+[^\s\"'`]*", path.read_text(encoding="utf-8"))
        assert [url for url in found if not url.endswith("w3.org/2000/svg")] == [], path.name


@pytest.mark.parametrize(
    "name",
    ["..%2fapp.py", "../app.py", "none.css", "%2e%2e%2fsettings.py", ".", "index.html%00.js", f"{300 * 'a'}.css"],
)
def test_only_the_pages_are_served(client: TestClient, name: str) -> None:
    assert client.get(f"/pages/{name}").status_code == 404


def test_the_pages_have_what_a_screen_reader_needs() -> None:
    for name in ("index.html", "docs.html"):
        text = (FOLDER / name).read_text(encoding="utf-8")
        assert '<html lang="en">' in text and "<main" in text and "<h1>" in text and 'class="skip"' in text
        for control in re.findall(r"<(?:select|textarea)[^>]*>", text):
            before = text[: text.index(control)]
            assert before.rindex("<label>") > (before.rindex("</label>") if "</label>" in before else -1)
