import base64
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageSequence

from darkroom.api.errors import RequestError
from darkroom.core.image_files import ImageFormat
from darkroom.server.pictures import open_picture, read_picture, write_picture

RAMP = Image.linear_gradient("L").resize((24, 16)).convert("RGB")


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises much and brings nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_pictures_are_read_as_bytes_and_as_base64(format: str) -> None:
    data = encoded(RAMP, format, **({"lossless": True} if format == "WEBP" else {}))
    text = base64.b64encode(data).decode()
    spellings = [
        data,
        text,
        f"data:image/{format.lower()};base64,{text}",
        f"DATA:;charset=utf-8;BASE64, {text}",
        "\r\n".join(text[i : i + 76] for i in range(0, len(text), 76)) + "\n",
    ]
    for spelling in spellings:
        picture = read_picture(spelling, "image")
        assert picture.mode == "RGB"
        assert picture.tobytes() == RAMP.tobytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("data:image/png;base64,", "empty"),
        ("not base64!", "no base64"),
        (base64.b64encode(encoded(RAMP)).decode()[:-1], "no base64"),
        ("\u00e9" * 8, "no base64"),
        ("data:image/png,%89PNG", "';base64'"),
        ("https://example.com/cat.png", "a link is not followed"),
        ("FILE:///etc/passwd", "a link is not followed"),
        (base64.b64encode(b"hello, I am a text").decode(), "no picture that can be read"),
        (base64.b64encode(b"<html><body>").decode(), "an HTML page"),
        (base64.b64encode(encoded(RAMP, "BMP")).decode(), "expected PNG, JPEG or WebP"),
        (base64.b64encode(encoded(RAMP, "GIF")).decode(), "expected PNG, JPEG or WebP"),
        (base64.b64encode(encoded(RAMP, "TIFF")).decode(), "expected PNG, JPEG or WebP"),
        (base64.b64encode(b"<svg xmlns='http://www.w3.org/2000/svg'/>").decode(), "an SVG drawing"),
    ],
)
def test_what_is_no_picture_is_named(text: str, message: str) -> None:
    with pytest.raises(RequestError, match=r"^init_images\[0\]: ") as caught:
        read_picture(text, "init_images[0]")
    assert message in str(caught.value)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9])
def test_cut_off_pictures_are_refused(format: str, share: float) -> None:
    data = encoded(Image.effect_noise((64, 64), 90).convert("RGB"), format)
    with pytest.raises(RequestError, match=r"^image: "):
        read_picture(data[: max(12, int(len(data) * share))], "image")


@pytest.mark.parametrize("size", [(8001, 8000), (30_000, 30_000), (65_000, 65_000), (2**31 - 1, 2**31 - 1)])
def test_bombs_are_refused_by_their_header(size: tuple[int, int]) -> None:
    with pytest.raises(RequestError, match="at most 64 megapixels"):
        read_picture(png_header(*size), "image")


def test_a_bomb_of_text_is_refused() -> None:
    text = zlib.compress(bytes(100_000_000))
    chunk = b"zTXt" + b"parameters\0\0" + text
    data = encoded(RAMP)
    bomb = (
        data[:33]
        + struct.pack(">I", len(chunk) - 4)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + data[33:]
    )
    with pytest.raises(RequestError, match=r"^image: "):
        read_picture(bomb, "image")


def test_pictures_are_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right
    picture = read_picture(encoded(RAMP, "JPEG", exif=exif), "image")
    assert picture.size == (16, 24)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "I;16", "I"])
def test_every_mode_of_png_becomes_rgb(mode: str) -> None:
    grey = Image.new("L", (8, 8), 128)
    if mode in ("I;16", "I"):
        source = Image.fromarray(np.full((8, 8), 0x8000, np.uint16))
    else:
        source = grey.convert(mode) if mode != "1" else Image.new("1", (8, 8), 1)
    picture = read_picture(encoded(source), "image")
    assert picture.mode == "RGB"
    expected = 255 if mode == "1" else 128
    assert abs(int(np.asarray(picture)[0, 0, 0]) - expected) <= 1


def test_cmyk_becomes_rgb() -> None:
    picture = read_picture(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"), "image")
    red, green, blue = np.asarray(picture)[4, 4]
    assert picture.mode == "RGB"
    assert red > 200
    assert max(green, blue) < 60


def test_transparency_is_white_in_a_picture_and_black_in_a_mask() -> None:
    clear = encoded(Image.new("RGBA", (4, 4), (10, 20, 30, 0)))
    assert read_picture(clear, "image").getpixel((0, 0)) == (255, 255, 255)
    mask = read_picture(clear, "mask", mask=True)
    assert mask.mode == "L"
    assert mask.getpixel((0, 0)) == 0
    assert open_picture(clear, "image").mode == "RGBA"


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_counts(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], lossless=True)
    assert len(list(ImageSequence.Iterator(Image.open(io.BytesIO(data))))) == 3
    assert read_picture(data, "image").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("format", list(ImageFormat))
def test_written_pictures_are_read_again(format: ImageFormat) -> None:
    data = write_picture(RAMP, format, infotext="a cat\nSteps: 1")
    picture = open_picture(data, "image")
    assert picture.format is None or picture.format == format.upper()
    worst = np.abs(np.asarray(picture.convert("RGB"), int) - np.asarray(RAMP, int)).max()
    assert worst <= (0 if format is ImageFormat.PNG else 8)


def test_compression_is_quality() -> None:
    noise = Image.effect_noise((64, 64), 90).convert("RGB")
    for format in (ImageFormat.JPEG, ImageFormat.WEBP):
        sizes = [len(write_picture(noise, format, quality)) for quality in (0, 40, 80, 100)]
        assert sizes == sorted(set(sizes))
    assert write_picture(noise, ImageFormat.PNG, 0) == write_picture(noise, ImageFormat.PNG, 100)
