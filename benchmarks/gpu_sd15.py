"""SD 1.5 on one CUDA GPU: ours against diffusers, eager and compiled, in the same run and taking turns.

The claim: at least 150 UNet steps a second at 512x512 with guidance (cond and uncond as one batch of 2) and a
VAE decode in at most 8 ms on one NVIDIA H200, nothing compiled for longer than 10 s.

    python benchmarks/gpu_sd15.py [--rounds 7] [--steps 20] [--no-compile] [--json FILE]

The networks have full size and random weights, the same on both sides (diffusers' own conversion carries ours
over), in bf16 and channels_last. Needs diffusers and transformers (the `test` group of pyproject.toml).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import diffusers
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from torch import Tensor, nn

from darkroom.nets.unet import UNetConfig, UNetModel
from darkroom.nets.vae.kl import AutoencoderKL, KLConfig
from darkroom.runtime.graphs import accelerate

DTYPE = torch.bfloat16
UNET_GOAL_MS = 1000 / 150
VAE_GOAL_MS = 8.0
WARM_UP_GOAL_S = 10.0
Call = Callable[[], Tensor]


@dataclass
class Contender:
    """One way to do the work. warm_up: seconds until the third call, in which everything is compiled."""

    name: str
    call: Call
    warm_up: float = 0.0
    times: list[float] = field(default_factory=list)

    @property
    def milliseconds(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.times)


def main() -> None:
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="turns that each contender takes")
    parser.add_argument("--steps", type=int, default=20, help="calls in a turn")
    parser.add_argument("--size", type=int, default=512, help="width and height of the picture")
    parser.add_argument("--no-compile", action="store_true", help="leave out diffusers with torch.compile")
    parser.add_argument("--json", type=Path, help="write all numbers there")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    latent = options.size // 8
    with torch.inference_mode():
        unet = measure(unet_contenders(latent, not options.no_compile), options.rounds, options.steps)
        torch.cuda.empty_cache()
        vae = measure(
            vae_contenders(latent, not options.no_compile), options.rounds, max(options.steps // 4, 1)
        )
    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}, diffusers {diffusers.__version__}")
    report("UNet step, batch 2", unet, UNET_GOAL_MS)
    report("VAE decode", vae, VAE_GOAL_MS)
    if options.json:
        results = {
            name: [{key: value for key, value in asdict(c).items() if key != "call"} for c in contenders]
            for name, contenders in (("unet", unet), ("vae", vae))
        }
        options.json.write_text(json.dumps(results, indent=1))


def unet_contenders(latent: int, with_compiled: bool) -> list[Contender]:
    """Ours, diffusers eager and diffusers compiled, on one random UNet; checked against each other."""
    ours = random_network(lambda: UNetModel(UNetConfig()))
    with torch.device("cuda"):
        theirs = diffusers.UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
    native = prefixed(ours, "model.diffusion_model.")
    converted = convert_ldm_unet_checkpoint(native, {**theirs.config}, extract_ema=False)
    theirs = take(theirs, converted)
    x = torch.randn(2, 4, latent, latent, device="cuda", dtype=DTYPE).to(memory_format=torch.channels_last)
    t = torch.full((2,), 500.0, device="cuda")
    context = torch.randn(2, 77, 768, device="cuda", dtype=DTYPE)

    def peer(net: nn.Module) -> Call:
        return lambda: net(x, t, context, return_dict=False)[0]

    fast = accelerate(ours)
    contenders = [Contender("darkroom", lambda: fast(x, t, context)), Contender("diffusers", peer(theirs))]
    if with_compiled:
        compiled = torch.compile(theirs, mode="reduce-overhead", fullgraph=True)
        contenders.append(Contender("diffusers, compiled with CUDA graphs", peer(compiled)))
    agree("UNet", contenders)
    return contenders


def vae_contenders(latent: int, with_compiled: bool) -> list[Contender]:
    """Ours, diffusers eager and diffusers compiled, on one random VAE; checked against each other."""
    ours = random_network(lambda: AutoencoderKL(KLConfig()))
    with torch.device("cuda"):
        theirs = diffusers.AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
    native = prefixed(ours, "first_stage_model.")
    theirs = take(theirs, convert_ldm_vae_checkpoint(native, {**theirs.config}))
    z = torch.randn(1, 4, latent, latent, device="cuda", dtype=DTYPE).to(memory_format=torch.channels_last)
    fast = accelerate(ours)
    contenders = [
        Contender("darkroom", lambda: fast.decode(z)),
        Contender("diffusers", lambda: theirs.decode(z, return_dict=False)[0]),
    ]
    if with_compiled:
        compiled = torch.compile(theirs.decode, mode="reduce-overhead", fullgraph=True)
        contenders.append(
            Contender("diffusers, compiled with CUDA graphs", lambda: compiled(z, return_dict=False)[0])
        )
    agree("VAE", contenders)
    return contenders


def random_network(build: Callable[[], nn.Module]) -> nn.Module:
    """A network with random weights of a sensible scale, on the GPU."""
    with torch.device("meta"):
        net = build()
    net.to_empty(device="cuda").to(DTYPE)
    for parameter in net.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        else:
            nn.init.normal_(parameter, mean=0.5, std=0.1)
    return net.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def prefixed(net: nn.Module, prefix: str) -> dict[str, Tensor]:
    """The weights under the names of a whole checkpoint."""
    return {prefix + name: tensor.clone() for name, tensor in net.state_dict().items()}


def take(net: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """A diffusers network with these weights, on the GPU."""
    net.load_state_dict(weights, strict=True)
    net = net.to("cuda", DTYPE).eval().requires_grad_(False)
    return net.to(memory_format=torch.channels_last)


def agree(subject: str, contenders: list[Contender]) -> None:
    """Warms everybody up and says how far the outputs are apart; bf16 alone makes about one percent."""
    outputs = []
    for contender in contenders:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(3):
            output = contender.call()
        torch.cuda.synchronize()
        contender.warm_up = time.perf_counter() - start
        outputs.append(output.float().clone())
        print(f"{subject}: {contender.name} warmed up in {contender.warm_up:.1f} s", flush=True)
    for contender, output in zip(contenders[1:], outputs[1:], strict=True):
        distance = (outputs[0] - output).norm() / output.norm()
        print(f"{subject}: relative distance to {contender.name} {distance:.1e}", flush=True)
        if not distance < 0.05:
            raise SystemExit(
                f"{subject}: outputs differ by {distance:.3f}; the same work would be within 0.05"
            )


def measure(contenders: list[Contender], rounds: int, steps: int) -> list[Contender]:
    """Milliseconds of one call, in turns: what disturbs the machine disturbs everybody."""
    for _ in range(rounds):
        for contender in contenders:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            for _ in range(steps):
                contender.call()
            end.record()
            end.synchronize()
            contender.times.append(start.elapsed_time(end) / steps)
    return contenders


def report(title: str, contenders: list[Contender], goal: float) -> None:
    """Prints a table in Markdown."""
    print(f"\n| {title} | ms (median) | fastest - slowest | per second | warm-up s |")
    print("| --- | --- | --- | --- | --- |")
    for c in contenders:
        print(
            f"| {c.name} | {c.milliseconds:.2f} | {min(c.times):.2f} - {max(c.times):.2f} "
            f"| {1000 / c.milliseconds:.1f} | {c.warm_up:.1f} |"
        )
    ours = contenders[0]
    is_met = ours.milliseconds <= goal and ours.warm_up <= WARM_UP_GOAL_S
    print(f"goal: {goal:.2f} ms, warm-up {WARM_UP_GOAL_S:.0f} s: {'met' if is_met else 'not met'}")


if __name__ == "__main__":
    main()
