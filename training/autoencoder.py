"""Trains the autoencoder: sharp pictures through a latent that is small, smooth and of one size."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from darkroom.nets.vae.kl import AutoencoderKL
from training import networks
from training.compiled import Warmer, compiled_or_plain
from training.diffusion import SCALE
from training.domain import held_out
from training.judge import judge
from training.optimise import Masters, learning_rate
from training.scenes import Dice, random_scenes, scenes_of
from training.shapes import draw
from training.sheet import contact_sheet
from training.store import load_part

logger = logging.getLogger("training")

KL_WEIGHT = 2e-3  # of the mean over latent elements: about one percent of noise on a latent of size one
SMALL, FULL = 128, 256
DRAWN_AT_ONCE = 16  # batches


def reconstruction_loss(net: Callable[..., object], pixels: Tensor) -> Tensor:
    """L1 at three scales and of the gradients, plus a little KL divergence from the normal distribution."""
    out, mean, logvar = net(pixels)  # type: ignore[misc]
    out, target = out.float(), pixels.float()
    error = out - target
    loss = error.abs().mean()
    for scale in (4, 16):
        loss = loss + 0.5 * F.avg_pool2d(error, scale).abs().mean()
    loss = loss + 0.5 * (error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean())
    mean, logvar = mean.float(), logvar.float()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return loss + KL_WEIGHT * kl


def train_autoencoder(
    args: argparse.Namespace, device: torch.device, dtype: torch.dtype, warmer: Warmer
) -> AutoencoderKL:
    """The trained autoencoder in float32; latents times 0.18215 have mean 0, deviation 1 in each channel."""
    final = networks.new_vae(torch.Generator().manual_seed(args.seed)).to(device)
    dice = Dice(args.seed, device)
    if args.resume_vae is not None:
        load_part(final, args.resume_vae)
    else:
        _train(args, device, dtype, warmer, final, dice)
        _normalise(final, dice)
    _report(final, dice, args)
    return final


def _train(
    args: argparse.Namespace,
    device: torch.device,
    dtype: torch.dtype,
    warmer: Warmer,
    final: AutoencoderKL,
    dice: Dice,
) -> None:
    net = networks.vae_for_training(torch.Generator().manual_seed(args.seed))
    net = net.to(device, dtype, memory_format=torch.channels_last)
    masters = Masters([net], weight_decay=1e-4, ema=0.995)
    step_of: Callable[..., object] = net
    start = time.monotonic()
    size, batch = SMALL, args.batch_vae
    batches = _batches(dice, batch, size, dtype)
    while (elapsed := (time.monotonic() - start) / (60 * args.minutes_vae)) < 1:
        if size == SMALL and elapsed > 0.6 and (warmer.ready() or elapsed > 0.75):
            size, batch = FULL, max(2, args.batch_vae * 3 // 8)
            batches = _batches(dice, batch, size, dtype)
            if warmer.worth_it():
                sample = next(batches)
                step_of = compiled_or_plain(net, lambda f, x=sample: reconstruction_loss(f, x))  # type: ignore[misc]
        loss = reconstruction_loss(step_of, next(batches))
        loss.backward()
        masters.step(learning_rate(args.lr_vae, elapsed))
        if masters.steps % 100 == 0:
            logger.info(
                "vae step %d, %d px, %.0f%%: loss %.4f",
                masters.steps,
                size,
                100 * elapsed,
                float(loss.detach()),
            )
    logger.info("vae: %d steps", masters.steps)
    masters.load_average(list(final.parameters()))


def _batches(dice: Dice, batch: int, size: int, dtype: torch.dtype) -> Iterator[Tensor]:
    while True:
        pictures = draw(random_scenes(batch * DRAWN_AT_ONCE, dice), size, size).to(dtype)
        for part in pictures.split(batch):
            yield part.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def _normalise(vae: AutoencoderKL, dice: Dice) -> None:
    """Folds what brings each channel of the scaled latents to mean 0, deviation 1 into 1x1 convolutions."""
    rounds = 16 if dice.device.type == "cuda" else 2
    means = torch.cat([vae.encode(draw(random_scenes(16, dice)))[0] for _ in range(rounds)])
    mean, deviation = means.mean((0, 2, 3)), means.std((0, 2, 3))
    logger.info("vae: latents' mean %s deviation %s", mean.tolist(), deviation.tolist())
    factor = 1 / (deviation * SCALE)
    c = len(factor)
    vae.quant_conv.bias[:c] = (vae.quant_conv.bias[:c] - mean) * factor
    vae.quant_conv.weight[:c] *= factor[:, None, None, None]
    vae.quant_conv.bias[c:] += 2 * factor.log()
    vae.post_quant_conv.bias += vae.post_quant_conv.weight[:, :, 0, 0] @ mean
    vae.post_quant_conv.weight /= factor[None, :, None, None]


@torch.no_grad()
def _report(vae: AutoencoderKL, dice: Dice, args: argparse.Namespace) -> None:
    count = min(64, args.eval_captions)
    asked = held_out()[:count]
    pictures = torch.cat((draw(scenes_of(asked, dice)), draw(random_scenes(count, dice))))
    back = torch.cat([vae.decode(vae.encode(part)[0]) for part in pictures.split(16)])
    scaled = torch.cat([vae.encode(part)[0] for part in pictures.split(16)]) * SCALE
    error = (back - pictures) / 2
    psnr = -10 * error.square().mean().log10()
    flat = torch.nn.functional.avg_pool2d(error, 32).abs().mean() * 255
    verdicts = [judge(picture) for picture in back[:count]]
    logger.info(
        "vae: PSNR %.2f dB, flat colour off by %.2f of 255, latents %.3f +- %.3f, shape %.3f, colour %.3f",
        float(psnr),
        float(flat),
        float(scaled.mean()),
        float(scaled.std()),
        sum(v.shape == t.shape for v, t in zip(verdicts, asked, strict=True)) / count,
        sum(v.colour == t.colour for v, t in zip(verdicts, asked, strict=True)) / count,
    )
    pairs = torch.stack((pictures[-24:], back[-24:]), 1).flatten(0, 1)
    contact_sheet(pairs, 8, args.out / "vae.png")
