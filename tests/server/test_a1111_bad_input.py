"""Every kind of bad input: a 4xx that names what is wrong, and the server lives on."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from PIL import Image
from tests.server.a1111_client import PROMPT, encoded
from tests.server.conftest import RunningServer

QUICK = {"prompt": PROMPT, "steps": 1, "width": 64, "height": 64}
PICTURE = encoded(Image.new("RGB", (64, 64), "green"))


def block(inner: str) -> str:
    return f"a cat <sd_cpp_extra_args>{inner}</sd_cpp_extra_args>"


def refused(server: RunningServer, path: str, **sent: Any) -> str:  # noqa: ANN401
    answer = server.http.post(f"/sdapi/v1/{path}", **sent)
    assert 400 <= answer.status_code < 500, answer.text
    assert server.health()["status"] == "ok"
    error: str = answer.json()["error"]
    assert answer.json()["detail"] == error, "where A1111 has it"
    return error


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"sampler_name": "Restart"},
            "sampler_name: no sampler is called 'Restart'; there are Euler a, Euler",
        ),
        ({"sampler_index": "PLMS"}, "sampler_name: no sampler is called 'PLMS'"),
        ({"scheduler": "Polyexponential"}, "scheduler: no scheduler is called 'Polyexponential'"),
        ({"steps": 0}, "steps"),
        ({"steps": -1}, "steps"),
        ({"steps": "many"}, "steps"),
        ({"steps": [1]}, "steps"),
        ({"steps": 10**9}, "steps"),
        ({"width": 0}, "width"),
        ({"width": -64}, "width"),
        ({"width": 10**6}, "width"),
        ({"width": 40_000}, "width"),
        ({"height": 8}, "height"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 1000}, "batch_size"),
        ({"batch_size": 64, "n_iter": 64}, "4096"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 2**63 - 1, "batch_size": 2}, "seed"),
        ({"seed": "x"}, "seed"),
        ({"cfg_scale": -1}, "cfg_scale"),
        ({"cfg_scale": "NaN"}, "cfg_scale"),
        ({"cfg_scale": 2e307}, "cfg_scale: 2e+307 is not possible; expected a number from 0 to 1000000"),
        ({"eta": 1e300}, "eta: 1e+300 is not possible"),
        ({"distilled_cfg_scale": 1e39}, "distilled_cfg_scale: 1e+39 is not possible"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": ["a"]}, "prompt"),
        ({"enable_hr": True}, "enable_hr"),
        ({"restore_faces": True}, "restore_faces"),
        ({"tiling": True}, "tiling"),
        ({"subseed_strength": 0.5}, "subseed_strength"),
        ({"seed_resize_from_w": 512}, "seed_resize_from_w"),
        ({"refiner_checkpoint": "x"}, "refiner_checkpoint"),
        ({"s_churn": 1}, "s_churn"),
        ({"s_noise": 1.1}, "s_noise"),
        ({"infotext": "Steps: 2"}, "infotext"),
        ({"styles": ["cinematic"]}, "styles"),
        (
            {"prompt": "a cat <lora:../../x:0.8>"},
            "prompt: not possible here: <lora:../../x:0.8> asks for one",
        ),
        ({"negative_prompt": "<hypernet:x>"}, "negative_prompt: not possible here"),
        ({"lora": [{"path": "../../etc/passwd", "multiplier": 1}]}, "lora"),
        ({"script_name": "X/Y/Z plot"}, "script_name: there is no script 'X/Y/Z plot'"),
        ({"alwayson_scripts": {"ControlNet": {"args": [{"model": "x"}]}}}, "'ControlNet'"),
        ({"alwayson_scripts": []}, "alwayson_scripts"),
        ({"override_settings": {"nonsense": 1}}, "override_settings: this server has no setting 'nonsense'"),
        ({"override_settings": {"samples_format": "avif"}}, "override_settings: samples_format"),
        ({"override_settings": []}, "override_settings"),
        ({"extra_images": ["AAAA"]}, "extra_images[0]: the picture is no picture"),
        ({"prompt": block("{")}, "invalid sd_cpp_extra_args"),
        ({"prompt": block("[]")}, "invalid sd_cpp_extra_args"),
        ({"prompt": block('{"steps": 2}')}, "invalid sd_cpp_extra_args: steps"),
        (
            {"prompt": block('{"sample_params": {"sample_steps": "2"}}')},
            "invalid sd_cpp_extra_args: sample_params",
        ),
        ({"prompt": block('{"sample_params": {"sample_steps": 0}}')}, "0"),
        ({"prompt": block('{"lora": [{"path": "/etc/passwd"}]}')}, "invalid sd_cpp_extra_args: lora"),
        ({"prompt": block('{"init_image": "/etc/passwd"}')}, "init_image"),
        ({"prompt": block('{"init_image": "file:///etc/passwd"}')}, "init_image: a link is not followed"),
        ({"prompt": block('{"model": "/etc/passwd"}')}, "invalid sd_cpp_extra_args: model"),
        ({"prompt": block('{"output_format": "/tmp/x"}')}, "sd_cpp_extra_args: samples_format"),
        ({"prompt": block("{}") + block("{}")}, "2 blocks"),
        ({"prompt": "a <sd_cpp_extra_args>{}"}, "does not end"),
    ],
)
def test_txt2img(server: RunningServer, fields: dict[str, Any], message: str) -> None:
    assert message in refused(server, "txt2img", json=QUICK | fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "init_images: 0 pictures"),
        ({"init_images": None}, "init_images: 0 pictures"),
        ({"init_images": PICTURE}, "init_images"),
        ({"init_images": [PICTURE, PICTURE]}, "init_images: 2 pictures; expected one"),
        ({"init_images": [7]}, "init_images"),
        ({"init_images": [""]}, "init_images[0]: empty"),
        ({"init_images": ["no base64!"]}, "init_images[0]: no base64"),
        ({"init_images": [PICTURE[:-2]]}, "init_images[0]: no base64"),
        ({"init_images": [PICTURE[: len(PICTURE) // 8 * 4]]}, "init_images[0]: the picture is damaged"),
        ({"init_images": ["https://example.com/a.png"]}, "init_images[0]: a link is not followed"),
        ({"init_images": [base64.b64encode(b"GGUF" * 9).decode()]}, "a GGUF model"),
        ({"init_images": [PICTURE], "mask": "AAAA"}, "mask: the picture is no picture"),
        ({"init_images": [PICTURE], "resize_mode": 3}, "resize_mode: 3"),
        ({"init_images": [PICTURE], "resize_mode": 9}, "resize_mode"),
        ({"init_images": [PICTURE], "mask": PICTURE, "inpainting_fill": 3}, "inpainting_fill: 3"),
        ({"init_images": [PICTURE], "mask_blur": -1}, "mask_blur"),
        ({"init_images": [PICTURE], "initial_noise_multiplier": 0.5}, "initial_noise_multiplier"),
        ({"init_images": [PICTURE], "denoising_strength": "x"}, "denoising_strength"),
        ({"init_images": [encoded(Image.new("L", (9000, 8000)))]}, "at most 64 megapixels"),
    ],
)
def test_img2img(server: RunningServer, fields: dict[str, Any], message: str) -> None:
    assert message in refused(server, "img2img", json=QUICK | fields)


@pytest.mark.parametrize("path", ["txt2img", "img2img", "extra-single-image", "png-info", "options"])
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"7", b'"x"', b"null", b"\xff\xfe", b"{" * 100_000])
def test_bodies_that_are_no_objects(server: RunningServer, path: str, body: bytes) -> None:
    assert refused(server, path, content=body, headers={"content-type": "application/json"})


def test_what_json_cannot_tell_is_answered_all_the_same(server: RunningServer) -> None:
    """Python's reader of JSON takes lone surrogates and NaN."""
    body = b'{"prompt": "a \\ud800 cat", "steps": 1, "width": 64, "height": 64, "mine": NaN}'
    answer = server.http.post("/sdapi/v1/txt2img", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["parameters"]["mine"] is None


def test_other_methods_and_paths(server: RunningServer) -> None:
    assert server.http.get("/sdapi/v1/txt2img").status_code == 405
    assert server.http.post("/sdapi/v1/progress").status_code == 405
    for path in ("controlnet/txt2img", "../sdapi/v1/none", "create/embedding", "server-kill"):
        assert server.http.post(f"/sdapi/v1/{path}", json={}).status_code in (404, 405)


def test_strength_is_cut_to_its_range(server: RunningServer) -> None:
    for strength in (-1, 2):
        body = QUICK | {"init_images": [PICTURE], "denoising_strength": strength, "steps": 2}
        assert server.http.post("/sdapi/v1/img2img", json=body).status_code == 200
