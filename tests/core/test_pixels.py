from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from darkroom.core.pixels import image_to_tensor, mask_to_latent, mask_to_tensor, tensor_to_images


def test_every_byte_value_survives_the_way_there_and_back() -> None:
    ramp = Image.fromarray(np.arange(768, dtype=np.uint16).astype(np.uint8).reshape(16, 16, 3))
    (back,) = tensor_to_images(image_to_tensor(ramp))
    assert np.array_equal(np.asarray(back), np.asarray(ramp))


def test_pixels_are_in_minus_one_to_one() -> None:
    picture = Image.new("RGB", (2, 1), "white")
    picture.putpixel((1, 0), (0, 0, 0))
    assert image_to_tensor(picture).tolist() == [[[[1.0, -1.0]]] * 3]


def test_values_outside_are_clamped_and_halves_round_up() -> None:
    pixels = torch.tensor([-3.0, 3.0, 0.0]).reshape(1, 3, 1, 1).to(memory_format=torch.channels_last)
    assert tensor_to_images(pixels)[0].getpixel((0, 0)) == (0, 255, 128)


def test_half_white_is_drawn_anew() -> None:
    mask = Image.new("L", (2, 1), 127)
    mask.putpixel((1, 0), 128)
    assert mask_to_tensor(mask).tolist() == [[[[0.0, 1.0]]]]


def test_one_white_pixel_frees_its_latent_pixel() -> None:
    mask = torch.zeros(1, 1, 32, 32)
    mask[0, 0, 9, 23] = 1
    latent = mask_to_latent(mask, 8)
    assert latent.nonzero()[:, 2:].tolist() == [[1, 2]]
    assert mask_to_latent(mask, 8, grow=True).sum() == 9
