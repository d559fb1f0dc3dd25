from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from darkroom.api.errors import RequestError
from darkroom.core.images import fit, load_image, load_mask


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_a_picture_comes_in_as_it_is() -> None:
    picture = noise(9, 5)
    assert np.array_equal(np.asarray(load_image(png(picture), "--init-img")), np.asarray(picture))


def test_transparent_parts_become_white() -> None:
    clear = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    assert load_image(png(clear), "--init-img").getpixel((0, 0)) == (255, 255, 255)


def test_transparent_parts_of_a_mask_keep_the_picture() -> None:
    clear = Image.new("RGBA", (2, 2), (255, 255, 255, 0))
    assert load_mask(png(clear), "--mask").getpixel((0, 0)) == 0


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    deep = Image.fromarray(np.full((2, 2), 0x8000, dtype=np.uint16))
    assert load_mask(png(deep), "--mask").getpixel((0, 0)) == 128


def test_a_photo_is_turned_upright() -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    Image.new("RGB", (8, 4)).save(buffer, "JPEG", exif=exif)
    assert load_image(buffer.getvalue(), "--init-img").size == (4, 8)


def test_a_broken_note_does_not_cost_the_picture() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 4)).save(buffer, "JPEG", exif=b"Exif\0\0MX broken")
    assert load_image(buffer.getvalue(), "--init-img").size == (8, 4)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty (0 bytes)"),
        (b"<!DOCTYPE html><title>404</title>", "is an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "is a git-lfs pointer"),
        (b"GGUF\x03\x00\x00\x00", "is a GGUF model"),
        (b"\x00\x01\x02\x03", "it begins with 00 01 02 03"),
        (png(noise(64, 64))[:2000], "is damaged or cut off"),
    ],
)
def test_a_file_that_is_no_picture_is_named(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    with pytest.raises(RequestError) as caught:
        load_image(path, "--init-img")
    assert str(caught.value).startswith(f"--init-img: '{path}'")
    assert says in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="does not exist"):
        load_mask(tmp_path / "no.png", "--mask")
    with pytest.raises(RequestError, match="is a folder"):
        load_mask(tmp_path, "--mask")


def test_fit_cuts_from_the_middle() -> None:
    stripes = Image.new("RGB", (30, 10), "red")
    stripes.paste("blue", (10, 0, 20, 10))
    assert fit(stripes, 5, 5).getcolors() == [(25, (0, 0, 255))]


def test_fit_leaves_the_right_size_alone() -> None:
    picture = noise(8, 8)
    assert fit(picture, 8, 8) is picture


def test_fit_keeps_the_mode_of_a_mask() -> None:
    mask = fit(Image.new("L", (10, 10), 255), 4, 6)
    assert (mask.mode, mask.size, mask.getextrema()) == ("L", (4, 6), (255, 255))


STB_SMALLER = """
101, 131, 163, 180, 115, 146, 166, 150, 128, 148, 181, 106, 124, 157, 191, 108, 140, 173, 194, 131,
163, 176, 161, 140, 178, 195, 120, 155, 168, 104, 122, 154, 139, 107, 137, 169, 114, 112, 145, 190,
98, 128, 148, 182, 120, 131, 164, 149, 133, 166, 200, 110, 143, 177, 203, 112, 143, 180, 193, 126,
168, 104, 134, 145, 178, 125, 136, 136, 170, 127, 120, 152
"""
STB_LARGER = """
5, 41, 58, 111, 141, 164, 159, 119, 42, 92, 122, 144, 217, 160, 14, 67, 98, 120
"""


@pytest.mark.parametrize(
    ("old", "new", "factor", "offset", "golden"),
    [((9, 6, 3), (4, 6), 37, 11, STB_SMALLER), ((2, 4), (6, 3), 53, 5, STB_LARGER)],
    ids=["smaller", "larger"],
)
def test_fit_resizes_as_stb_image_resize_does(
    old: tuple[int, ...], new: tuple[int, int], factor: int, offset: int, golden: str
) -> None:
    """Golden bytes: stb_image_resize 0.90, STBIR_FILTER_BOX, STBIR_COLORSPACE_SRGB; it rounds by a table."""
    ramp = (np.arange(np.prod(old)) * factor + offset) % 256
    resized = np.asarray(fit(Image.fromarray(ramp.reshape(old).astype(np.uint8)), *new), dtype=int).reshape(
        -1
    )
    assert np.abs(resized - [int(value) for value in golden.split(",")]).max() <= 1


@pytest.mark.parametrize(
    ("source", "message"),
    [(Image.new("RGB", (0, 4)), "0x4; it has no pixels"), (Path("a\0b"), "is no path")],
)
def test_what_is_no_picture_at_all_is_refused(source: Image.Image | Path, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        load_image(source, "--init-img")
