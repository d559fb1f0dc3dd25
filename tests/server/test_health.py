from __future__ import annotations

import os
from pathlib import Path

from tests.server.conftest import RunningServer, StartServer, wait_for

from darkroom.api.version import __version__


def test_it_answers_while_it_loads_and_then_is_ok(start_server: StartServer) -> None:
    server = start_server(DARKROOM_NONCE="only we know")
    first = server.health()
    assert first["status"] in ("loading", "ok")
    assert first["pid"] == server.process.pid
    assert first["nonce"] == "only we know"
    server.wait_until_ready()
    health = server.health()
    assert health["status"] == "ok"
    assert health["loaded"] is True
    assert health["bytes_read"] == health["bytes_total"]
    assert health["bytes_total"] > 1_000_000  # type: ignore[operator]
    assert (health["model"], health["version"], health["error"]) == ("builtin", __version__, None)


def test_a_model_that_cannot_be_loaded_is_an_error_that_stays(
    start_server: StartServer, tmp_path: Path
) -> None:
    file = tmp_path / "broken.safetensors"
    file.write_bytes(os.urandom(4096))
    server = start_server("-m", str(file))
    wait_for(lambda: server.health()["status"] == "error", "the error is told")
    health = server.health()
    assert "broken.safetensors" in str(health["error"])
    assert (health["model"], health["loaded"]) == ("broken", False)
    assert server.stop() == 0


def test_every_answer_has_the_number_of_its_request(server: RunningServer) -> None:
    own = server.http.get("/health", headers={"X-Request-Id": "mine-1"})
    assert own.headers["x-request-id"] == "mine-1"
    bad = server.http.get("/nothing", headers={"X-Request-Id": "no good"})
    assert bad.headers["x-request-id"].startswith("req_")
    wait_for(
        lambda: any("method=GET" in line and "request=mine-1" in line for line in server.log), "it is logged"
    )
