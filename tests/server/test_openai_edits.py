"""POST /v1/images/edits and /v1/images/variations, asked with the openai package."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from openai import BadRequestError
from PIL import Image, ImageDraw
from tests.server.conftest import RunningServer
from tests.server.openai_client import Recorder, connect, data_url, file_bytes, picture, png, read

from darkroom.core.infotext import read_infotext

PROMPT = "a green square"
FEW = {"steps": 4, "seed": 7}


def settings(image: Any) -> Any:  # noqa: ANN401
    return read_infotext(image.metadata["parameters"]).settings


def transparent_middle(size: int = 256) -> Image.Image:
    """OpenAI's kind of mask: alpha 0 where the picture is to change."""
    mask = Image.new("RGBA", (size, size), "white")
    ImageDraw.Draw(mask).rectangle((size // 4, size // 4, size * 3 // 4, size * 3 // 4), (0, 0, 0, 0))
    return mask


def difference(a: Image.Image, b: Image.Image) -> Any:  # noqa: ANN401
    return np.abs(np.asarray(a.convert("RGB"), float) - np.asarray(b.convert("RGB"), float)).mean(-1)


def test_one_image(server: RunningServer) -> None:
    answer = connect(server).images.edit(image=png(picture()), prompt=PROMPT, extra_body=FEW)
    assert answer.data
    assert answer.size == "256x256"
    extra: Any = answer.data[0]
    assert settings(extra)["Denoising strength"] == "0.750000"
    assert answer.usage
    assert answer.usage.input_tokens_details.image_tokens == 32 * 32


def test_strength_is_how_far_it_departs(server: RunningServer) -> None:
    images = connect(server).images

    def departed(**fields: Any) -> float:  # noqa: ANN401
        data: Any = images.edit(
            image=png(picture(128, 128)), prompt=PROMPT, extra_body=FEW | {"steps": 10} | fields
        ).data  # fmt: skip
        return float(difference(read(data[0].b64_json), picture(128, 128)).mean())

    assert departed(strength=0.1) < departed(strength=0.95)
    assert departed(input_fidelity="high") == departed(strength=0.5)


def test_three_images(server: RunningServer) -> None:
    recorder = Recorder()
    answer = connect(server, recorder=recorder).images.edit(
        image=[png(picture(64, 64)), png(picture(96, 64)), ("c.webp", file_bytes(picture(), "WEBP"))],
        prompt=PROMPT,
        n=2,
        extra_body=FEW,
    )
    assert answer.data
    assert len(answer.data) == 2
    assert answer.size == "64x64"
    assert recorder.headers["x-ignored-params"] == "image[1], image[2]"


def test_strict_takes_no_picture_that_is_not_looked_at(server: RunningServer) -> None:
    with pytest.raises(BadRequestError, match="one picture"):
        connect(server).images.edit(
            image=[png(picture(64, 64))] * 2, prompt=PROMPT, extra_body=FEW | {"strict": "true"}
        )


@pytest.mark.parametrize("kind", ["alpha", "black and white"])
def test_mask(server: RunningServer, kind: str) -> None:
    mask = transparent_middle()
    if kind != "alpha":
        mask = mask.getchannel("A").point(lambda alpha: 255 - alpha)
    images = connect(server).images

    def edited(seed: int) -> Image.Image:
        few = {"steps": 6, "strength": 1, "seed": seed}
        data = images.edit(image=png(picture()), mask=png(mask), prompt=PROMPT, extra_body=few).data
        assert data
        return read(data[0].b64_json)

    changed = difference(edited(1), edited(2))
    assert changed[:, :32].max() < 8
    assert changed[96:160, 96:160].mean() > 3 * changed[:, :32].mean()


def test_size_is_the_first_images_unless_another_is_named(server: RunningServer) -> None:
    images = connect(server).images
    photo = png(picture(200, 130))
    assert images.edit(image=photo, prompt=PROMPT, size="auto", extra_body=FEW).size == "192x128"
    assert images.edit(image=photo, prompt=PROMPT, size="64x96", extra_body=FEW).size == "64x96"


def test_markup_is_drawn_onto_the_first_image(server: RunningServer) -> None:
    markup = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    ImageDraw.Draw(markup).rectangle((0, 0, 31, 63), "lime")
    image, marked = picture(64, 64), picture(64, 64)
    marked.paste(markup, mask=markup)
    images = connect(server).images
    with_markup = images.edit(image=png(image), markup=png(markup), prompt=PROMPT, extra_body=FEW).data
    expected = images.edit(image=png(marked), prompt=PROMPT, extra_body=FEW).data
    assert with_markup
    assert expected
    assert with_markup[0].b64_json == expected[0].b64_json


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_variation(server: RunningServer) -> None:
    images = connect(server).images
    data: Any = images.create_variation(
        image=png(picture(64, 64)), n=2, response_format="b64_json", extra_body={"steps": 5}
    ).data  # fmt: skip
    assert settings(data[0])["Denoising strength"] == "0.400000"
    assert data[1].seed == data[0].seed + 1
    again: Any = images.create_variation(image=png(picture(64, 64)), extra_body={"steps": 5}).data
    assert again[0].seed != data[0].seed
    url = images.create_variation(
        image=png(picture(64, 64)), size="256x256", response_format="url", extra_body={"steps": 5}
    )  # fmt: skip
    assert url.size == "256x256"
    assert url.data
    assert url.data[0].url


def test_json_edits(server: RunningServer) -> None:
    body = {
        "prompt": PROMPT,
        "images": [{"image_url": data_url(picture(64, 64))}],
        "mask": {"image_url": data_url(transparent_middle(64))},
        **FEW,
    }
    answer = server.http.post("/v1/images/edits", json=body)
    assert answer.status_code == 200, answer.text
    same: Any = connect(server).images.edit(
        image=png(picture(64, 64)), mask=png(transparent_middle(64)), prompt=PROMPT, extra_body=FEW
    ).data  # fmt: skip
    assert answer.json()["data"][0]["b64_json"] == same[0].b64_json


def test_open_webui_sends_empty_strings(server: RunningServer) -> None:
    form = {"prompt": PROMPT, "model": "", "n": "1", "size": "", "response_format": "", "background": "",
            "quality": "", "steps": "2"}  # fmt: skip
    answer = server.http.post("/v1/images/edits", data=form, files={"image": png(picture(64, 64))})
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"][0]["b64_json"]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"image": ("a.png", b"no picture", "image/png")}, "image", "invalid_image_file"),
        ({"image": png(picture(64, 64)), "mask": png(transparent_middle(32))}, "mask", "invalid_mask"),
        (
            {"image": png(picture(64, 64)), "mask": png(Image.new("RGBA", (64, 64)).convert("RGB"))},
            None,
            None,
        ),
        (
            {"image": png(picture(64, 64)), "mask": png(Image.new("RGBA", (64, 64), "white"))},
            "mask",
            "invalid_mask",
        ),
        ({"image": [png(picture(64, 64))] * 17}, "image", "array_above_max_length"),
        ({"image": ("a.png", file_bytes(picture(64, 64))[:200], "image/png")}, "image", "invalid_image_file"),
    ],
    ids=["text", "small mask", "black mask", "full mask", "17 images", "cut off"],
)
def test_pictures_that_cannot_be(
    server: RunningServer, fields: dict[str, Any], param: str | None, code: str | None
) -> None:
    images = connect(server).images
    if code is None:
        images.edit(prompt=PROMPT, **fields, extra_body=FEW)
        return
    with pytest.raises(BadRequestError) as caught:
        images.edit(prompt=PROMPT, **fields, extra_body=FEW)
    assert (caught.value.param, caught.value.code) == (param, code)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": PROMPT}, "image"),
        ({"prompt": PROMPT, "images": []}, "image"),
        ({"prompt": PROMPT, "images": [{"image_url": "http://169.254.169.254/"}]}, "image"),
        ({"prompt": PROMPT, "images": [{"file_id": "file-1"}]}, "image"),
        ({"prompt": PROMPT, "images": [{"image_url": "data:image/png;base64,!"}]}, "image"),
        ({"prompt": PROMPT, "images": "x", "n": 1}, "images"),
        ({"images": [{"image_url": data_url(picture(64, 64))}]}, "prompt"),
    ],
)
def test_json_that_cannot_be(server: RunningServer, body: dict[str, Any], param: str) -> None:
    answer = server.http.post("/v1/images/edits", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_a_bomb_is_refused(server: RunningServer) -> None:
    bomb = png(Image.new("1", (30_000, 30_000)))
    with pytest.raises(BadRequestError, match="megapixels") as caught:
        connect(server).images.edit(image=bomb, prompt=PROMPT)
    assert caught.value.code == "invalid_image_file"
