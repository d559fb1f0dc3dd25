"""Requests of all kinds, made from the manager's own OpenAPI document: none may be an internal error."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from tests.manager.gateway.conftest import Served, serving

_ENDLESS = ("/events", "/logs/")
_LEAVE_ALONE = {"/v1/store/import", "/v1/downloads", "/v1/models/{model}/components:fetch"}
"""which would take in what they find on this machine, or ask the network"""
_TOLD = (502, 503, 507)
"""statuses that say what another program or the machine lacks"""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("home")) as running:
        yield running


def operations(url: str) -> Iterator[schemathesis.openapi.APIOperation]:
    for found in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations():
        operation = found.ok()
        is_asked = operation.path not in _LEAVE_ALONE or operation.method == "get"
        if is_asked and not any(part in operation.path for part in _ENDLESS):
            yield operation


def test_no_request_is_an_internal_error(plain: Served) -> None:
    asked, failures = [], []
    for operation in operations(plain.url):

        @seed(1)
        @settings(max_examples=8, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def ask(case: schemathesis.Case) -> None:
            response = case.call(timeout=30)
            assert "internal_error" not in response.text, f"{case.as_curl_command()}\n{response.text}"
            assert response.status_code < 500 or response.status_code in _TOLD, response.text

        try:
            ask()
        except AssertionError as error:
            failures.append(str(error).partition("\n  ")[0])
        asked.append(operation.path)
    assert not failures, "\n\n".join(failures)
    assert len(asked) > 60
    with plain.client() as client:
        assert client.get("/readyz").status_code == 200
