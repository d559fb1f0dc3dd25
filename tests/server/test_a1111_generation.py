"""POST /sdapi/v1/txt2img and /img2img, asked with the webuiapi package."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from tests.server.a1111_client import PROMPT, connect, encoded, read
from tests.server.conftest import RunningServer

from darkroom.core.infotext import read_infotext

SMALL = {"width": 128, "height": 128}
GREEN = Image.new("RGB", (128, 128), (20, 160, 40))


def settings_of(image: Image.Image) -> dict[str, str]:
    return dict(read_infotext(image.info["parameters"]).settings)


def square_mask(
    box: tuple[int, int, int, int] = (32, 32, 96, 96), size: tuple[int, int] = (128, 128)
) -> Image.Image:
    mask = Image.new("L", size)
    mask.paste(255, box)
    return mask


def test_a_picture_and_its_info(server: RunningServer) -> None:
    result = connect(server).txt2img(prompt=PROMPT, negative_prompt="blurry", seed=5, **SMALL)
    assert (result.image.format, result.image.size) == ("PNG", (128, 128))
    info: Any = result.info
    assert info["infotexts"] == [result.image.info["parameters"]]
    expected = {
        "prompt": PROMPT,
        "all_prompts": [PROMPT],
        "negative_prompt": "blurry",
        "all_negative_prompts": ["blurry"],
        "seed": 5,
        "all_seeds": [5],
        "width": 128,
        "height": 128,
        "sampler_name": "Euler a",
        "cfg_scale": 7,
        "steps": 2,
        "batch_size": 1,
        "sd_model_name": "builtin",
        "denoising_strength": None,
        "extra_generation_params": {"Schedule type": "Automatic"},
        "index_of_first_image": 0,
        "clip_skip": 1,
    }
    assert {name: info[name] for name in expected} == expected
    settings = settings_of(result.image)
    assert (settings["Seed"], settings["Steps"], settings["Eta"]) == ("5", "2", "1.000000")
    assert isinstance(result.json["info"], str)


def test_parameters_repeat_the_request(server: RunningServer) -> None:
    body = {
        "prompt": PROMPT,
        "steps": 1,
        "seed": 3,
        "width": 64,
        "height": 64,
        "my_own": {"a": 1},
        "hr_scale": 2,
    }
    answer = server.http.post("/sdapi/v1/txt2img", json=body).json()
    assert answer["parameters"] == body


def test_batches_and_iterations_count_seeds_up(server: RunningServer) -> None:
    result = connect(server).txt2img(prompt=PROMPT, seed=7, batch_size=2, n_iter=2, width=64, height=64)
    info: Any = result.info
    assert info["all_seeds"] == [7, 8, 9, 10]
    assert info["batch_size"] == 2
    assert [settings_of(image)["Seed"] for image in result.images] == ["7", "8", "9", "10"]
    again = connect(server).txt2img(prompt=PROMPT, seed=9, width=64, height=64)
    assert again.image.tobytes() == result.images[2].tobytes()


def test_a_negative_seed_is_drawn_and_told(server: RunningServer) -> None:
    api = connect(server)
    first: Any
    first, second = (api.txt2img(prompt=PROMPT, seed=-1, width=64, height=64) for _ in range(2))
    assert first.info["seed"] >= 0
    assert first.info["seed"] != second.info["seed"]
    again = api.txt2img(prompt=PROMPT, seed=first.info["seed"], width=64, height=64)
    assert again.image.tobytes() == first.image.tobytes()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"sampler_name": "DPM++ 2M Karras"}, ("dpm++2m karras", "DPM++ 2M", "Karras")),
        ({"sampler_name": "DPM++ 2M", "scheduler": "Karras"}, ("dpm++2m karras", "DPM++ 2M", "Karras")),
        ({"sampler_index": "Heun", "sampler_name": None}, ("heun discrete", "Heun", "Automatic")),
        ({"sampler_name": "default"}, ("euler_a discrete", "Euler a", "Automatic")),
        ({}, ("euler_a discrete", "Euler a", "Automatic")),
    ],
)
def test_samplers_are_spelled_as_a1111_does(
    server: RunningServer, names: dict[str, Any], expected: tuple[str, str, str]
) -> None:
    body = {"prompt": PROMPT, "steps": 1, "width": 64, "height": 64, "seed": 1, **names}
    answer = server.http.post("/sdapi/v1/txt2img", json=body).json()
    info = json.loads(answer["info"])
    sampler = settings_of(read(answer["images"][0]))["Sampler"]
    assert (sampler, info["sampler_name"], info["extra_generation_params"]["Schedule type"]) == expected


def test_settings_of_one_request(server: RunningServer) -> None:
    body = {
        "prompt": PROMPT,
        "steps": 1,
        "width": 64,
        "height": 64,
        "override_settings": {"samples_format": "webp", "CLIP_stop_at_last_layers": 2, "sd_vae": "Automatic"},
    }
    answer = server.http.post("/sdapi/v1/txt2img", json=body).json()
    assert read(answer["images"][0]).format == "WEBP"
    assert json.loads(answer["info"])["clip_skip"] == 2
    assert server.http.get("/sdapi/v1/options").json()["samples_format"] == "png"


def test_pictures_need_not_be_sent(server: RunningServer) -> None:
    body = {"prompt": PROMPT, "steps": 1, "width": 64, "height": 64, "send_images": False, "seed": 4}
    answer = server.http.post("/sdapi/v1/txt2img", json=body).json()
    assert answer["images"] == []
    assert json.loads(answer["info"])["all_seeds"] == [4]


def test_native_options_in_the_prompt(server: RunningServer) -> None:
    block = '<sd_cpp_extra_args>{"seed": 11, "sample_params": {"sample_steps": 3, "scheduler": "karras"}}'
    body = {
        "prompt": f"{PROMPT} {block}</sd_cpp_extra_args>",
        "steps": 1,
        "seed": 2,
        "width": 64,
        "height": 64,
    }
    answer = server.http.post("/sdapi/v1/txt2img", json=body).json()
    info = json.loads(answer["info"])
    assert (info["prompt"], info["seed"], info["steps"]) == (PROMPT, 11, 3)
    settings = settings_of(read(answer["images"][0]))
    assert (settings["Seed"], settings["Steps"], settings["Sampler"]) == ("11", "3", "euler_a karras")


def test_a_picture_of_a_picture(server: RunningServer) -> None:
    api = connect(server, steps=4)
    near = api.img2img([GREEN], prompt=PROMPT, denoising_strength=0.1, seed=1, **SMALL)
    far = api.img2img([GREEN], prompt=PROMPT, denoising_strength=1.0, seed=1, **SMALL)
    info: Any = near.info
    assert info["denoising_strength"] == 0.1
    assert settings_of(near.image)["Denoising strength"] == "0.100000"
    assert difference(near.image, GREEN) < difference(far.image, GREEN)
    parameters: Any = near.parameters
    assert parameters["init_images"] is None


def test_the_pictures_own_size_is_kept(server: RunningServer) -> None:
    body = {"init_images": [encoded(GREEN.resize((192, 64)))], "prompt": PROMPT, "steps": 1}
    answer = server.http.post("/sdapi/v1/img2img", json=body).json()
    assert read(answer["images"][0]).size == (192, 64)


def test_pictures_are_echoed_on_request(server: RunningServer) -> None:
    images = [encoded(GREEN.resize((64, 64)))]
    body = {"init_images": images, "prompt": PROMPT, "steps": 1, "include_init_images": True}
    assert server.http.post("/sdapi/v1/img2img", json=body).json()["parameters"]["init_images"] == images


@pytest.mark.parametrize("only_masked", [False, True])
def test_outside_the_mask_nothing_changes(server: RunningServer, only_masked: bool) -> None:
    result = connect(server).img2img(
        [GREEN],
        mask_image=square_mask(),
        prompt=PROMPT,
        inpaint_full_res=only_masked,
        mask_blur=2,
        seed=1,
        **SMALL,
    )
    drawn, before = np.asarray(result.image, int), np.asarray(GREEN, int)
    assert np.array_equal(drawn[:20], before[:20])
    assert np.array_equal(drawn[:, :20], before[:, :20])
    assert np.abs(drawn[48:80, 48:80] - before[48:80, 48:80]).max() > 10


def test_only_the_masked_part_is_drawn_at_full_size(server: RunningServer) -> None:
    picture = Image.new("RGB", (512, 256), (20, 160, 40))
    mask = square_mask((384, 96, 448, 160), picture.size)
    result = connect(server).img2img([picture], mask_image=mask, prompt=PROMPT, mask_blur=0, seed=1, **SMALL)
    drawn, before = np.asarray(result.image, int), np.asarray(picture, int)
    assert result.image.size == (512, 256)
    outside = np.asarray(mask) == 0
    assert np.array_equal(drawn[outside], before[outside])
    assert np.abs(drawn - before)[~outside].max() > 10
    assert settings_of(result.image)["Size"] == "128x128"


def test_a_mask_can_be_turned_round(server: RunningServer) -> None:
    api = connect(server)
    same: Any = {"prompt": PROMPT, "seed": 1, "inpaint_full_res": False, **SMALL}
    plain = api.img2img([GREEN], mask_image=square_mask(), **same)
    turned = api.img2img([GREEN], mask_image=ImageOps.invert(square_mask()), inpainting_mask_invert=1, **same)
    assert plain.image.tobytes() == turned.image.tobytes()


def difference(image: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(image, int) - np.asarray(other, int)).mean())
