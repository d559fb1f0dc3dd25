"""A diffusion network at 1024x1024 of which only a part is on the GPU: ours against itself and diffusers.

The claim: Flux.1 dev in bf16 with 65% of its blocks on the device takes at most 8% longer a step than with
all of them. What the bus allows is printed beside it: the bytes of a step at the speed of one plain copy.

    python -m benchmarks.offload [65% 80% 0% 12 ...] [--family flux] [--rounds 5] [--no-peer] [--json FILE]

65%: so many of the blocks stay, chosen as --max-vram chooses them. 12: what --max-vram 12 keeps, in GiB.
Networks have full size and random weights. The peer is diffusers' group offloading, which keeps no block:
block by block, on a stream, from page-locked memory. Needs diffusers, one CUDA GPU and main memory for the
network two and a half times.
"""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import diffusers
import torch
from benchmarks.full_size import DTYPE, FAMILIES, Work, random_network
from benchmarks.gpu_families import in_turns, warm, weights
from diffusers.hooks import apply_group_offloading
from torch import Tensor, nn

from darkroom.api.config import EngineConfig
from darkroom.api.names import Module
from darkroom.runtime.backends import BackendManager, Placement
from darkroom.runtime.budget import TRANSFORMER_CHANNELS, blocks_to_stream, estimate_activation_bytes
from darkroom.runtime.component import Component
from darkroom.runtime.devices import Devices
from darkroom.runtime.limits import GIBIBYTE
from darkroom.runtime.residency import SPARE
from darkroom.weights.source import MemorySource

GOAL_SHARE, GOAL = "65%", 1.08
CUDA = torch.device("cuda")


@dataclass(frozen=True)
class Contender:
    """A network of which not all is on the card. brought: bytes of a step. peak: most bytes on the card."""

    name: str
    staying: str
    brought: int
    peak: int
    call: Callable[[], Tensor]


@dataclass(frozen=True)
class Result:
    """A line of the table. bus_ms: what the bytes of a step take. distance: to the whole network's output."""

    name: str
    staying: str
    brought: int
    peak: int
    ms: float
    resident_ms: float
    bus_ms: float
    distance: float | None

    @property
    def ratio(self) -> float:
        """Times the step with all weights on the card."""
        return self.ms / self.resident_ms


def main() -> None:
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("budgets", nargs="*", default=["90%", "80%", "65%", "0%"], help="65%% or GiB")
    parser.add_argument("--family", default="flux", choices=FAMILIES)
    parser.add_argument("--rounds", type=int, default=5, help="turns that each contender takes")
    parser.add_argument("--no-peer", action="store_true", help="leave out diffusers")
    parser.add_argument("--json", type=Path, help="write all numbers there")
    options = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, diffusers {diffusers.__version__}")
    bandwidth = copy_speed()
    print(f"one copy from page-locked memory: {bandwidth / 1e9:.1f} GB/s")
    with torch.inference_mode(), ExitStack() as opened:
        work = FAMILIES[options.family]().step
        tensors = {name: tensor.cpu() for name, tensor in random_network(work.build).state_dict().items()}
        empty()
        resident = opened.enter_context(component(work, tensors, opened, "100%").resident())
        results = []
        print(f"\n| {work.name} step | stay | GB brought | ms | bus ms | / resident | peak GB | distance |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for budget in options.budgets:
            with ExitStack() as part:
                contender = ours(work, tensors, part, budget)
                results.append(compare(work, contender, resident, options.rounds, bandwidth))
            empty()
        if not options.no_peer:
            del tensors
            results.append(compare(work, peer(work), resident, options.rounds, bandwidth))
    for result in results:
        if result.name == GOAL_SHARE and options.family == "flux":
            print(f"goal: {GOAL:.2f} of resident: {'met' if result.ratio <= GOAL else 'not met'}")
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=1))


def component(work: Work, tensors: dict[str, Tensor], opened: ExitStack, budget: str) -> Component:
    """The network as an engine runs it, with so much of it on the card."""

    def on_meta() -> nn.Module:
        with torch.device("meta"):
            return work.build()

    placement = Placement.parse(EngineConfig(backend="cuda0"), Devices.discover())
    manager = opened.enter_context(BackendManager(placement))
    runtime = manager.runtime(Module.DIFFUSION)
    made = Component(work.name, on_meta, MemorySource(tensors), runtime=runtime, params=runtime, dtype=DTYPE)
    opened.callback(made.close)
    total, blocks = made.weigh()
    moving = streamed([block.nbytes for block in blocks], budget, total)
    made.stream([blocks[number] for number in moving], manager.host(Module.DIFFUSION))
    return made


def streamed(sizes: Sequence[int], budget: str, total: int) -> Sequence[int]:
    """Numbers of the blocks that come and go. sizes: bytes of each. total: bytes of the network."""
    if not budget.endswith("%"):
        work = estimate_activation_bytes(
            1024,
            1024,
            itemsize=DTYPE.itemsize,
            batch=2,
            decoder_channels=0,
            unet_channels=TRANSFORMER_CHANNELS,
        )
        return blocks_to_stream(sizes, int(float(budget) * GIBIBYTE - SPARE * work) - (total - sum(sizes)))
    share = float(budget[:-1]) / 100
    plans = (blocks_to_stream(sizes, sum(sizes) * percent // 100) for percent in range(101))
    return next(plan for plan in plans if len(sizes) - len(plan) >= round(share * len(sizes)))


def ours(work: Work, tensors: dict[str, Tensor], opened: ExitStack, budget: str) -> Contender:
    """Our network with so much of it on the card, warm."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    made = component(work, tensors, opened, budget)
    net = opened.enter_context(made.resident())
    call: Callable[[], Tensor] = partial(work.call, net)
    warm(call)
    peak = torch.cuda.max_memory_allocated() - before
    traffic = made.traffic
    blocks, brought = traffic.streamed_blocks, traffic.streamed_bytes
    call()
    blocks, brought = traffic.streamed_blocks - blocks, traffic.streamed_bytes - brought
    count = len(made.weigh()[1])
    name = budget if budget.endswith("%") else f"{budget} GiB"
    return Contender(name, f"{count - blocks} of {count}", brought, peak, call)


def peer(work: Work) -> Contender:
    """diffusers' group offloading, warm; its weights are random ones of its own."""
    theirs = random_network(work.build_peer)
    brought = weights(theirs)
    theirs.to("cpu")
    empty()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    apply_group_offloading(
        theirs,
        onload_device=CUDA,
        offload_device=torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
        non_blocking=True,
        use_stream=True,
        record_stream=True,
    )
    call: Callable[[], Tensor] = partial(work.call_peer, theirs)
    warm(call)
    return Contender("diffusers", "none", brought, torch.cuda.max_memory_allocated() - before, call)


def compare(work: Work, contender: Contender, resident: nn.Module, rounds: int, bandwidth: float) -> Result:
    """In turns with the whole network; prints a line of the table."""
    whole: Callable[[], Tensor] = partial(work.call, resident)
    warm(whole)
    distance = None
    if contender.name != "diffusers":
        expected = whole().float()
        distance = float((contender.call().float() - expected).norm() / expected.norm())
    times = in_turns({"resident": whole, "part": contender.call}, rounds)
    result = Result(
        contender.name,
        contender.staying,
        contender.brought,
        contender.peak,
        times["part"],
        times["resident"],
        1e3 * contender.brought / bandwidth,
        distance,
    )
    print(
        f"| {result.name} | {result.staying} | {result.brought / 1e9:.1f} | {result.ms:.1f} "
        f"| {result.bus_ms:.1f} | {result.ratio:.3f} | {result.peak / 1e9:.1f} "
        f"| {'-' if distance is None else f'{distance:.1e}'} |",
        flush=True,
    )
    return result


def copy_speed() -> float:
    """Bytes a second of a large copy from page-locked memory to the card."""
    source = torch.empty(1 << 30, dtype=torch.uint8).pin_memory()
    target = torch.empty_like(source, device=CUDA)
    call: Callable[[], Tensor] = partial(target.copy_, source, non_blocking=True)
    warm(call)
    return 1e3 * source.nbytes / in_turns({"copy": call}, 3)["copy"]


def empty() -> None:
    """Gives back what nobody holds."""
    gc.collect()
    torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
