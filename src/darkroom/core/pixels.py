"""Pictures to tensors and back."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


def image_to_tensor(image: Image.Image) -> Tensor:
    """An RGB picture as pixels (1, 3, h, w), float32 in [-1, 1]."""
    pixels = torch.from_numpy(np.array(image.convert("RGB")))
    return pixels.permute(2, 0, 1)[None].float() / 127.5 - 1


def tensor_to_images(pixels: Tensor) -> list[Image.Image]:
    """Pixels (b, 3, h, w) in [-1, 1] of any dtype and device as RGB pictures; values outside are clamped."""
    return [Image.fromarray(row) for row in tensor_to_bytes(pixels).cpu().numpy()]


def tensor_to_bytes(pixels: Tensor) -> Tensor:
    """The same pictures as bytes (b, h, w, 3), still on their device."""
    scaled = ((pixels.detach().float() + 1) * 0.5).clamp(0, 1) * 255 + 0.5
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def mask_to_tensor(mask: Image.Image) -> Tensor:
    """A grey mask as (1, 1, h, w), float32: 1 where it is at least half white (drawn anew), else 0."""
    grey = torch.from_numpy(np.array(mask.convert("L")))
    return (grey >= 128).float()[None, None]


def mask_to_latent(mask: Tensor, downscale: int, grow: bool = False) -> Tensor:
    """A mask (1, 1, h, w) of 0 and 1 in latent pixels: (1, 1, h / downscale, w / downscale).

    A latent pixel is 1 when any pixel under it is. grow: one latent pixel more on every side,
    stable-diffusion.cpp's 3x3 max-pooling for inpainting models.
    """
    latent = F.max_pool2d(mask, downscale)
    return F.max_pool2d(latent, 3, stride=1, padding=1) if grow else latent
