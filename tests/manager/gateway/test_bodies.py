"""Prompts without settings in them, pictures without surprises."""

from __future__ import annotations

import asyncio
import base64
import io
import struct
import zlib

import pytest
from PIL import Image

from darkroom.api.errors import RequestError
from darkroom.api.extra_args import split_extra_args
from darkroom.api.openai import FieldError, ImageEditRequest, ImageGenerateRequest, parse
from darkroom.manager.config import ManagerConfig
from darkroom.manager.gateway.bodies import check_picture, fetch_links, harmless
from darkroom.manager.gateway.errors import GatewayError
from darkroom.manager.gateway.fetch import fetch_picture
from darkroom.manager.gateway.translate import Pictures, to_native

NO_PICTURES = Pictures()
TAG = '<sd_cpp_extra_args>{"seed": 1}</sd_cpp_extra_args>'


def png(width: int, height: int, mode: str = "RGB", color: object = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height), color).save(buffer, "PNG")  # type: ignore[arg-type]
    return buffer.getvalue()


@pytest.mark.parametrize("field", ["prompt", "negative_prompt", "hr_prompt", "ad_negative_prompt"])
@pytest.mark.parametrize("text", [TAG, TAG.upper(), "<sd_cpp_<sd_cpp_extra_args>extra_args>{}", f"a {TAG} b"])
def test_every_prompt_is_neutralized(field: str, text: str) -> None:
    found = harmless({field: text, "args": [{field: text}], "seed": 5})
    for prompt in (found[field], found["args"][0][field]):
        assert "sd_cpp_extra_args" not in prompt.lower()
        assert split_extra_args(prompt)[1] == {}
    assert found["seed"] == 5


def test_other_texts_stay_as_they_are() -> None:
    assert harmless({"prompt": "a cat, 猫", "note": TAG}) == {"prompt": "a cat, 猫", "note": TAG}


def test_a_bomb_is_refused_by_its_header() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(GatewayError, match="pixels"):
        check_picture("image", io.BytesIO(bomb), 64_000_000)


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"<svg/>", b"\x89PNG\r\n\x1a\n", b"RIFF1234WAVE"])
def test_what_is_no_picture(data: bytes) -> None:
    with pytest.raises(GatewayError, match="not a PNG, JPEG or WebP"):
        check_picture("image", io.BytesIO(data), 1000)


def test_links_are_not_followed_until_they_may_be() -> None:
    body = {"prompt": "x", "images": [{"image_url": "https://example.com/a.png"}]}
    with pytest.raises(RequestError, match="not fetched here"):
        asyncio.run(fetch_links(body, ManagerConfig()))
    plain = {"images": [{"image_url": "data:image/png;base64,AAAA"}], "mask": None}
    assert asyncio.run(fetch_links(plain, ManagerConfig())) == plain


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "169.254.169.254", "0x7f.1"]
)
def test_links_never_lead_inside(host: str) -> None:
    with pytest.raises(RequestError):
        asyncio.run(fetch_picture(f"http://{host}/a.png", "image", ManagerConfig(fetch_images=True)))


def translated(
    fields: dict[str, object], pictures: Pictures = NO_PICTURES, **options: object
) -> dict[str, object]:
    kind = ImageEditRequest if pictures.images else ImageGenerateRequest
    known = {"default_steps": 20, "takes_references": False} | options
    return to_native(parse(kind, {"prompt": "x", **fields}).request, pictures, **known)  # type: ignore[arg-type]


def test_settings_in_native_words() -> None:
    fields = {"seed": 5, "cfg_scale": 3, "guidance": 2, "sampler": "euler", "scheduler": "karras", "n": 2}
    body = translated({**fields, "size": "512x768", "negative_prompt": "no", "quality": "low"})
    assert (body["seed"], body["batch_count"], body["width"], body["height"]) == (5, 2, 512, 768)
    assert body["sample_params"] == {
        "sample_steps": 10,
        "sample_method": "euler",
        "scheduler": "karras",
        "guidance": {"txt_cfg": 3.0, "distilled_guidance": 2.0},
    }


def test_quality_needs_a_number_of_steps() -> None:
    with pytest.raises(FieldError, match="quality"):
        translated({"quality": "high"}, default_steps=None)


def test_a_mask_is_turned_around() -> None:
    mask = Image.new("RGBA", (8, 8), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 4, 8))
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    body = translated({}, Pictures((png(8, 8),), buffer.getvalue()))
    native = Image.open(io.BytesIO(base64.b64decode(str(body["mask_image"]))))
    assert (native.getpixel((0, 0)), native.getpixel((7, 0))) == (255, 0)
    assert "init_image" in body
    with pytest.raises(FieldError, match="8x8"):
        translated({}, Pictures((png(8, 8),), png(4, 4)))


def test_models_that_look_get_references() -> None:
    body = translated({}, Pictures((png(8, 8), png(4, 4))), takes_references=True)
    assert len(body["ref_images"]) == 2  # type: ignore[arg-type]
    assert "init_image" not in body
