"""A diffusion network at 1024x1024 over several GPUs, by layers and by rows: against one of them, and a peer.

The claims, for Flux.1 dev in bf16 on two cards: split by layers a step takes at most 5% longer than on one,
split by rows at most 0.65 of it.

    python -m benchmarks.split [--cards 2] [--family flux] [--rounds 5] [--no-peer] [--json FILE]

Networks have full size and random weights, the same ones in all cases. The peer is diffusers with its layers
spread by accelerate, as its device_map="balanced" does it. Needs diffusers, accelerate and several CUDA GPUs;
each has room for the whole network.
"""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import accelerate
import diffusers
import torch
from benchmarks.full_size import DTYPE, FAMILIES, Work, random_network
from benchmarks.gpu_families import in_turns, warm
from torch import Tensor, nn

from darkroom.api.config import EngineConfig
from darkroom.api.names import Module
from darkroom.runtime.backends import BackendManager, Placement
from darkroom.runtime.component import Component
from darkroom.runtime.devices import Devices
from darkroom.runtime.split import apply_splits
from darkroom.weights.source import MemorySource

GOALS = {"layer": 1.05, "row": 0.65}
MEASURED = 1 << 28
"""Bytes of the copies between two cards."""


@dataclass(frozen=True)
class Result:
    """A line of the table. weights: bytes on each card. distance: to the output of one card."""

    name: str
    ms: float
    one_ms: float
    weights: list[int]
    distance: float | None

    @property
    def ratio(self) -> float:
        """Times the step on one card."""
        return self.ms / self.one_ms


def main() -> None:
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cards", type=int, default=2)
    parser.add_argument("--family", default="flux", choices=FAMILIES)
    parser.add_argument("--rounds", type=int, default=5, help="turns that each contender takes")
    parser.add_argument("--no-peer", action="store_true", help="leave out diffusers")
    parser.add_argument("--json", type=Path, help="write all numbers there")
    options = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, diffusers {diffusers.__version__}")
    print(f"one copy from card to card: {copy_speed() / 1e9:.0f} GB/s")
    results = []
    with torch.inference_mode(), ExitStack() as opened:
        work = FAMILIES[options.family]().step
        tensors = {name: tensor.cpu() for name, tensor in random_network(work.build).state_dict().items()}
        empty()
        one = opened.enter_context(component(work, tensors, opened, "cuda0", "").resident())
        names = "&".join(f"cuda{number}" for number in range(options.cards))
        print(f"\n| {work.name} step | ms | one card ms | / one card | GB of weights on each | distance |")
        print("| --- | --- | --- | --- | --- | --- |")
        for mode in GOALS:
            with ExitStack() as part:
                net = part.enter_context(component(work, tensors, part, names, mode).resident())
                results.append(compare(mode, partial(work.call, net), net, work, one, options.rounds))
            empty()
        if not options.no_peer:
            net = peer(work, options.cards)
            run = partial(work.call_peer, net)
            results.append(compare("diffusers", run, net, work, one, options.rounds))
    for result in results:
        if options.family == "flux" and options.cards == 2 and (goal := GOALS.get(result.name)):
            print(
                f"{result.name}: goal {goal:.2f} of one card: {'met' if result.ratio <= goal else 'not met'}"
            )
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=1))


def component(
    work: Work, tensors: Mapping[str, Tensor], opened: ExitStack, cards: str, mode: str
) -> Component:
    """The network as an engine runs it on these cards."""

    def on_meta() -> nn.Module:
        with torch.device("meta"):
            return work.build()

    placement = Placement.parse(
        EngineConfig(backend=f"diffusion={cards}", split_mode=mode), Devices.discover()
    )
    manager = opened.enter_context(BackendManager(placement))
    main, *others = manager.spread(Module.DIFFUSION)
    source = MemorySource(tensors)
    made = Component(work.name, on_meta, source, runtime=main, params=main, dtype=DTYPE, others=others)
    opened.callback(made.close)
    apply_splits({Module.DIFFUSION: made}, manager)
    return made


def peer(work: Work, cards: int) -> nn.Module:
    """diffusers' network, its weights random ones of its own, spread evenly by whole blocks."""
    net = random_network(work.build_peer).to("cpu")
    empty()
    whole = net._no_split_modules
    memory = accelerate.utils.get_balanced_memory(
        net, {number: torch.cuda.mem_get_info(number)[0] for number in range(cards)}, whole, dtype=DTYPE
    )
    places = accelerate.infer_auto_device_map(net, memory, whole, dtype=DTYPE)
    spread: nn.Module = accelerate.dispatch_model(net, places)
    return spread


def compare(
    name: str, run: Callable[[], Tensor], net: nn.Module, work: Work, one: nn.Module, rounds: int
) -> Result:
    """In turns with one card; prints a line of the table."""
    alone: Callable[[], Tensor] = partial(work.call, one)
    warm(run)
    warm(alone)
    distance = None
    if name in GOALS:
        expected = alone().float()
        distance = float((run().float() - expected).norm() / expected.norm())
    times = in_turns({"one": alone, "several": run}, rounds)
    weights = [0] * torch.cuda.device_count()
    for tensor in (*net.parameters(), *net.buffers()):
        weights[tensor.device.index or 0] += tensor.nbytes
    result = Result(name, times["several"], times["one"], weights, distance)
    held = ", ".join(f"{size / 1e9:.1f}" for size in weights if size)
    print(
        f"| {name} | {result.ms:.1f} | {result.one_ms:.1f} | {result.ratio:.3f} | {held} "
        f"| {'-' if distance is None else f'{distance:.1e}'} |",
        flush=True,
    )
    return result


def copy_speed() -> float:
    """Bytes a second of a large copy from the second card to the first."""
    source = torch.empty(MEASURED, dtype=torch.uint8, device="cuda:1")
    target = torch.empty_like(source, device="cuda:0")
    copy: Callable[[], Tensor] = partial(target.copy_, source)
    warm(copy)
    return 1e3 * source.nbytes / in_turns({"copy": copy}, 3)["copy"]


def empty() -> None:
    """Gives back what nobody holds."""
    gc.collect()
    for number in range(torch.cuda.device_count()):
        with torch.cuda.device(number):
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
