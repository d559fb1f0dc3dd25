"""Flux.1 dev at 1024x1024 from quantized weights on one CUDA GPU: unpacked at load, kept packed, diffusers'.

The claims: unpacked at load, a step takes at most 1% longer than with bf16 weights; kept packed, at most 8%.

    python -m benchmarks.packed [q8_0 q4_k ...] [--rounds 5] [--json FILE]

Full size and random weights. What published files quantize is quantized: matrices of whole blocks. The peer
is diffusers' GGUFLinear in place of the same layers. First the kernels alone. Needs diffusers and gguf.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import diffusers
import gguf
import torch
from benchmarks.full_size import DTYPE, Work, bound_network, flux, random_network
from benchmarks.gpu_families import in_turns, warm, weights
from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter
from torch import Tensor, nn

from darkroom.layers.unpack import is_fast, unpack
from darkroom.quant.gguf import BLOCK_TYPES, encode
from darkroom.quant.packed import PackedTensor
from darkroom.runtime.graphs import accelerate
from darkroom.weights.bind import bind_weights
from darkroom.weights.source import MemorySource

UNPACKED_GOAL, PACKED_GOAL = 1.01, 1.08
CUDA = torch.device("cuda")
POOL = 1 << 22
WIDEST = (21504, 3072)


def main() -> None:
    """Runs the benchmark and prints its tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("formats", nargs="*", default=["q8_0", "q4_k"], help="GGUF types in lower case")
    parser.add_argument("--rounds", type=int, default=5, help="turns that each contender takes")
    parser.add_argument("--json", type=Path, help="write all numbers there")
    options = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, diffusers {diffusers.__version__}")
    results: dict[str, object] = {}
    with torch.inference_mode():
        results["kernels"] = {format: measure_kernel(format, options.rounds) for format in options.formats}
        for format in options.formats:
            results[format] = compare(format, flux().step, options.rounds)
            gc.collect()
            torch.cuda.empty_cache()
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


def measure_kernel(format: str, rounds: int) -> dict[str, float]:
    """Milliseconds of unpacking Flux's widest matrix, by our kernel and by torch's operations."""
    packed = Blocks(format).packed(WIDEST)
    out = torch.empty(packed.numel, dtype=DTYPE, device=CUDA)
    copy = torch.empty_like(out)
    times = in_turns(
        {
            "kernel": lambda: unpack(packed, DTYPE),
            "torch": lambda: packed.decode(DTYPE),
            "copy": lambda: copy.copy_(out),
        },
        rounds,
    )
    moved = packed.nbytes + out.nbytes
    print(f"\n{format}, {WIDEST[0]}x{WIDEST[1]}: {moved / 1e6:.0f} MB in and out")
    for name, milliseconds in times.items():
        size = 2 * out.nbytes if name == "copy" else moved
        print(f"  {name:6} {milliseconds:7.3f} ms  {size / milliseconds / 1e9:6.2f} TB/s", flush=True)
    return times


def compare(format: str, work: Work, rounds: int) -> dict[str, float]:
    """Milliseconds of a step of every contender, in turns; prints a table."""
    blocks = Blocks(format)
    plain, unpacked, packed = bound_network(work.build), ours(blocks, work, False), ours(blocks, work, True)
    theirs = peer(blocks, work)
    networks = {"bf16": plain, "unpacked at load": unpacked, "packed": packed}
    calls: dict[str, Callable[[], Tensor]] = {
        name: partial(work.call, accelerate(net)) for name, net in networks.items()
    }
    calls["diffusers GGUFLinear"] = partial(work.call_peer, theirs)
    for call in calls.values():
        warm(call)
    distance = relative(calls["packed"](), calls["unpacked at load"]())
    times = in_turns(calls, rounds)
    sizes = {name: weights(net) for name, net in (*networks.items(), ("diffusers GGUFLinear", theirs))}
    print(f"\n| Flux step, {format} | ms | / bf16 | weights GB |")
    print("| --- | --- | --- | --- |")
    for name, milliseconds in times.items():
        print(
            f"| {name} | {milliseconds:.2f} | {milliseconds / times['bf16']:.3f} | {sizes[name] / 1e9:.1f} |"
        )
    goals = (("unpacked at load", UNPACKED_GOAL), ("packed", PACKED_GOAL))
    met = all(times[name] <= goal * times["bf16"] for name, goal in goals)
    print(f"distance of packed to unpacked {distance:.1e}; goals {'met' if met else 'not met'}", flush=True)
    return times


class Blocks:
    """Random weights of one format: blocks are drawn from a pool that was quantized once."""

    def __init__(self, format: str) -> None:
        self.format = format
        self.block = BLOCK_TYPES[format]
        generator = torch.Generator(CUDA).manual_seed(1)
        normal = torch.randn(POOL, device=CUDA, generator=generator) * 0.02
        self._pool = encode(normal, format).view(-1, self.block.nbytes)
        self._generator = generator

    def fit(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape is quantized in published files."""
        return len(shape) == 2 and shape[1] % max(self.block.elements, 256) == 0

    def packed(self, shape: tuple[int, ...]) -> PackedTensor:
        """A weight of this shape."""
        count = math.prod(shape) // self.block.elements
        numbers = torch.randint(len(self._pool), (count,), device=CUDA, generator=self._generator)
        return PackedTensor(self._pool[numbers].flatten(), self.format, shape)


def ours(blocks: Blocks, work: Work, keep_packed: bool) -> nn.Module:
    """Our network with quantized weights, the same ones each time."""
    blocks._generator.manual_seed(2)
    net = random_network(work.build)
    state: dict[str, Tensor | PackedTensor] = {}
    for name, tensor in net.state_dict().items():
        shape = tuple(tensor.shape)
        state[name] = (
            blocks.packed(shape) if name.endswith(".weight") and blocks.fit(shape) else tensor.clone()
        )
    with torch.device("meta"):  # which lets go of the network that the other weights were taken from
        net = work.build().eval().requires_grad_(False)
    bind_weights(
        net, MemorySource(state), device=CUDA, dtype=DTYPE, subject="quantized", keep_packed=keep_packed
    )
    assert all(is_fast(weight) for weight in state.values() if isinstance(weight, PackedTensor))
    return net


def peer(blocks: Blocks, work: Work) -> nn.Module:
    """diffusers' network with its own layers for quantized weights."""
    net = random_network(work.build_peer)
    for name, module in list(net.named_modules()):
        if not isinstance(module, nn.Linear) or not blocks.fit(tuple(module.weight.shape)):
            continue
        rows, width = module.weight.shape
        with torch.device("meta"):
            layer = GGUFLinear(width, rows, module.bias is not None, compute_dtype=DTYPE)
        data = blocks.packed((rows, width)).data.view(rows, -1)
        layer.weight = GGUFParameter(data, quant_type=gguf.GGMLQuantizationType[blocks.format.upper()])
        layer.bias = module.bias
        net.set_submodule(name, layer)
    return net.eval()


def relative(output: Tensor, reference: Tensor) -> float:
    """Distance in the norm."""
    return float((output.float() - reference.float()).norm() / reference.float().norm())


if __name__ == "__main__":
    main()
