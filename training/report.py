"""What the model can do so far, in numbers and pictures."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from darkroom.nets.te.clip import CLIPTextModel
from darkroom.nets.unet import UNetModel
from darkroom.nets.vae.kl import AutoencoderKL
from training.captions import encode
from training.diffusion import SCALE, Schedule, sample
from training.domain import held_out
from training.judge import judge
from training.scenes import Dice
from training.sheet import contact_sheet

logger = logging.getLogger("training")

ABILITIES = (
    "a red circle and a blue square on a white background",
    "a green triangle and a yellow star on a black background",
    "a purple heart next to an orange ring on a gray background",
    "a white moon above a brown hexagon on a cyan background",
    "a pink cross below a black circle on a yellow background",
    "a large red star on a blue background",
    "a small red star on a blue background",
    "a tiny yellow circle in the top left corner on a purple background",
    "a white square on the right on a green background",
    "a blue heart at the bottom on a pink background",
    "a big orange diamond and a small green circle on a white background",
    "a photo of a black cat on a red background",
    "a yellow moon",
    "a heart on a white background",
    "a blue background",
    "",
)


@dataclass(frozen=True)
class Model:
    """Text encoder and UNet."""

    te: CLIPTextModel
    unet: UNetModel


@torch.no_grad()
def pictures(
    model: Model,
    vae: AutoencoderKL,
    dice: Dice,
    prompts: Sequence[str],
    negative: str,
    cfg_scale: float,
    steps: int,
) -> Tensor:
    """One picture for each prompt, (b, 3, 256, 256) in about [-1, 1]."""
    device = dice.device
    tokens = encode([*prompts, negative]).to(device)
    context = model.te(tokens)
    cond, uncond = context[:-1], context[-1:].expand(len(prompts), -1, -1)
    noise = torch.randn(len(prompts), 4, 32, 32, generator=dice.generator, device=device)
    latents = sample(model.unet, Schedule.on(device), cond, uncond, noise, cfg_scale, steps)
    return torch.cat([vae.decode(part / SCALE) for part in latents.split(16)])


def report_held_out(
    model: Model, vae: AutoencoderKL, dice: Dice, count: int, cfg_scale: float, steps: int, path: Path | None
) -> None:
    """Draws combinations never seen in training, and counts what is right."""
    asked = held_out()[:count]
    drawn = pictures(model, vae, dice, [t.caption for t in asked], "", cfg_scale, steps)
    verdicts = [judge(picture) for picture in drawn]
    right = [
        sum(getattr(v, what) == getattr(t, what) for v, t in zip(verdicts, asked, strict=True)) / count
        for what in ("shape", "colour", "background")
    ]
    logger.info(
        "held-out, cfg %.1f, %d steps: shape %.3f, colour %.3f, background %.3f", cfg_scale, steps, *right
    )
    wrong = [
        (tuple(t), tuple(v)[:3]) for v, t in zip(verdicts, asked, strict=True) if tuple(v)[:3] != tuple(t)
    ]
    logger.info("wrong: %s", wrong[:12])
    if path is not None:
        contact_sheet(drawn, 12, path, 128)


def report_abilities(model: Model, vae: AutoencoderKL, dice: Dice, path: Path) -> None:
    """Draws other sentences, strengths of guidance and a negative prompt, to be looked at."""
    rows = [pictures(model, vae, dice, ABILITIES, "", 5.0, 20)]
    for cfg_scale in (1.0, 3.0, 7.0, 12.0):
        fixed = Dice(5, dice.device)
        rows.append(pictures(model, vae, fixed, ["a red heart on a white background"] * 2, "", cfg_scale, 20))
    for negative in ("", "a blue background", "red"):
        fixed = Dice(6, dice.device)
        rows.append(pictures(model, vae, fixed, ["a circle"] * 4, negative, 5.0, 20))
    contact_sheet(torch.cat(rows), 8, path, 160)
