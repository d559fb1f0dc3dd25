from __future__ import annotations

import io
import logging

import numpy as np
import pytest
from PIL import Image

from darkroom.core.image_files import ImageFormat, encode_image

RAMP = Image.fromarray(np.arange(16 * 16 * 3, dtype=np.uint16).astype(np.uint8).reshape(16, 16, 3))
TEXT = "ein Käfer, 甲虫\nNegative prompt: x\nSteps: 2, Seed: 1, Size: 16x16"


def reopened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def test_png_keeps_every_pixel_and_the_text_under_a1111s_keyword() -> None:
    image = reopened(encode_image(RAMP, ImageFormat.PNG, TEXT))
    assert np.array_equal(np.asarray(image), np.asarray(RAMP))
    assert image.info["parameters"] == TEXT


@pytest.mark.parametrize("format", [ImageFormat.JPEG, ImageFormat.WEBP])
def test_jpeg_and_webp_hold_the_user_comment_that_piexif_writes(format: ImageFormat) -> None:
    image = reopened(encode_image(RAMP, format, TEXT))
    assert image.format == format.upper()
    # piexif.helper.UserComment.dump(text, "unicode"), which A1111 calls
    assert image.getexif().get_ifd(0x8769)[0x9286] == b"UNICODE\0" + TEXT.encode("utf-16-be")
    assert image.info["exif"].removeprefix(b"Exif\0\0").startswith(b"MM")


@pytest.mark.parametrize("format", list(ImageFormat))
def test_without_a_text_there_is_no_metadata(format: ImageFormat) -> None:
    image = reopened(encode_image(RAMP, format))
    assert not {"parameters", "exif", "xmp"} & set(image.info)


def test_a_text_too_long_for_a_jpeg_does_not_cost_the_picture(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        image = reopened(encode_image(RAMP, ImageFormat.JPEG, "x" * 40_000))
    assert image.size == (16, 16)
    assert "too long for a JPEG" in caplog.text


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.PNG", "png"),
        ("a.jpg", "jpeg"),
        ("a.jpe", "jpeg"),
        ("a.webp", "webp"),
        ("a.bmp", None),
        ("a", None),
    ],
)
def test_the_ending_chooses_the_format(name: str, format: str | None) -> None:
    assert ImageFormat.of(name) == format
