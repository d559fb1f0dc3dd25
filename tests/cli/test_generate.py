from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from darkroom.cli.metadata import read_report

SMALL = ("-W", "64", "-H", "64", "--steps", "2")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(*argv: str, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "darkroom.cli.main", *argv]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd, env=ENVIRONMENT
    )


def draw(*argv: str, cwd: Path) -> str:
    """Standard error of a run that must succeed."""
    process = start(*argv, cwd=cwd)
    out, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert out == ""
    return said


def test_a_batch_is_saved_with_its_seeds_and_texts(checkpoint: Path, tmp_path: Path) -> None:
    said = draw("-m", str(checkpoint), "-p", "a cat", "-b", "2", *SMALL, "-o", "o.png", cwd=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o_0.png", "o_1.png"]
    assert "saved o_0.png (64x64, seed 42)\nsaved o_1.png (64x64, seed 43)\n" in said
    assert "sample 1-2/2: 2/2, " in said
    assert "decode 2/2: " in said
    assert "[INFO ]" not in said
    first, second = (read_report(tmp_path / name)["parameters"] for name in ("o_0.png", "o_1.png"))
    assert (first["prompt"], first["Steps"], first["Size"]) == ("a cat", "2", "64x64")
    assert (first["Model"], first["Seed"], second["Seed"]) == ("tiny.safetensors", "42", "43")


def test_previews_take_the_place_of_one_another(checkpoint: Path, tmp_path: Path) -> None:
    argv = ("-m", str(checkpoint), "-p", "a cat", *SMALL, "--preview", "proj", "--preview-path", "seen/now")
    draw(*argv, cwd=tmp_path)
    assert [path.name for path in (tmp_path / "seen").iterdir()] == ["now.png"]
    with Image.open(tmp_path / "seen/now.png") as picture:
        assert picture.size == (8, 8)


@pytest.mark.parametrize("path", ["folder/", "folder", "file/preview.png"])
def test_previews_that_cannot_be_written_are_refused_at_once(path: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    process = start("-p", "a cat", "--preview", "proj", "--preview-path", path, cwd=tmp_path)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "--preview-path: '" in said


def test_image_to_image_says_its_strength_and_verbose_logs_phases(checkpoint: Path, tmp_path: Path) -> None:
    Image.new("RGB", (100, 80), "red").save(tmp_path / "in.png")
    Image.new("L", (64, 64), 255).save(tmp_path / "mask.png")
    said = draw(
        *("-m", str(checkpoint), "-i", "in.png", "--mask", "mask.png", *SMALL, "--strength", "0.9"),
        *("-v", "-o", "o.jpg"),
        cwd=tmp_path,
    )
    assert read_report(tmp_path / "o.jpg")["parameters"]["Denoising strength"] == "0.900000"
    for line in ("loaded", "encode text: ", "encode image: ", "sample: ", "decode: ", "save: o.jpg, "):
        assert f"[INFO ] {line}" in said or line in said


def test_metadata_can_be_left_out(checkpoint: Path, tmp_path: Path) -> None:
    argv = ("-m", str(checkpoint), "-p", "x", *SMALL, "-o", "%03d.webp", "--disable-image-metadata")
    draw(*argv, cwd=tmp_path)
    assert "parameters" not in read_report(tmp_path / "000.webp")


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent differently there")
def test_ctrl_c_stops_within_a_step_and_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    argv = ("-m", str(checkpoint), "-p", "x", "-W", "64", "-H", "64", "--steps", "5000")
    process = start(*argv, "-v", cwd=tmp_path)
    assert process.stderr
    for line in process.stderr:
        if "prediction" in line:  # sampling begins
            break
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(timeout=60) == 130
    assert "stopping after this step" in rest
    assert rest.endswith("stopped; no picture was written\n")
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []
    process.communicate()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_sees_the_bar(checkpoint: Path, tmp_path: Path) -> None:
    import pty

    master, slave = pty.openpty()
    argv = ("-m", str(checkpoint), "-p", "x", *SMALL)
    process = subprocess.Popen(
        [sys.executable, "-m", "darkroom.cli.main", *argv], stderr=slave, cwd=tmp_path, env=ENVIRONMENT
    )
    os.close(slave)
    seen = b""
    while True:
        try:
            data = os.read(master, 4096)
        except OSError:  # the other end is closed
            break
        if not data:
            break
        seen += data
    os.close(master)
    assert process.wait(timeout=60) == 0
    text = seen.decode()
    assert "sample" in text
    assert "2/2, " in text
    assert " s/it, ETA 0:00\r\n" in text
    assert "saved output.png" in text


def test_a_picture_that_was_there_survives_a_mistake(checkpoint: Path, tmp_path: Path) -> None:
    old = tmp_path / "o.png"
    Image.fromarray(np.zeros((4, 4, 3), dtype=np.uint8)).save(old)
    before = old.read_bytes()
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(checkpoint.read_bytes()[:100_000])
    process = start("-m", "broken.safetensors", "-p", "x", "-o", "o.png", cwd=tmp_path)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.startswith("error: ")
    assert "Traceback" not in said
    assert old.read_bytes() == before
