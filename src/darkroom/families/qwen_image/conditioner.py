"""How Qwen-Image reads a prompt: Qwen2.5-VL's last layer over a chat in which the prompt is the user's turn.

Templates and the number of tokens dropped are those of the authors' pipelines in diffusers.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from PIL import Image
from torch import Tensor, nn

from darkroom.api.errors import RequestError
from darkroom.core.pixels import image_to_tensor
from darkroom.families.base import Conditioning, TextPrompt
from darkroom.families.llm_text import tokenize
from darkroom.families.qwen_image.config import LLM_VISION, TITLE, QwenImageConfig
from darkroom.nets.te.clip import emphasise
from darkroom.nets.te.qwen import QwenTextModel, image_positions
from darkroom.nets.te.qwen_vision import CELL, QwenVisionConfig, QwenVisionModel, smart_size

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chat:
    """What the model is told before the prompt. drop: its tokens, which the diffusion network never sees."""

    system: str
    drop: int

    @property
    def before(self) -> str:
        """What stands before the prompt."""
        return f"<|im_start|>system\n{self.system}<|im_end|>\n<|im_start|>user\n"


DRAW = Chat(
    "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships "
    "of the objects and background:",
    34,
)
EDIT = Chat(
    "Describe the key features of the input image (color, shape, size, texture, objects, background), then "
    "explain how the user's text instruction should alter or modify the image. Generate a new image that "
    "meets the user's requirements while maintaining consistency with the original input where appropriate.",
    64,
)

AFTER = "<|im_end|>\n<|im_start|>assistant\n"

MAX_TOKENS = 1024
"""Of a prompt without pictures; the rest is cut off."""

PICTURE_AREA = 384 * 384
"""Pixels of a numbered reference image as the text encoder sees it."""

REFERENCE_AREA = 1024 * 1024
"""Pixels of a reference image as the autoencoder sees it."""

_MOST_PIXELS = 12845056  # of the tower's preprocessing, as published with Qwen2.5-VL
_PLACE = "<|image_pad|>"


@dataclass(frozen=True)
class Picture:
    """What the vision tower saw: embeddings (rows * columns, D), row by row."""

    rows: int
    columns: int
    embeddings: Tensor


def encode(te: nn.Module, prompts: Sequence[TextPrompt], config: QwenImageConfig) -> list[Conditioning]:
    """Each prompt as a context (1, l, D) of its own length.

    One after the other: in a batch with another its numbers could differ in the last place.

    Raises RequestError for reference images without a vision tower.
    """
    seen: dict[tuple[int, ...], list[Picture]] = {}
    conds = []
    for prompt in prompts:
        same = tuple(map(id, prompt.images))
        if same not in seen:
            seen[same] = [_look(te, image, config) for image in prompt.images]
        conds.append(Conditioning(_context(te, prompt, seen[same], config)))
    return conds


def area_size(width: int, height: int, area: int) -> tuple[int, int]:
    """Width and height of about `area` pixels in the proportions given, in multiples of 32."""
    across = math.sqrt(area * width / height)
    down = across * height / width
    return max(1, round(across / 32)) * 32, max(1, round(down / 32)) * 32


def require_eyes(config: QwenImageConfig) -> QwenVisionConfig:
    """The vision tower. Raises RequestError when the model has none."""
    if config.vision is None:
        raise RequestError(
            f"--ref-image: reference images need {LLM_VISION.title}; give its file with "
            f"{LLM_VISION.role.flag}, for example {LLM_VISION.files[0]}, or hide them from the text encoder "
            "with --ref-image-args pass_to_vlm=false"
        )
    return config.vision


def _look(te: nn.Module, image: Image.Image, config: QwenImageConfig) -> Picture:
    """Resized twice, as the authors do: to an area, and then to whole cells of patches."""
    vision = require_eyes(config)
    tower = cast("QwenVisionModel", te.llm_vision)
    size = area_size(*image.size, PICTURE_AREA if config.numbers_pictures else REFERENCE_AREA)
    image = image.resize(size, Image.Resampling.LANCZOS)
    cell = vision.patch_size * CELL
    width, height = smart_size(*image.size, max_pixels=_MOST_PIXELS, multiple=cell)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    pixels = (image_to_tensor(image) + 1) / 2
    return Picture(height // cell, width // cell, tower(pixels.to(_device(te)))[0])


def _context(
    te: nn.Module, prompt: TextPrompt, pictures: Sequence[Picture], config: QwenImageConfig
) -> Tensor:
    """The last layer's states (1, l, D), without those of the chat's beginning."""
    llm = cast("QwenTextModel", te.llm)
    # The authors' negative prompt for "nothing in particular" is a space.
    text = prompt.text or " " if prompt.negative else prompt.text
    chat, places = (EDIT, _places(pictures, config)) if pictures else (DRAW, "")
    while _PLACE in text:  # what is left may make another
        text = text.replace(_PLACE, "")
    before = chat.before + places
    tokens, weights = tokenize(text, llm, config.tokenizer, before=before, after=AFTER)
    images = positions = None
    if pictures:
        images = torch.cat([picture.embeddings for picture in pictures])
        grids = [(picture.rows, picture.columns) for picture in pictures]
        positions = image_positions(tokens, grids)[:, None].to(_device(te))
    elif len(tokens) > chat.drop + MAX_TOKENS:
        logger.warning("%s: the prompt has more than %d tokens; the rest is cut off", TITLE, MAX_TOKENS)
        tokens, weights = tokens[: chat.drop + MAX_TOKENS], weights[: chat.drop + MAX_TOKENS]
    states = llm(torch.tensor([tokens], device=_device(te)), images=images, positions=positions)
    return emphasise(states, torch.tensor([weights], device=_device(te)))[:, chat.drop :]


def _places(pictures: Sequence[Picture], config: QwenImageConfig) -> str:
    """Where the pictures' embeddings go, before the prompt."""
    places = ""
    for number, picture in enumerate(pictures, 1):
        label = f"Picture {number}: " if config.numbers_pictures else ""
        places += f"{label}<|vision_start|>{_PLACE * len(picture.embeddings)}<|vision_end|>"
    return places


def _device(te: nn.Module) -> torch.device:
    return cast("QwenTextModel", te.llm).model.norm.weight.device
