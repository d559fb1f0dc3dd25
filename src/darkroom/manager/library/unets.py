"""Stable Diffusion's UNets: which of 1, 2 and XL one is of, and which variant."""

from __future__ import annotations

import re
from collections.abc import Set

from darkroom.manager.library.networks import Network, Shapes, blocks, size

_IN = "input_blocks.0.0.weight|conv_in.weight"
_TIME = "time_embed.0.weight|time_embedding.linear_1.weight"
_OUT = "out.2.weight|conv_out.weight"
_VECTOR = "label_emb.0.0.weight|add_embedding.linear_1.weight"

_FIRST_LEVEL = ("input_blocks.1.1.transformer_blocks.", "down_blocks.0.attentions.")
_LAST_LEVEL = ("input_blocks.10.1.", "input_blocks.11.1.", "down_blocks.3.attentions.")
_FOURTH_LEVEL = ("input_blocks.10.0.", "down_blocks.3.resnets.")
_DEPTH = re.compile(
    r"(?:input_blocks\.\d+\.1|down_blocks\.\d+\.attentions\.\d+)\.transformer_blocks\.(\d+)\."
)

OPEN_CLIP_WIDTH = 1024
SIZES_WIDTH = 6 * 256
"""What the six numbers about a picture's size take of SDXL's vector; the rest is CLIP-G's."""

TEXT_TO_IMAGE, INPAINTING = 4, 9


def identify_unet(shapes: Shapes, marks: Set[str] = frozenset()) -> Network | None:
    """The UNet in a group of tensors without prefix; None where it is none of Stable Diffusion's.

    marks: tensors beside it that say what it predicts.
    """
    try:
        channels, _, _ = size(shapes, _IN, 1), size(shapes, _TIME, 0), size(shapes, _OUT, 0)
        text = next(shape[1] for name, shape in shapes.items() if name.endswith(".attn2.to_k.weight"))
        into = next(shape for name, shape in shapes.items() if name.endswith(".proj_in.weight"))
    except (KeyError, IndexError, StopIteration):
        return None
    vector = next((shapes[name][1] for name in _VECTOR.split("|") if name in shapes), None)
    layers = blocks(shapes, r"((?:input|output)_blocks\.\d+|(?:down|up)_blocks\.\d+\.resnets\.\d+)\.")
    if vector is None:
        return _plain(shapes, channels, text, len(into) == 2, layers)
    if _any(shapes, _FIRST_LEVEL):
        return Network(
            "sd2", "unCLIP", {}, layers, "this is Stable Diffusion unCLIP, which starts from pictures"
        )
    if len(into) != 2 and text <= OPEN_CLIP_WIDTH:
        return None
    return _xl(shapes, channels, text, vector, layers, marks)


def _plain(shapes: Shapes, channels: int, text: int, is_linear: bool, layers: int) -> Network:
    second = is_linear or text == OPEN_CLIP_WIDTH
    family = "sd2" if second else "sd1"
    takes = {"clip_l": text, "vae": TEXT_TO_IMAGE}
    if channels == TEXT_TO_IMAGE:
        variant = "2.x" if second else "1.x"
        return Network(family, variant, takes, layers)
    if channels == INPAINTING:
        return Network(family, "inpainting", takes, layers)
    what = {5: "a depth-to-image model", 7: "an upscaler", 8: "instruct-pix2pix"}
    named = what.get(channels, f"a UNet with {channels} input channels")
    return Network(family, named, takes, layers, f"this is {named}")


def _xl(shapes: Shapes, channels: int, text: int, vector: int, layers: int, marks: Set[str]) -> Network:
    takes = {"text": text, "vector": vector - SIZES_WIDTH, "vae": TEXT_TO_IMAGE}
    if _any(shapes, _FOURTH_LEVEL) and not _any(shapes, _LAST_LEVEL):
        return Network(
            "sdxl", "refiner", takes, layers, "this is SDXL's refiner, which finishes others' pictures"
        )
    if channels not in (TEXT_TO_IMAGE, INPAINTING):
        named = f"an SDXL UNet with {channels} input channels (such as instruct-pix2pix)"
        return Network("sdxl", "pix2pix" if channels == 8 else "", takes, layers, f"this is {named}")
    if "edm_mean" in marks:
        return Network("sdxl", "Playground 2.5", takes, layers, "this is Playground 2.5")
    return Network("sdxl", _xl_variant(shapes, channels, marks), takes, layers)


def _xl_variant(shapes: Shapes, channels: int, marks: Set[str]) -> str:
    if channels == INPAINTING:
        return "inpainting"
    if "edm_vpred.sigma_max" in marks:
        return "CosXL"
    if marks & {"v_pred", "ztsnr"}:
        return "v prediction"
    if not _any(shapes, ("middle_block.1.transformer_blocks.", "mid_block.attentions.")):
        depths = [int(match[1]) + 1 for name in shapes if (match := _DEPTH.match(name))]
        return "Vega" if max(depths, default=0) == 2 else "SSD-1B"
    return "base or a fine-tune"


def _any(shapes: Shapes, beginnings: tuple[str, ...]) -> bool:
    return any(name.startswith(beginnings) for name in shapes)
