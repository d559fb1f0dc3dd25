from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.server.conftest import StartServer

from darkroom.api.version import __version__
from darkroom.server.arguments import OPTIONS, parse
from darkroom.server.options_reference import reference


def sd_server(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "darkroom.server.main", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_help_and_version_go_to_standard_output() -> None:
    helped, versioned = sd_server("--help"), sd_server("--version")
    assert (helped.returncode, helped.stderr) == (0, "")
    titles = [line for line in helped.stdout.splitlines() if line.endswith("Options:")]
    assert titles == ["Svr Options:", "Context Options:", "Default Generation Options:"]
    assert versioned.stdout == f"darkroom {__version__} (stable-diffusion.cpp compatible)\n"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("--no-such",), "unknown argument: --no-such"),
        (("--listen-port", "65536"), "invalid parameter for argument: --listen-port: '65536'"),
        (("--max-queue", "0"), "invalid parameter for argument: --max-queue: '0'"),
        (("--listen-ip", "0.0.0.0"), "--listen-ip: others can connect to 0.0.0.0, and no key is asked"),
        (("--listen-ip", "192.168.1.9"), "--listen-ip: others can connect to 192.168.1.9"),
        (("--listen-ip", "::"), "--listen-ip: others can connect to ::"),
        (("-m", "none.gguf"), "--model: 'none.gguf' does not exist"),
        (("--backend", "te=cpu,nose=cpu"), "--backend: unknown backend module 'nose'"),
        (("--serve-html-path", "none.html"), "--serve-html-path: 'none.html' does not exist"),
        (("--listen-ip", "no.such.host.invalid", "--insecure"), "--listen-port: no.such.host.invalid:"),
    ],
)
def test_mistakes_are_named(argv: tuple[str, ...], says: str) -> None:
    done = sd_server("--listen-port", "0", *argv)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {says}"), done.stderr
    assert "Traceback" not in done.stderr


def test_loopback_needs_no_key_and_a_key_opens_all_addresses() -> None:
    for argv in (
        ["-l", "::1"],
        ["-l", "localhost"],
        ["-l", "0.0.0.0", "--api-key", "k"],
        ["-l", "::", "--insecure"],
    ):
        parse(argv)


def test_generation_options_are_the_defaults_of_requests(start_server: StartServer) -> None:
    server = start_server("--steps", "3", "-W", "128", "--sampling-method", "heun", "-s", "9", "-n", "blur")
    server.wait_until_ready()
    defaults = server.http.get("/sdcpp/v1/capabilities").json()["defaults"]
    sample = defaults["sample_params"]
    assert (sample["sample_steps"], sample["sample_method"]) == (3, "heun")
    assert (defaults["width"], defaults["height"]) == (128, 256)
    assert (defaults["seed"], defaults["negative_prompt"]) == (9, "blur")
    receipt = server.http.post("/sdcpp/v1/img_gen", json={"prompt": "x"}).json()
    assert receipt["seeds"] == [9]
    assert server.http.get(f"/sdcpp/v1/jobs/{receipt['id']}").json()["steps"] == 3


def test_every_option_of_stable_diffusion_cpps_server_is_there() -> None:
    assert {
        "-l",
        "--listen-ip",
        "--listen-port",
        "--serve-html-path",
        "-v",
        "--verbose",
        "--color",
        "-h",
    } <= set(OPTIONS)


def test_the_page_in_docs_is_fresh() -> None:
    page = Path(__file__).parents[2] / "docs" / "server_options.md"
    assert page.read_text(encoding="utf-8") == reference(), (
        "run: python -m darkroom.server.options_reference > docs/server_options.md"
    )
