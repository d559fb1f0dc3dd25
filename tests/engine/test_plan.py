from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from darkroom.api.errors import RequestError
from darkroom.api.names import SampleMethod, Scheduler
from darkroom.api.request import GenerationRequest
from darkroom.engine.plan import Plan, make_plan
from darkroom.families.base import SampleDefaults

DEFAULTS = SampleDefaults(
    method=SampleMethod.EULER_A,
    scheduler=Scheduler.DISCRETE,
    steps=20,
    cfg_scale=7.0,
    width=512,
    height=640,
    size_multiple=64,
    clip_skip=1,
)


def plan(**options: object) -> Plan:
    return make_plan(GenerationRequest.model_validate(options), DEFAULTS)


def test_defaults_are_the_familys() -> None:
    made = plan()
    assert (made.width, made.height, made.steps, made.cfg_scale) == (512, 640, 20, 7.0)
    assert (made.method, made.eta, made.clip_skip, made.seeds) == (SampleMethod.EULER_A, 1.0, 1, (42,))


def test_the_request_wins() -> None:
    made = plan(width=64, height=128, steps=3, cfg_scale=1.5, eta=0.5, clip_skip=2, sampling_method="euler")
    assert (made.width, made.height, made.steps, made.cfg_scale) == (64, 128, 3, 1.5)
    assert (made.method, made.eta, made.clip_skip) == (SampleMethod.EULER, 0.5, 2)


def test_guidance_of_zero_is_kept() -> None:
    assert plan(cfg_scale=0.0).cfg_scale == 0.0


def test_clip_skip_below_one_means_the_default() -> None:
    assert plan(clip_skip=-1).clip_skip == 1


def test_sizes_are_rounded_up_with_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        made = plan(width=100, height=64)
    assert (made.width, made.height) == (128, 64)
    assert "100x64 becomes 128x64" in caplog.text


def test_a_fitting_size_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    plan(width=128, height=64)
    assert not caplog.records


def test_the_init_image_gives_the_size() -> None:
    made = plan(init_image=Image.new("RGB", (100, 300)))
    assert (made.width, made.height) == (128, 320)
    assert made.init_image is not None
    assert made.init_image.size == (128, 320)


def test_images_are_cut_to_the_size(tmp_path: Path) -> None:
    path = tmp_path / "init.png"
    Image.new("RGB", (90, 30), "red").save(path)
    made = plan(init_image=path, mask_image=Image.new("L", (30, 30), 255), width=64, height=64)
    assert made.init_image is not None
    assert made.mask is not None
    assert (made.init_image.size, made.mask.size) == ((64, 64), (64, 64))


def test_a_size_is_refused_before_an_image_is_brought_to_it() -> None:
    def refuse(width: int, height: int) -> None:
        raise RequestError(f"{width}x{height}")

    asked = GenerationRequest(init_image=Image.new("RGB", (2**10, 1)), width=2**40, height=2**40)
    with pytest.raises(RequestError, match=f"{2**40}x{2**40}"):
        make_plan(asked, DEFAULTS, refuse)


def test_given_levels_count_the_steps() -> None:
    assert plan(sigmas=(14.0, 2.0, 0.0), steps=9).steps == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_image": Image.new("L", (8, 8))}, "--mask: a mask needs the image"),
        ({"init_image": b"<html>"}, "--init-img: the picture is an HTML page"),
        ({"sigmas": (1.0, 2.0)}, "--sigmas"),
        ({"seed": 2**63 - 1, "batch_count": 2}, "--seed: 2 images from 9223372036854775807 on"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        plan(**options)


def test_each_image_has_its_seed() -> None:
    assert plan(seed=7, batch_count=3).seeds == (7, 8, 9)


def test_a_negative_seed_becomes_some_other() -> None:
    assert plan(seed=-1).seeds[0] >= 0


def test_a_side_that_the_network_cannot_place_is_refused() -> None:
    defaults = replace(DEFAULTS, longest_side=512)
    with pytest.raises(RequestError, match="size: 576x256 is more than this model can place; up to 512"):
        make_plan(GenerationRequest(width=520, height=256), defaults)
