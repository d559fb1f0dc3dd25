"""Edits with models that look at reference images, and with networks made for inpainting (tiny Flux.1)."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.families.flux.reference import pipeline
from tests.server.conftest import RunningServer, wait_for
from tests.server.conftest import _start as start
from tests.server.openai_client import Recorder, connect, file_bytes, picture, png, read

PROMPT = "a photo of a cat"
FEW = {"steps": 2, "seed": 7}
AS_THEY_ARE = {"ref_image_args": "resize_before_vae=off"}
"""Or references would be brought to a megapixel first."""


@contextmanager
def serve(folder: Path, **shape: Any) -> Iterator[RunningServer]:  # noqa: ANN401
    pipeline(**shape).save_pretrained(folder)
    server = start("--model", str(folder))
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def kontext(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with serve(tmp_path_factory.mktemp("kontext")) as server:
        yield server


@pytest.fixture(scope="module")
def fill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with serve(tmp_path_factory.mktemp("fill"), in_channels=384) as server:
        yield server


def native(server: RunningServer, **body: Any) -> Image.Image:  # noqa: ANN401
    """The picture that the native API draws."""
    sample_params = {"sample_steps": FEW["steps"]}
    body = {"prompt": PROMPT, "seed": FEW["seed"], "sample_params": sample_params} | body
    job = server.http.post("/sdcpp/v1/img_gen", json=body).json()["id"]

    def state() -> Any:  # noqa: ANN401
        return server.http.get(f"/sdcpp/v1/jobs/{job}").json()

    wait_for(lambda: state()["status"] in ("completed", "failed"))
    assert state()["error"] is None
    return read(state()["result"]["images"][0]["b64_json"])


def base64_of(image: Image.Image) -> str:
    return base64.b64encode(file_bytes(image)).decode()


def difference(a: Image.Image, b: Image.Image) -> float:
    return float(np.abs(np.asarray(a, float) - np.asarray(b, float)).max())


def test_all_pictures_are_references(kontext: RunningServer) -> None:
    recorder = Recorder()
    pictures = [picture(64, 64), picture(48, 80).rotate(90)]
    answer = connect(kontext, recorder=recorder).images.edit(
        image=[png(image) for image in pictures], prompt=PROMPT, size="64x64", extra_body=FEW | AS_THEY_ARE
    )
    assert answer.data
    expected = native(
        kontext,
        width=64,
        height=64,
        ref_images=[base64_of(image) for image in pictures],
        auto_resize_ref_image=False,
    )
    assert difference(read(answer.data[0].b64_json), expected) == 0
    assert difference(expected, native(kontext, width=64, height=64)) > 0
    assert "x-ignored-params" not in recorder.headers
    assert answer.usage
    assert answer.usage.input_tokens_details.image_tokens > 0
    assert answer.usage.output_tokens == 4 * 4


def test_who_names_a_strength_wants_image_to_image(kontext: RunningServer) -> None:
    answer = connect(kontext).images.edit(
        image=png(picture(64, 64)), prompt=PROMPT, extra_body=FEW | {"strength": 0.5}
    )
    assert answer.data
    expected = native(kontext, init_image=base64_of(picture(64, 64)), strength=0.5)
    assert difference(read(answer.data[0].b64_json), expected) == 0
    assert answer.size == "64x64"


def test_a_mask_keeps_the_rest_of_the_first_picture(kontext: RunningServer) -> None:
    mask = Image.new("RGBA", (64, 64), "white")
    mask.paste((0, 0, 0, 0), (0, 0, 32, 64))
    answer = connect(kontext).images.edit(
        image=png(picture(64, 64)), mask=png(mask), prompt=PROMPT, size="64x64", extra_body=FEW | AS_THEY_ARE
    )
    assert answer.data
    extra: Any = answer.data[0]
    assert extra.metadata["Denoising strength"] == "1.000000"


def test_an_inpainting_network_draws_anew_under_the_mask(fill: RunningServer) -> None:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    answer = connect(fill).images.edit(
        image=png(picture(64, 64)), mask=png(mask), prompt=PROMPT, extra_body=FEW
    )
    assert answer.data
    extra: Any = answer.data[0]
    assert extra.metadata["Denoising strength"] == "1.000000"
    expected = native(fill, init_image=base64_of(picture(64, 64)), mask_image=base64_of(mask), strength=1.0)
    assert difference(read(extra.b64_json), expected) == 0
