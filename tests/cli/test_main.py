from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from darkroom.api.version import __version__
from darkroom.core.image_files import ImageFormat, encode_image

WATCHED = """
import sys
from darkroom.cli.main import main
code = main()
print("torch" in sys.modules)
sys.exit(code)
"""
"""sd-cli that says at the end whether it has imported torch."""


def sd_cli(*argv: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "darkroom.cli.main", *argv]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60)


def refused(*argv: str, cwd: Path | None = None) -> str:
    """What sd-cli says when it refuses, after checking that it does so properly and without torch."""
    command = [sys.executable, "-c", WATCHED, *argv]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60)
    assert done.returncode == 1
    assert done.stdout == "False\n", "torch was imported, or standard output used"
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    return done.stderr.removeprefix("error: ")


def test_help_goes_to_standard_output() -> None:
    done = sd_cli("-h")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Generation Options:" in done.stdout


def test_version() -> None:
    done = sd_cli("--version")
    assert (done.returncode, done.stdout) == (
        0,
        f"darkroom {__version__} (stable-diffusion.cpp compatible)\n",
    )


def test_a_usage_error_is_followed_by_usage() -> None:
    said = refused("-p", "x", "--no-such")
    assert said.startswith("unknown argument: --no-such\n")
    assert "\nUsage: sd-cli [options]\n" in said


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("--backend", "te=cpu,nose=cpu"), "--backend: unknown backend module 'nose'"),
        (("--backend", "te="), "--backend: invalid backend assignment 'te='"),
        (("--backend", "disk"), "--backend: backend 'disk' is only supported by params_backend"),
        (("--params-backend", "x=y"), "--params-backend: unknown backend module 'x'"),
        (("-W", "0"), "invalid parameter for argument: -W: '0'"),
        (("-s", "1e5"), "invalid parameter for argument: -s: '1e5'"),
        (("-m", "none.gguf"), "--model: 'none.gguf' does not exist"),
        (("--vae", "none.gguf"), "--vae: 'none.gguf' does not exist"),
        (("--embd-dir", "none"), "--embd-dir: 'none' does not exist"),
        (("-i", "none.png"), "--init-img: 'none.png' does not exist"),
        (("-r", "none.png"), "--ref-image: 'none.png' does not exist"),
        (("-i", "page.png"), "--init-img: 'page.png' is an HTML page"),
        (("-i", "good.png", "--mask", "empty.png"), "--mask: 'empty.png' is empty (0 bytes)"),
        (("-i", "short.png"), "--init-img: 'short.png' is damaged or cut off"),
        (("--mask", "good.png"), "--mask: a mask needs the image it belongs to"),
        (("--prompt-file", "none.txt"), "failed to read prompt file 'none.txt'"),
        (("-o", "good.png/out.png"), "--output: 'good.png' is not a folder"),
        (("-o", "out/"), "--output: 'out/' is a folder"),
        (("-M", "metadata", "--image", "page.png"), "--image: 'page.png' is no PNG, JPEG or WebP picture"),
    ],
)
def test_mistakes_are_named_before_torch_is_imported(
    argv: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    (tmp_path / "page.png").write_text("<!DOCTYPE html>")
    (tmp_path / "empty.png").touch()
    good = encode_image(Image.effect_noise((64, 64), 50).convert("RGB"), ImageFormat.PNG)
    (tmp_path / "good.png").write_bytes(good)
    (tmp_path / "short.png").write_bytes(good[: len(good) // 2])
    before = set(tmp_path.iterdir())
    assert refused("-p", "x", *argv, cwd=tmp_path).startswith(says)
    assert set(tmp_path.iterdir()) == before


def test_metadata_goes_to_standard_output(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(
        encode_image(Image.new("RGB", (8, 8)), ImageFormat.PNG, "a cat\nSteps: 2, Seed: 1, Size: 8x8")
    )
    text = sd_cli("-M", "metadata", "--image", str(file))
    assert text.returncode == 0
    assert "Parameters:\n  prompt: a cat\n" in text.stdout
    as_json = sd_cli("-M", "metadata", "--image", str(file), "--metadata-format", "json")
    assert '"Seed": "1"' in as_json.stdout


def test_devices_are_listed_with_tabs() -> None:
    done = sd_cli("--list-devices")
    assert done.returncode == 0
    assert any(line.startswith("cpu\t") for line in done.stdout.splitlines())


@pytest.mark.skipif(sys.platform == "win32", reason="pipes end differently there")
def test_a_reader_that_has_seen_enough_gets_no_traceback() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "darkroom.cli.main", "-h"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    assert process.stderr.read() == b""
    process.wait(timeout=30)


def test_a_model_name_that_is_too_long_is_no_fault_of_ours() -> None:
    assert "cannot be read" in refused("-p", "x", "-m", "x" * 300)


@pytest.mark.skipif(not Path("/dev/zero").is_char_device(), reason="no such device")
def test_an_endless_device_is_no_picture() -> None:
    assert "is a device" in refused("-p", "x", "-i", "/dev/zero")
