"""One seed and the same settings are one picture, whichever way they are asked for."""

from __future__ import annotations

import base64
import io
import time
from pathlib import Path

import pytest
from PIL import Image
from tests.server.conftest import DEADLINE, RunningServer, StartServer

from darkroom.cli.main import main

PROMPT, NEGATIVE = "a red circle on a blue background", "green"

Drawn = tuple[bytes, str]
"""Pixels, and the text inside the file."""


@pytest.fixture(scope="module")
def one_by_one(module_server: StartServer) -> RunningServer:
    """Beside others, or with other threads, a picture may differ in its last bits."""
    server = module_server("--max-batch", "1", "--threads", "1")
    server.wait_until_ready()
    return server


def drawn(file: bytes) -> Drawn:
    with Image.open(io.BytesIO(file)) as image:
        return image.convert("RGB").tobytes(), image.info["parameters"]


def by_native(server: RunningServer, body: dict[str, object]) -> Drawn:
    answer = server.http.post("/sdcpp/v1/img_gen", json=body)
    assert answer.status_code == 202, answer.text
    end = time.monotonic() + DEADLINE
    while (job := server.http.get(answer.json()["poll_url"]).json())["status"] in ("queued", "generating"):
        assert time.monotonic() < end, job
    assert job["status"] == "completed", job["error"]
    return drawn(base64.b64decode(job["result"]["images"][0]["b64_json"]))


def by_openai(server: RunningServer, path: str, body: dict[str, object]) -> Drawn:
    answer = server.http.post(f"/v1/images/{path}", json=body)
    assert answer.status_code == 200, answer.text
    return drawn(base64.b64decode(answer.json()["data"][0]["b64_json"]))


def by_a1111(server: RunningServer, path: str, body: dict[str, object]) -> Drawn:
    answer = server.http.post(f"/sdapi/v1/{path}", json=body)
    assert answer.status_code == 200, answer.text
    return drawn(base64.b64decode(answer.json()["images"][0]))


def by_command(folder: Path, *argv: str) -> Drawn:
    out = folder / "out.png"
    assert main(["-p", PROMPT, "--max-batch", "1", "--threads", "1", "-o", str(out), *argv]) == 0
    return drawn(out.read_bytes())


def test_from_text(one_by_one: RunningServer, tmp_path: Path) -> None:
    options = (
        "-n green -s 77 --steps 2 -W 96 -H 64 --cfg-scale 5.5 --sampling-method dpm++2m --scheduler karras"
    )
    first = by_command(tmp_path, *options.split())
    sampling = {
        "sample_steps": 2, "sample_method": "dpm++2m", "scheduler": "karras", "guidance": {"txt_cfg": 5.5},
    }  # fmt: skip
    sides = {"width": 96, "height": 64}
    words: dict[str, object] = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "seed": 77}
    assert first[1].startswith(f"{PROMPT}\nNegative prompt: {NEGATIVE}\nSteps: 2, CFG scale: 5.5")
    assert by_native(one_by_one, words | sides | {"sample_params": sampling}) == first
    mine = {"steps": 2, "cfg_scale": 5.5}
    openai = words | mine | {"size": "96x64", "sampler": "dpm++2m", "scheduler": "karras"}
    assert by_openai(one_by_one, "generations", openai) == first
    a1111 = words | mine | sides | {"sampler_name": "DPM++ 2M Karras"}
    assert by_a1111(one_by_one, "txt2img", a1111) == first


def test_from_a_picture(one_by_one: RunningServer, tmp_path: Path) -> None:
    start = tmp_path / "start.png"
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(start)
    data = base64.b64encode(start.read_bytes()).decode()
    first = by_command(tmp_path, "-s", "5", "--steps", "4", "-i", str(start), "--strength", "0.6")
    words: dict[str, object] = {"prompt": PROMPT, "seed": 5}
    native = words | {"init_image": data, "strength": 0.6, "sample_params": {"sample_steps": 4}}
    assert by_native(one_by_one, native) == first
    images = [{"image_url": f"data:image/png;base64,{data}"}]
    assert by_openai(one_by_one, "edits", words | {"images": images, "strength": 0.6, "steps": 4}) == first
    a1111 = words | {"init_images": [data], "denoising_strength": 0.6, "steps": 4}
    assert by_a1111(one_by_one, "img2img", a1111) == first
