from __future__ import annotations

import base64
import io
import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from PIL import Image
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.server.conftest import RunningServer, StartServer

from darkroom.api.config import EngineConfig
from darkroom.server.app import create_app
from darkroom.server.examples import EXAMPLES, PICTURE
from darkroom.server.openapi import TAGS
from darkroom.server.options import ServerOptions
from darkroom.server.reference import reference
from darkroom.server.service import Service

CHANGING = ("unload-checkpoint", "reload-checkpoint")
"""What would keep all other tests waiting for the model."""

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)

application = create_app(Service(EngineConfig(), ServerOptions()))
document = application.openapi()
operations = [
    (method, path, operation)
    for path, methods in document["paths"].items()
    for method, operation in methods.items()
]


def test_the_page_is_what_the_code_says() -> None:
    page = Path(__file__).parents[2] / "docs" / "api.md"
    assert page.read_text(encoding="utf-8") == reference(), (
        "run: python -m darkroom.server.reference > docs/api.md"
    )


def test_every_route_is_explained() -> None:
    for _, path, operation in operations:
        assert operation["summary"], path
        assert set(operation["tags"]) <= set(TAGS), path
        assert len(operation["tags"]) == 1, path
        assert "422" not in operation["responses"] or path.startswith("/sdapi/"), path
        assert {"403"} <= set(operation["responses"]), path
        assert path.endswith("/vid_gen") or min(operation["responses"]) < "300", path


def test_every_example_is_of_a_route() -> None:
    assert set(EXAMPLES) <= {f"{method.upper()} {path}" for method, path, _ in operations}


@pytest.mark.parametrize("key", [key for key, example in EXAMPLES.items() if example.body is not None])
def test_examples_are_answered_as_they_say(server: RunningServer, key: str) -> None:
    method, path = key.split()
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(picture, "PNG")
    body = json.dumps(EXAMPLES[key].body).replace(PICTURE, base64.b64encode(picture.getvalue()).decode())
    answer = server.http.request(method, path, content=body, headers={"content-type": "application/json"})
    assert answer.is_success, answer.text
    expected: Any = EXAMPLES[key].answer
    if expected is not None:
        assert set(expected) <= set(answer.json())
    if path == "/sdapi/v1/options":
        server.http.post(path, json={"samples_format": "png", "jpeg_quality": 80})


def test_examples_fit_their_schemas() -> None:
    for _, path, operation in operations:
        for answer in operation["responses"].values():
            for content in answer.get("content", {}).values():
                if "example" in content and "schema" in content:
                    schema = {**content["schema"], "components": document["components"]}
                    found = jsonschema_rs.validator_for(schema).iter_errors(content["example"])
                    assert [error.message for error in found] == [], path


def test_the_documentation_asks_for_nothing_else(server: RunningServer) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium; on Debian: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        asked: list[str] = []
        complaints: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{server.url}/docs")
        page.wait_for_selector("details")
        assert page.locator("details").count() == len(operations)
        health = page.locator("details", has_text="/health").first
        health.locator("summary").click()
        health.get_by_role("button", name="Send").click()
        page.wait_for_selector("pre.out:has-text('200')")
        browser.close()
    assert complaints == []
    own = {f"{server.url}/{path}" for path in ("docs", "openapi.json", "health")}
    assert {url for url in asked if not url.startswith("data:")} == own


@pytest.fixture(scope="module")
def small_server(module_server: StartServer) -> RunningServer:
    """A server whose pictures are as quick as can be, so that more can be asked."""
    server = module_server("--steps", "1", "-W", "64", "-H", "64", "--job-ttl", "20")
    server.wait_until_ready()
    return server


schema = schemathesis.openapi.from_dict(document)


@schema.exclude(path_regex="|".join(CHANGING)).parametrize()
@settings(
    max_examples=3,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_no_request_breaks_the_server(case: schemathesis.Case, small_server: RunningServer) -> None:
    """No fault, no status, type or body that is not in the document."""
    _keep_small(case.body)
    case.call_and_validate(base_url=small_server.url, checks=CHECKS, timeout=60)


MOST = {
    "steps": 2, "sample_steps": 2, "n": 1, "batch_size": 1, "n_iter": 1, "batch_count": 1,
    "width": 128, "height": 128, "upscaling_resize": 2, "upscaling_resize_w": 256, "upscaling_resize_h": 256,
}  # fmt: skip


def _keep_small(body: object) -> None:
    """Random requests may ask for what takes minutes, rightly."""
    if isinstance(body, list):
        for item in body:
            _keep_small(item)
    if isinstance(body, dict):
        for name, value in body.items():
            if name in MOST and isinstance(value, int | float):
                body[name] = min(value, MOST[name])
            elif name == "size" and "256" in str(value):
                body[name] = "64x64"
            _keep_small(body[name])
