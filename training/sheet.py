"""Contact sheets: many pictures on one PNG."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor


def contact_sheet(pictures: Tensor, columns: int, path: Path, size: int | None = None) -> None:
    """Writes pictures (b, 3, h, w) in [-1, 1] in rows of `columns`, each `size` pixels wide if given."""
    if size is not None and size != pictures.shape[-1]:
        pictures = torch.nn.functional.interpolate(pictures.float(), (size, size), mode="area")
    missing = -len(pictures) % columns
    pictures = torch.nn.functional.pad(pictures.float(), (2, 2, 2, 2), value=1.0)
    blank = torch.ones(missing, *pictures.shape[1:], device=pictures.device)
    grid = torch.cat((pictures, blank)).unflatten(0, (-1, columns))  # (rows, columns, 3, h, w)
    flat = grid.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # (rows*h, columns*w, 3)
    pixels = ((flat.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, optimize=True)
