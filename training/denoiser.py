"""Trains UNet and text encoder together on a pool of encoded pictures that is renewed all the time."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from darkroom.nets.te.clip import CLIPTextModel
from darkroom.nets.unet import UNetModel
from darkroom.nets.vae.kl import AutoencoderKL
from training import networks
from training.captions import BOS, EOS, FILLER, SLOTS, WORDS, ids_of
from training.compiled import Warmer, compiled_or_plain
from training.diffusion import SCALE, Schedule, noise_loss
from training.optimise import Masters, learning_rate
from training.report import Model, report_held_out
from training.scenes import Dice, Scenes, describe, random_scenes
from training.shapes import draw
from training.store import round_q4_0, save_part

logger = logging.getLogger("training")

STEPS_AT_ONCE = 40  # batches whose captions are made together
RENEWED = 1024  # pictures replaced after each of these
WITHOUT_TEXT = 0.1  # share of the captions that are left empty, for guidance
ENCODED_AT_ONCE = 128
ROUNDED_FROM = 0.7  # share of the time after which the token embedding is rounded as in the package


class Pool:
    """Encoded pictures and what is on them."""

    def __init__(self, vae: AutoencoderKL, dtype: torch.dtype, dice: Dice) -> None:
        self.vae = AutoencoderKL(networks.VAE).to(dice.device)
        self.vae.load_state_dict(vae.state_dict())
        self.vae.to(dtype, memory_format=torch.channels_last)
        self.dtype, self.dice = dtype, dice
        self.scenes: Scenes
        self.latents: Tensor

    @torch.no_grad()
    def encoded(self, count: int) -> tuple[Scenes, Tensor]:
        """New scenes and their scaled latents, (count, 4, 32, 32) float16."""
        scenes = random_scenes(count, self.dice)
        pixels = draw(scenes).to(self.dtype).contiguous(memory_format=torch.channels_last)
        return scenes, (self.vae.encode(pixels)[0].float() * SCALE).half()

    def fill(self, most: int, seconds: float) -> None:
        """Encodes until there are `most`, or for so long."""
        start = time.monotonic()
        parts: list[tuple[Scenes, Tensor]] = []
        while len(parts) * ENCODED_AT_ONCE < most and (time.monotonic() - start < seconds or len(parts) < 2):
            parts.append(self.encoded(ENCODED_AT_ONCE))
            if len(parts) % 16 == 0 and self.dice.device.type == "cuda":
                torch.cuda.synchronize()
        self.latents = torch.cat([latents for _, latents in parts])
        names = Scenes.__dataclass_fields__
        self.scenes = Scenes(*(torch.cat([getattr(scenes, name) for scenes, _ in parts]) for name in names))
        logger.info("pool: %d pictures in %.1f s", len(self.latents), time.monotonic() - start)

    def renew(self, count: int) -> None:
        """Replaces some pictures by new ones."""
        for _ in range(count // ENCODED_AT_ONCE):
            rows = self.dice.integers(len(self.latents), ENCODED_AT_ONCE)
            scenes, latents = self.encoded(ENCODED_AT_ONCE)
            self.scenes.put(rows, scenes)
            self.latents[rows] = latents

    def batches(self, count: int, batch: int) -> list[tuple[Tensor, Tensor]]:
        """Latents (batch, 4, 32, 32) and token ids (batch, 77), `count` times; some captions are empty."""
        rows = self.dice.integers(len(self.latents), count * batch)
        tokens = describe(self.scenes.take(rows), self.dice).tokens()
        empty = torch.full_like(tokens[:1], EOS)
        empty[:, 0] = BOS
        tokens = torch.where(self.dice.chance(WITHOUT_TEXT, len(rows))[:, None], empty, tokens)
        return [(self.latents[r], t) for r, t in zip(rows.split(batch), tokens.split(batch), strict=True)]


def train_denoiser(
    args: argparse.Namespace, device: torch.device, dtype: torch.dtype, vae: AutoencoderKL, warmer: Warmer
) -> Model:
    """The trained networks in float32: the moving average of their weights."""
    generator = torch.Generator().manual_seed(args.seed)
    te = networks.new_text_encoder(generator).to(device, dtype)
    unet = networks.new_unet(generator).to(device, dtype, memory_format=torch.channels_last)
    masters = Masters([te, unet], weight_decay=0.01, ema=0.9985)
    average = Model(CLIPTextModel(networks.TEXT).to(device), UNetModel(networks.UNET).to(device))
    dice = Dice(args.seed + 2, device)
    pool = Pool(vae, dtype, dice)
    pool.fill(args.pool, 60 * args.minutes_pool)

    run = _Run(args, te, unet, masters, Schedule.on(device), dtype, _Words(masters, te))
    start = time.monotonic()
    marks = [0.25, 0.5, 0.75]
    tried = False
    while (elapsed := (time.monotonic() - start) / (60 * args.minutes_unet)) < 1:
        if not tried and warmer.ready():
            tried = True
            if warmer.worth_it():
                run.compile(pool.batches(1, args.batch_unet)[0])
        loss = run.steps(pool.batches(STEPS_AT_ONCE, args.batch_unet), start)
        logger.info("unet step %d, %.0f%%: loss %.4f", masters.steps, 100 * elapsed, loss)
        pool.renew(min(RENEWED, len(pool.latents)))
        if marks and elapsed > marks[0]:
            marks.pop(0)
            masters.load_average([*average.te.parameters(), *average.unet.parameters()])
            report_held_out(
                average, vae, Dice(args.seed + 1, device), min(48, args.eval_captions), 5.0, 15, None
            )
            save_part(average.unet, args.out / "unet.safetensors")
            save_part(average.te, args.out / "te.safetensors")
    logger.info("unet: %d steps", masters.steps)
    masters.load_average([*average.te.parameters(), *average.unet.parameters()])
    return average


@dataclass
class _Run:
    """The loop's state."""

    args: argparse.Namespace
    te: CLIPTextModel
    unet: UNetModel
    masters: Masters
    schedule: Schedule
    dtype: torch.dtype
    words: _Words
    net: Callable[..., object] | None = None

    def compile(self, batch: tuple[Tensor, Tensor]) -> None:
        """Takes the compiled UNet if it gives what the plain one gives."""
        latents, tokens = batch

        def loss(net: Callable[..., object]) -> Tensor:
            context = self.te(tokens)
            return noise_loss(net, self.schedule, latents.float(), context, self.dtype)  # type: ignore[arg-type]

        self.net = compiled_or_plain(self.unet, loss)
        for p in self.te.parameters():
            p.grad = None

    def steps(self, batches: list[tuple[Tensor, Tensor]], start: float) -> float:
        """Trains on these batches, or until the time is over; the mean loss."""
        total = torch.zeros((), device=self.schedule.alphas.device)
        count = 0
        for latents, tokens in batches:
            elapsed = (time.monotonic() - start) / (60 * self.args.minutes_unet)
            if elapsed > 1.01:
                break
            net = self.unet if self.net is None else self.net
            loss = noise_loss(net, self.schedule, latents.float(), self.te(tokens), self.dtype)  # type: ignore[arg-type]
            loss.backward()
            self.masters.step(learning_rate(self.args.lr_unet, elapsed))
            if elapsed > ROUNDED_FROM:
                self.words.pin()
            total += loss.detach()
            count += 1
        return float(total / max(1, count))


class _Words:
    """The token embedding's last stretch: words never met get the filler's row, all are rounded and kept."""

    def __init__(self, masters: Masters, te: CLIPTextModel) -> None:
        weight = te.text_model.embeddings.token_embedding.weight
        self.index = next(i for i, p in enumerate(masters.working) if p is weight)
        self.masters = masters
        self.value: Tensor | None = None

    @torch.no_grad()
    def pin(self) -> None:
        """Holds the rounded rows, made on the first call from the average."""
        if self.value is None:
            value = self.masters.average[self.index].clone()
            met = sorted(
                {i for phrases in SLOTS.values() for phrase in phrases for i in ids_of(phrase)} | {BOS, EOS}
            )
            keep = value[met].clone()
            value[:] = value[WORDS[FILLER]].clone()
            value[met] = keep
            self.value = round_q4_0(value)
        for tensors in (self.masters.working, self.masters.masters, self.masters.average):
            tensors[self.index].copy_(self.value)
