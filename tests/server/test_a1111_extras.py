"""Upscaling, and what pictures say about themselves."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tests.server.a1111_client import PROMPT, connect, encoded
from tests.server.conftest import RunningServer

from darkroom.core.image_files import ImageFormat, encode_image

RAMP = Image.linear_gradient("L").resize((32, 16)).convert("RGB")
TEXT = "a cat, \u732b\nNegative prompt: blurry\nSteps: 2, Seed: 7, Size: 32x16, Sampler: euler discrete"


def test_nearest_and_lanczos(server: RunningServer) -> None:
    api = connect(server)
    nearest = api.extra_single_image(RAMP, upscaler_1="Nearest", upscaling_resize=3)
    assert nearest.image.tobytes() == RAMP.resize((96, 48), Image.Resampling.NEAREST).tobytes()
    assert "Nearest" in nearest.info
    lanczos = api.extra_single_image(RAMP, upscaler_1="Lanczos", upscaling_resize=1.5)
    assert lanczos.image.tobytes() == RAMP.resize((48, 24), Image.Resampling.LANCZOS).tobytes()
    assert api.extra_single_image(RAMP).image.tobytes() == RAMP.tobytes()


def test_two_upscalers_are_mixed(server: RunningServer) -> None:
    mixed = connect(server).extra_single_image(
        RAMP, upscaler_1="Nearest", upscaler_2="Lanczos", extras_upscaler_2_visibility=0.5
    )
    first, second = (np.asarray(RAMP.resize((64, 32), method), float) for method in (0, 1))
    assert np.abs(np.asarray(mixed.image, float) - (first + second) / 2).max() <= 1


def test_to_a_size(server: RunningServer) -> None:
    api = connect(server)
    to: Any = {"resize_mode": 1, "upscaling_resize_w": 64, "upscaling_resize_h": 64, "upscaler_1": "Lanczos"}
    assert api.extra_single_image(RAMP, **to).image.size == (64, 64)
    assert api.extra_single_image(RAMP, upscaling_crop=False, **to).image.size == (64, 32)


def test_several_pictures(server: RunningServer) -> None:
    result = connect(server).extra_batch_images([RAMP, RAMP.rotate(90, expand=True)], upscaler_1="Nearest")
    assert [image.size for image in result.images] == [(64, 32), (32, 64)]


def test_what_made_a_picture_survives(server: RunningServer) -> None:
    api = connect(server)
    drawn = api.txt2img(prompt=PROMPT, seed=3, width=64, height=64)
    larger = api.extra_single_image(drawn.image, upscaler_1="Lanczos")
    assert larger.image.info["parameters"] == drawn.image.info["parameters"]


TOO_LARGE = {
    "upscaler_1": "Lanczos",
    "resize_mode": 1,
    "upscaling_resize_w": 65_000,
    "upscaling_resize_h": 9000,
}


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"upscaler_1": "ESRGAN_4x"}, "no upscaler is called 'ESRGAN_4x'; there are None, Lanczos, Nearest"),
        ({"gfpgan_visibility": 0.5}, "gfpgan_visibility"),
        ({"codeformer_visibility": 1}, "codeformer_visibility"),
        ({"upscaler_1": "Lanczos", "upscaling_resize": 0}, "upscaling_resize"),
        ({"upscaler_1": "Lanczos", "upscaling_resize": 1e9}, "upscaling_resize"),
        (TOO_LARGE, "size: 65000x9000 is too large"),
        ({"resize_mode": 2}, "resize_mode"),
        ({"image": ""}, "image: empty"),
        ({"image": "AAAA"}, "image: the picture is no picture"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_named(server: RunningServer, wish: dict[str, Any], message: str) -> None:
    answer = server.http.post("/sdapi/v1/extra-single-image", json={"image": encoded(RAMP), **wish})
    assert 400 <= answer.status_code < 500
    assert message in answer.json()["error"]


def test_a_drawn_picture_says_how(server: RunningServer) -> None:
    api = connect(server)
    drawn = api.txt2img(prompt=PROMPT, negative_prompt="blurry", seed=3, width=64, height=64)
    info = api.png_info(drawn.image)
    assert info.info == drawn.image.info["parameters"]
    parameters: Any = info.parameters
    assert (parameters["Prompt"], parameters["Negative prompt"]) == (PROMPT, "blurry")
    assert (parameters["Seed"], parameters["Size-1"], parameters["Size-2"]) == ("3", "64", "64")


@pytest.mark.parametrize("format", list(ImageFormat))
def test_every_format_says_how(server: RunningServer, format: ImageFormat) -> None:
    data = base64.b64encode(encode_image(RAMP, format, TEXT)).decode()
    answer = server.http.post("/sdapi/v1/png-info", json={"image": data}).json()
    assert answer["info"] == TEXT
    assert answer["parameters"]["Prompt"] == "a cat, \u732b"
    assert answer["parameters"]["Seed"] == "7"


def test_other_texts_are_items(server: RunningServer) -> None:
    texts = PngInfo()
    texts.add_text("workflow", '{"nodes": []}')
    texts.add_text("Software", "somebody's", zip=True)
    answer = server.http.post("/sdapi/v1/png-info", json={"image": encoded(RAMP, pnginfo=texts)}).json()
    assert answer["info"] == ""
    assert answer["parameters"] == {}
    assert answer["items"]["workflow"] == '{"nodes": []}'
    assert answer["items"]["Software"] == "somebody's"


def test_png_info_of_no_picture(server: RunningServer) -> None:
    for data in ("", "AAAA", "%%%"):
        answer = server.http.post("/sdapi/v1/png-info", json={"image": data})
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("image: ")
