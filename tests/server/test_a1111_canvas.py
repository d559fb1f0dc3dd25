"""Masks, cut-outs and fills of img2img, without a server."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.server.a1111_client import encoded

from darkroom.api.a1111.requests import ImageToImage
from darkroom.api.errors import RequestError
from darkroom.server.routes.a1111.canvas import Canvas, filled, make_canvas, read_mask, region, resized

RED, BLUE = (255, 0, 0), (0, 0, 255)


def picture(size: tuple[int, int] = (64, 32)) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image


def masked(box: tuple[int, int, int, int], size: tuple[int, int] = (64, 32)) -> Image.Image:
    mask = Image.new("L", size)
    mask.paste(255, box)
    return mask


def canvas(image: Image.Image, mask: Image.Image | None = None, **fields: Any) -> Canvas:  # noqa: ANN401
    width, height = fields.pop("size", (None, None))
    data = {"init_images": [encoded(image)], "mask": mask and encoded(mask), "mask_blur": 0, **fields}
    return make_canvas(ImageToImage(**data), width, height)


def test_without_a_mask_the_drawn_picture_is_the_result() -> None:
    made = canvas(picture(), size=(32, 32))
    assert made.image.size == (32, 32)
    drawn = Image.new("RGB", (32, 32), "lime")
    assert made.finish(drawn) is drawn


def test_resize_modes() -> None:
    stretched, cut, whole = (resized(picture((64, 32)), (64, 64), mode) for mode in (0, 1, 2))
    assert stretched.size == cut.size == whole.size == (64, 64)
    assert (stretched.getpixel((2, 32)), stretched.getpixel((61, 32))) == (RED, BLUE)
    assert (cut.getpixel((2, 32)), cut.getpixel((61, 32))) == (RED, BLUE)
    assert (whole.getpixel((2, 2)), whole.getpixel((61, 61))) == (RED, BLUE), "edges are drawn out"
    tall = resized(picture((32, 64)), (64, 64), 2)
    assert (tall.getpixel((1, 32)), tall.getpixel((62, 32))) == (RED, BLUE)


@pytest.mark.parametrize(
    ("box", "padding", "size", "expected"),
    [
        ((10, 10, 20, 20), 0, (64, 64), (10, 10, 20, 20)),
        ((10, 10, 20, 20), 4, (64, 64), (6, 6, 24, 24)),
        ((10, 10, 20, 20), 0, (128, 64), (5, 10, 25, 20)),
        ((0, 10, 10, 20), 0, (128, 64), (0, 10, 20, 20)),
        ((54, 10, 64, 20), 0, (128, 64), (44, 10, 64, 20)),
        ((10, 10, 30, 12), 0, (64, 64), (10, 1, 30, 21)),
        ((0, 0, 64, 32), 100, (64, 64), (0, 0, 64, 32)),
    ],
)
def test_the_region_of_a_mask(
    box: tuple[int, int, int, int], padding: int, size: tuple[int, int], expected: tuple[int, int, int, int]
) -> None:
    assert region(masked(box), padding, size) == expected


def test_a_black_mask_has_no_region() -> None:
    assert region(Image.new("L", (8, 8)), 0, (8, 8)) is None


def test_only_the_masked_part_is_handed_to_the_engine() -> None:
    made = canvas(
        picture(), masked((40, 8, 56, 24)), size=(128, 128), inpaint_full_res=True, inpainting_fill=1
    )
    assert made.box == (40, 8, 56, 24)
    assert made.image.size == (128, 128)
    assert made.image.getpixel((64, 64)) == BLUE
    done = made.finish(Image.new("RGB", (128, 128), "lime"))
    pixels, inside = np.asarray(done), np.asarray(masked((40, 8, 56, 24))) > 0
    assert done.size == (64, 32)
    assert (pixels[inside] == (0, 255, 0)).all()
    assert (pixels[~inside] == np.asarray(picture())[~inside]).all()


def test_the_whole_picture_keeps_its_pixels_outside_the_mask() -> None:
    made = canvas(picture(), masked((0, 0, 32, 32)), inpaint_full_res=False)
    done = made.finish(Image.new("RGB", (64, 32), "lime"))
    assert (done.getpixel((5, 5)), done.getpixel((60, 5))) == ((0, 255, 0), BLUE)
    rounded = made.finish(Image.new("RGB", (72, 40), "lime"))
    assert rounded.size == (72, 40), "the engine may have rounded the size up"


@pytest.mark.parametrize(
    ("said", "is_part_only"), [(True, True), (1, True), (None, True), (False, False), (0, False)]
)
def test_the_part_alone_unless_told_otherwise(said: object, is_part_only: bool) -> None:
    made = canvas(picture(), masked((0, 0, 32, 32)), inpaint_full_res=said)
    assert (made.box is not None) == is_part_only


def test_a_black_mask_changes_nothing() -> None:
    made = canvas(picture(), Image.new("L", (64, 32)), inpaint_full_res=True)
    assert made.finish(Image.new("RGB", (64, 32), "lime")).tobytes() == picture().tobytes()


def test_a_blurred_mask_fades() -> None:
    made = canvas(picture(), masked((0, 0, 32, 32)), inpaint_full_res=True, mask_blur=4)
    assert made.seen
    row = [made.seen.getpixel((x, 16)) for x in range(24, 40)]
    assert row == sorted(row, reverse=True)
    assert len(set(row)) > 8


def test_a_mask_of_another_size_is_brought_to_the_picture() -> None:
    made = canvas(picture(), masked((0, 0, 16, 16), (32, 16)), inpaint_full_res=False)
    assert made.mask
    assert made.mask.size == (64, 32)
    assert (made.mask.getpixel((4, 16)), made.mask.getpixel((60, 16))) == (255, 0)


def test_masked_parts_take_the_colours_around() -> None:
    hole = masked((28, 8, 36, 24))
    holed = picture()
    holed.paste((0, 255, 0), mask=hole)
    result = np.asarray(filled(holed, hole), int)
    assert (result[:, :, 1] < 40).all(), "no green is left"
    assert (result[16, 29] - result[16, 34])[0] > 0, "redder on the left"
    assert filled(holed, Image.new("L", holed.size, 255)) is holed


def test_a_transparent_mask_is_its_alpha_channel() -> None:
    drawn = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    drawn.putpixel((1, 1), (0, 0, 0, 255))
    mask = read_mask(encoded(drawn))
    assert (mask.getpixel((1, 1)), mask.getpixel((0, 0))) == (255, 0)
    opaque = Image.new("RGBA", (4, 4), "white")
    assert read_mask(encoded(opaque)).getextrema() == (255, 255)
    assert read_mask(encoded(Image.new("1", (4, 4), 1))).getextrema() == (255, 255)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"init_images": None}, "init_images: 0 pictures; expected one"),
        ({"init_images": []}, "init_images: 0 pictures"),
        ({"init_images": [encoded(picture()), encoded(picture())]}, "init_images: 2 pictures"),
        ({"init_images": ["AAAA"]}, r"init_images\[0\]: the picture is no picture"),
        ({"mask": "AAAA"}, "mask: the picture is no picture"),
        ({"resize_mode": 3}, "resize_mode: 3"),
        ({"mask": encoded(masked((0, 0, 8, 8))), "inpainting_fill": 2}, "inpainting_fill: 2"),
    ],
)
def test_what_cannot_be_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        make_canvas(ImageToImage(**{"init_images": [encoded(picture())], **fields}), None, None)
