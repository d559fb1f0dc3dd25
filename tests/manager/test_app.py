"""The manager as one application: what it refuses to be, what its document says."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import threading
from pathlib import Path

import httpx2
import pytest
from tests.manager.gateway.conftest import serving, wait_for

from darkroom.api.errors import RequestError
from darkroom.manager.app import address_of, check_exposure, listen
from darkroom.manager.config import ManagerConfig, Paths
from darkroom.manager.gateway.logs import JsonFormatter, redact
from darkroom.manager.units import byte_count, readable_bytes, seconds


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "::", "example.com"])
def test_an_open_door_needs_a_key(host: str) -> None:
    with pytest.raises(RequestError, match="--insecure"):
        check_exposure(ManagerConfig(host=host), has_keys=False)
    check_exposure(ManagerConfig(host=host), has_keys=True)
    check_exposure(ManagerConfig(host=host, insecure=True), has_keys=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.1.2.3"])
def test_loopback_needs_none(host: str) -> None:
    check_exposure(ManagerConfig(host=host), has_keys=False)


def test_a_port_that_is_taken() -> None:
    with listen(ManagerConfig(port=0)) as bound:
        port = bound.getsockname()[1]
        assert address_of(bound) == f"http://127.0.0.1:{port}"
        with pytest.raises(RequestError, match="choose another"):
            listen(ManagerConfig(port=port))


def test_config_file_and_flags(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("port: 9000\nkeep_alive: 1h30m\nmemory_budget: 24GiB\n")
    config = ManagerConfig.read(file, port=9001, host=None)
    assert (config.port, config.keep_alive, config.memory_budget) == (9001, 5400, 24 * 1024**3)
    file.write_text("prt: 9000\nport: big\n")
    with pytest.raises(RequestError, match=r"port: .*prt: "):
        ManagerConfig.read(file)
    file.write_text("- 1")
    with pytest.raises(RequestError, match="mapping"):
        ManagerConfig.read(file)


@pytest.mark.parametrize("name", ["keep_alive", "load_timeout", "memory_budget", "max_body"])
def test_an_amount_that_is_wrong_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match=f"^{name}: 'a while' is not "):
        ManagerConfig.read(tmp_path / "config.yaml", **{name: "a while"})


def test_paths_below_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_HOME", str(tmp_path))
    paths = Paths.default()
    assert all(
        path.is_relative_to(tmp_path) for path in (paths.store, paths.run, paths.keys_file, paths.logs)
    )


def test_amounts() -> None:
    written = {"15m": 900, "1h30m": 5400, 90: 90, "0.5": 0.5, -1: float("inf")}
    assert {text: seconds(text, "time") for text in written} == written
    written = {"1k": 1024, "1kB": 1000, "2GiB": 2 * 1024**3}
    assert {text: byte_count(text, "room") for text in written} == written
    assert readable_bytes(6_940_000_000) == "6.9 GB"
    for wrong in ("soon", "", "5x", "m5"):
        with pytest.raises(RequestError, match=f"^time: '{wrong}' is not a time; write"):
            seconds(wrong, "time")
    with pytest.raises(RequestError, match=r"^room: 'much' is not an amount of memory; write"):
        byte_count("much", "room")


def test_logs_hold_no_secrets() -> None:
    text = "Bearer abc.def-ghijkl and hf_abcdefghijkl and dk-0123abcd-secretsecretsecret"
    assert "ghijkl" not in redact(text)
    assert "secret" not in redact(text)
    record = logging.LogRecord("x", logging.INFO, "", 0, "key %s", ("hf_abcdefghijkl",), None)
    record.status = 200
    line = json.loads(JsonFormatter().format(record))
    assert (line["message"], line["status"]) == ("key hf_...", 200)


def test_a_manager_whose_disk_is_gone_still_ends(tmp_path: Path) -> None:
    with serving(tmp_path) as served, served.client() as client:
        assert client.post("/v1/images/generations", json={"prompt": "x"}).status_code == 200
        for folder in ("state", "data"):
            shutil.rmtree(tmp_path / folder)
            (tmp_path / folder).touch()  # so that it cannot be made again
        assert served.stop() == 0
        assert "processes are not recorded" in (tmp_path / "serve.log").read_text()


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """What draws would draw for an hour, and hears no SIGTERM."""
    with serving(tmp_path, drain_timeout="1h") as served, served.client() as client:
        served.set_flags("darkroom", "--fake-deaf", "--fake-step", "3600")
        body = {"prompt": "x", "steps": 2}
        drawing = threading.Thread(target=_post_in_vain, args=(client, "/v1/images/generations", body))
        drawing.start()
        wait_for(lambda: "busy" in client.get("/admin/pool").text, "a picture being drawn")
        assert served.process
        served.process.terminate()
        wait_for(lambda: "running work has 3600 s" in (tmp_path / "serve.log").read_text(), "stopping")
        assert served.process.poll() is None
        assert served.stop() == 0
        drawing.join()


def _post_in_vain(client: httpx2.Client, path: str, body: dict[str, object]) -> None:
    with contextlib.suppress(httpx2.TransportError):
        assert client.post(path, json=body).status_code >= 500


def test_the_document_and_the_log_of_a_real_server(tmp_path: Path) -> None:
    with serving(tmp_path) as served, served.client() as client:
        secret = "a prompt that nobody else may read"
        assert client.post("/v1/images/generations", json={"prompt": secret}).status_code == 200
        document = client.get("/openapi.json").json()
        assert {"/v1/images/generations", "/v1/jobs", "/admin/pool", "/sdapi/v1/txt2img"} <= set(
            document["paths"]
        )
        body = document["paths"]["/v1/images/generations"]["post"]["requestBody"]["content"]
        assert {"prompt", "seed", "steps"} <= set(body["application/json"]["schema"]["properties"])
        page = client.get("/docs").text
        assert "/v1/images/generations" in page
        assert "<script" not in page
        log = (tmp_path / "serve.log").read_text()
    assert secret not in log
    lines = [json.loads(line) for line in log.splitlines()]
    assert any(line.get("path") == "/v1/images/generations" and line["request_id"] for line in lines)
