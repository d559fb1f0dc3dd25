from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.server.conftest import RunningServer, StartServer

from darkroom.core.page_files import page_files

NAMESPACE = "http://www.w3.org/2000/svg"
PARTS = page_files("server")


@pytest.mark.parametrize("name", sorted(PARTS))
def test_every_part_is_served_whole_with_a_strict_policy(server: RunningServer, name: str) -> None:
    answer = server.http.get("/" if name == "index.html" else f"/page/{name}")
    assert answer.status_code == 200
    assert answer.content == PARTS[name].content
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    again = server.http.get(answer.url.path, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_parts_name_only_each_other() -> None:
    parts = {name: part.content.decode() for name, part in PARTS.items()}
    for name, text in parts.items():
        assert not re.search(r"(https?:)?//\w+\.", text.replace(NAMESPACE, "")), name
        for wanted in re.findall(r'(?:from "\./|(?:src|href)="page/)([\w.]+)"', text):
            assert wanted in parts, (name, wanted)


@pytest.mark.parametrize(
    "path", ["/page/", "/page/none.js", "/page/..%2f__init__.py", "/page/%2e%2e/main.py"]
)
def test_nothing_else_is_served(server: RunningServer, path: str) -> None:
    assert server.http.get(path).status_code == 404


def test_the_page_needs_no_key_and_a_page_of_ones_own_does(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server("--api-key", "k")
    assert server.http.get("/").text.startswith("<!doctype html>")
    assert server.http.get("/page/main.js").status_code == 200
    assert server.http.get("/sdcpp/v1/capabilities").status_code == 401
    own = tmp_path / "own.html"
    own.write_text("<p>mine</p>", encoding="utf-8")
    other = start_server("--api-key", "k", "--serve-html-path", str(own))
    assert other.http.get("/").status_code == 401
    assert other.http.get("/", headers={"x-api-key": "k"}).text == "<p>mine</p>"
    assert other.http.get("/page/main.js", headers={"x-api-key": "k"}).status_code == 404
