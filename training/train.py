"""Trains the built-in model from nothing: the autoencoder, then UNet and text encoder together.

    PYTHONPATH=src python -m training.train --out DIR

Every phase has its minutes and follows the clock, so that the whole ends in time on any machine. DIR gets
vae.safetensors, unet.safetensors and te.safetensors (float16), log.txt and contact sheets.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path

import torch

from darkroom.layers import kernels
from training import networks
from training.autoencoder import train_autoencoder
from training.compiled import Warmer
from training.denoiser import train_denoiser
from training.report import report_abilities, report_held_out
from training.scenes import Dice
from training.store import save_part

logger = logging.getLogger("training")


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, log and pictures")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--minutes-vae", type=float, default=2.2)
    parser.add_argument(
        "--minutes-pool", type=float, default=0.4, help="encoding pictures before UNet training"
    )
    parser.add_argument("--minutes-unet", type=float, default=4.9)
    parser.add_argument(
        "--batch-vae", type=int, default=64, help="pictures of 128 px; of 256 px three eighths of it"
    )
    parser.add_argument("--batch-unet", type=int, default=384)
    parser.add_argument("--pool", type=int, default=131072, help="most encoded pictures kept on the device")
    parser.add_argument("--lr-vae", type=float, default=6e-4)
    parser.add_argument("--lr-unet", type=float, default=1e-3)
    parser.add_argument("--eval-captions", type=int, default=120)
    parser.add_argument("--resume-vae", type=Path, help="a vae.safetensors, instead of training one")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--rehearse", action="store_true", help="tiny networks: to see that everything runs")
    return parser.parse_args()


def main() -> None:
    """All phases, one after the other."""
    args = options()
    args.out.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        level=logging.INFO,
        format="%(relativeCreated)8.0f ms  %(message)s",
        handlers=[logging.StreamHandler(), logging.FileHandler(args.out / "log.txt", mode="w")],
    )
    start = time.monotonic()
    if args.rehearse:
        networks.rehearse()
    device = torch.device(args.device)
    kernels.set_enabled(False)  # they are for inference; training trusts plain torch alone
    torch.manual_seed(args.seed)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    shown = {k: str(v) for k, v in vars(args).items()}
    logger.info("torch %s, %s, %s", torch.__version__, device, json.dumps(shown))

    warm = device.type == "cuda" and not args.no_compile
    warmers = {
        "vae": Warmer("vae", 256, args.batch_vae * 3 // 8, enabled=warm and args.resume_vae is None),
        "unet": Warmer("unet", 32, args.batch_unet, enabled=warm),
    }
    try:
        vae = train_autoencoder(args, device, dtype, warmers["vae"])
        save_part(vae, args.out / "vae.safetensors")
        model = train_denoiser(args, device, dtype, vae, warmers["unet"])
        save_part(model.unet, args.out / "unet.safetensors")
        save_part(model.te, args.out / "te.safetensors")
    finally:
        for warmer in warmers.values():
            warmer.stop()
    dice = Dice(args.seed + 1, device)
    for cfg_scale in (7.0, 3.0):
        report_held_out(model, vae, dice, args.eval_captions, cfg_scale, 20, args.out / "samples.png")
    report_abilities(model, vae, dice, args.out / "abilities.png")
    logger.info("done in %.1f minutes", (time.monotonic() - start) / 60)


if __name__ == "__main__":
    main()
