"""What img2img draws on, and how the drawn part comes back into the whole picture; A1111's rules."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageFilter, ImageOps

from darkroom.api.a1111.requests import ImageToImage
from darkroom.api.errors import RequestError
from darkroom.server.pictures import open_picture, read_picture

Box = tuple[int, int, int, int]

MASK_BLUR = 4
"""Pixels over which the drawn part fades into the picture where the request says nothing."""

_FILL_BLURS = ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2), (0, 1))
"""Radius and repeats, from the colours far around a masked part to those at its edge: A1111's."""


@dataclass(frozen=True)
class Canvas:
    """image: what the engine starts from. mask: white where it draws; None draws everywhere.

    whole: the picture that the drawn part belongs to. seen: how much of the drawn part shows in it ("L", of
    the size of `whole`). box: where in `whole` it goes.
    """

    image: Image.Image
    mask: Image.Image | None = None
    whole: Image.Image | None = None
    seen: Image.Image | None = None
    box: Box | None = None

    def finish(self, drawn: Image.Image) -> Image.Image:
        """The whole picture with the drawn part in it; outside the mask it keeps its own pixels."""
        if self.whole is None or self.seen is None:
            return drawn
        if self.box is None:  # the engine may have rounded the size
            whole = _stretched(self.whole, drawn.size)
            return Image.composite(drawn, whole, _stretched(self.seen, drawn.size))
        left, top, right, bottom = self.box
        pasted = self.whole.copy()
        pasted.paste(_stretched(drawn, (right - left, bottom - top)), (left, top))
        return Image.composite(pasted, self.whole, self.seen)


def make_canvas(request: ImageToImage, width: int | None, height: int | None) -> Canvas:
    """Opens the pictures of a request and brings them to width x height; None is the picture's own.

    Raises RequestError for unreadable pictures and for what is done in latents.
    """
    images = request.init_images or []
    if len(images) != 1:
        raise RequestError(f"init_images: {len(images)} pictures; expected one")
    image = read_picture(images[0], "init_images[0]")
    size = (width or image.width, height or image.height)
    if request.resize_mode == 3:
        raise RequestError("resize_mode: 3 (latent upscale) is not there; 0, 1 and 2 are")
    mode = request.resize_mode or 0
    if not request.mask:
        return Canvas(resized(image, size, mode))
    if request.inpainting_fill in (2, 3):
        raise RequestError(
            f"inpainting_fill: {request.inpainting_fill} (latent noise, latent nothing) is not there; "
            "0 (the colours around) and 1 (the picture itself) are"
        )
    fills = request.inpainting_fill != 1
    mask = _stretched(read_mask(request.mask), image.size)
    if request.inpainting_mask_invert:
        mask = ImageOps.invert(mask)
    mask = _blurred(mask, request)
    padding = request.inpaint_full_res_padding or 0
    is_part_only = request.inpaint_full_res is None or bool(request.inpaint_full_res)
    box = region(mask, padding, size) if is_part_only else None
    if box is not None:
        part, part_mask = (_stretched(each.crop(box), size) for each in (image, mask))
        return Canvas(filled(part, part_mask) if fills else part, part_mask, image, mask, box)
    image, mask = resized(image, size, mode), resized(mask, size, mode)
    seen = mask.point(lambda value: min(2 * value, 255))
    return Canvas(filled(image, mask) if fills else image, mask, image, seen)


def read_mask(data: str) -> Image.Image:
    """A mask in greys: its alpha channel where parts are transparent, else its brightness."""
    mask = open_picture(data, "mask")
    if mask.has_transparency_data:
        alpha = mask.convert("RGBA").getchannel("A")
        if alpha.getextrema() != (255, 255):
            return alpha
    return mask.convert("RGB").convert("L")


def resized(image: Image.Image, size: tuple[int, int], mode: int) -> Image.Image:
    """The picture at `size`: 0 stretched, 1 cut from the middle, 2 whole with its edges drawn out."""
    if image.size == size or mode == 0:
        return _stretched(image, size)
    if mode == 1:
        return ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    inner = ImageOps.contain(image, size, Image.Resampling.LANCZOS)
    left, top = (size[0] - inner.width) // 2, (size[1] - inner.height) // 2
    right, bottom = left + inner.width, top + inner.height
    out = Image.new(image.mode, size)
    out.paste(inner, (left, top))
    edges = (
        ((left, top, left + 1, bottom), (0, top, left, bottom)),
        ((right - 1, top, right, bottom), (right, top, size[0], bottom)),
        ((left, top, right, top + 1), (left, 0, right, top)),
        ((left, bottom - 1, right, bottom), (left, bottom, right, size[1])),
    )
    for source, (x0, y0, x1, y1) in edges:
        if x1 > x0 and y1 > y0:
            out.paste(out.crop(source).resize((x1 - x0, y1 - y0)), (x0, y0))
    return out


def region(mask: Image.Image, padding: int, size: tuple[int, int]) -> Box | None:
    """The part of the picture that holds the mask, with `padding` around it, widened to the aspect of `size`.

    None for a mask that is black everywhere.
    """
    found = mask.getbbox()
    if found is None:
        return None
    w, h = mask.size
    left, top = max(found[0] - padding, 0), max(found[1] - padding, 0)
    right, bottom = min(found[2] + padding, w), min(found[3] + padding, h)
    wide, high = right - left, bottom - top
    if wide * size[1] < high * size[0]:
        left, right = _widened(left, right, min(-(-high * size[0] // size[1]), w), w)
    else:
        top, bottom = _widened(top, bottom, min(-(-wide * size[1] // size[0]), h), h)
    return left, top, right, bottom


def _widened(start: int, end: int, length: int, limit: int) -> tuple[int, int]:
    """A stretch of `length` around the middle of start ... end, moved to lie in 0 ... limit."""
    start = min(max((start + end - length) // 2, 0), limit - length)
    return start, start + length


def filled(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The picture with the masked part in the colours around it; a mask without a rest leaves it as it is."""
    rest = ImageOps.invert(mask)
    if rest.getbbox() is None:
        return image
    kept = image.convert("RGBA")
    kept.putalpha(rest)
    premultiplied = kept.convert("RGBa")
    out = Image.new("RGBA", image.size)
    for radius, repeats in _FILL_BLURS:
        blurred = premultiplied.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
        for _ in range(repeats):
            out.alpha_composite(blurred)
    return Image.composite(out.convert("RGB"), image, mask)


def _blurred(mask: Image.Image, request: ImageToImage) -> Image.Image:
    x, y = (
        (blur if request.mask_blur is None else request.mask_blur)
        for blur in (
            MASK_BLUR if request.mask_blur_x is None else request.mask_blur_x,
            MASK_BLUR if request.mask_blur_y is None else request.mask_blur_y,
        )
    )
    return mask.filter(ImageFilter.GaussianBlur((x, y))) if x or y else mask


def _stretched(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
