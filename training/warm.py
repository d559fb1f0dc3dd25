"""Compiles one training step in a process of its own, while the main process trains something else.

What Inductor made lies in its cache afterwards, so that the main process compiles in seconds. Prints one line
of JSON: seconds to compile, milliseconds of a plain and of a compiled step.

    python -m training.warm vae --size 256 --batch 24
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from darkroom.layers import kernels
from training import networks


def vae_step(net: nn.Module, batch: int, size: int, device: torch.device) -> Callable[[], Tensor]:
    """A forward pass of the autoencoder on random pixels."""
    pixels = torch.randn(batch, 3, size, size, device=device, dtype=torch.bfloat16)
    pixels = pixels.to(memory_format=torch.channels_last)
    return lambda: net(pixels)[0].float().square().mean()


def unet_step(net: nn.Module, batch: int, size: int, device: torch.device) -> Callable[[], Tensor]:
    """A forward pass of the UNet on random latents."""
    x = torch.randn(batch, 4, size, size, device=device, dtype=torch.bfloat16)
    x = x.to(memory_format=torch.channels_last)
    t = torch.arange(batch, device=device).float()
    context = torch.randn(batch, 77, networks.TEXT.hidden_size, device=device, dtype=torch.bfloat16)
    return lambda: net(x, t, context.requires_grad_()).float().square().mean()


def run(step: Callable[[], Tensor], times: int) -> float:
    """Milliseconds of one forward and backward pass."""
    torch.cuda.synchronize()
    start = time.monotonic()
    for _ in range(times):
        step().backward()
    torch.cuda.synchronize()
    return (time.monotonic() - start) * 1000 / times


def main() -> None:
    """Compiles and measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("net", choices=("vae", "unet"))
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    args = parser.parse_args()
    device = torch.device("cuda")
    kernels.set_enabled(False)
    torch.backends.cudnn.benchmark = True
    net, make = networks.vae_for_training(torch.Generator()), vae_step
    if args.net == "unet":
        net, make = networks.new_unet(torch.Generator()), unet_step
    net = net.to(device, torch.bfloat16, memory_format=torch.channels_last)
    plain = make(net, args.batch, args.size, device)
    run(plain, 2)
    plain_ms = run(plain, 3)
    start = time.monotonic()
    compiled = make(torch.compile(net, dynamic=False), args.batch, args.size, device)
    run(compiled, 1)
    compile_s = time.monotonic() - start
    run(compiled, 2)
    print(json.dumps({"compile_s": compile_s, "plain_ms": plain_ms, "compiled_ms": run(compiled, 3)}))


if __name__ == "__main__":
    main()
