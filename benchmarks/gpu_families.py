"""Every family at 1024x1024 on one CUDA GPU: ours against diffusers, eager and compiled, taking turns.

The claim: a step takes no longer than diffusers compiled, nothing of ours is compiled for longer than 10 s,
and a picture is decoded in less than 30 ms.

    python benchmarks/gpu_families.py [flux sdxl ...] [--rounds 5] [--no-compile] [--json FILE]

Networks have full size and random weights in bf16. diffusers compiles its transformers by their repeated
blocks where it names some, and other networks as a whole. Needs diffusers and transformers.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import diffusers
import torch
from benchmarks.full_size import FAMILIES, FamilyWork, Work, bound_network, random_network
from torch import Tensor, nn

from darkroom.runtime.graphs import accelerate

Run = Callable[[], Tensor]


def main() -> None:
    """Runs the benchmark and prints its tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("families", nargs="*", help=f"of {', '.join(FAMILIES)}; all where none is named")
    parser.add_argument("--rounds", type=int, default=5, help="turns that each contender takes")
    parser.add_argument("--no-compile", action="store_true", help="leave out diffusers with torch.compile")
    parser.add_argument("--json", type=Path, help="write all numbers there")
    options = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    results: dict[str, dict[str, object]] = {}
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, diffusers {diffusers.__version__}")
    print("| work | darkroom ms | diffusers ms | compiled ms | compiling s | ours / best | peak GB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for family in options.families or FAMILIES:
        with torch.inference_mode():
            works = FAMILIES[family]()
            for work in parts(works):
                if work.name in results:
                    continue
                is_step = work is works.step
                try:
                    results[work.name] = compare(work, options.rounds, is_step and not options.no_compile)
                except Exception:
                    traceback.print_exc()
                    print(f"| {work.name} | failed | | | | | |", flush=True)
                gc.collect()
                torch.cuda.empty_cache()
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


def parts(works: FamilyWork) -> tuple[Work, ...]:
    """Everything that a picture of the family takes."""
    return (works.step, *works.text, works.decode)


def compare(work: Work, rounds: int, compiles: bool) -> dict[str, object]:
    """Both sides in turns; prints a line of the table and returns its numbers."""
    ours = bound_network(work.build)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    fast = accelerate(ours)
    start = time.perf_counter()
    work.call(fast)
    torch.cuda.synchronize()
    first = time.perf_counter() - start
    contenders: dict[str, Run] = {"darkroom": lambda: work.call(fast)}
    warm(contenders["darkroom"])
    peak = torch.cuda.max_memory_allocated() - before + weights(ours)
    theirs = random_network(work.build_peer)
    contenders["diffusers"] = lambda: work.call_peer(theirs)
    compile_seconds = None
    if compiles and work.compiled:
        compiled = random_network(work.build_peer)
        start = time.perf_counter()
        if work.compiled == "blocks":
            compiled.compile_repeated_blocks(fullgraph=True)  # type: ignore[operator]
        else:
            compiled.compile(fullgraph=True)
        contenders["compiled"] = lambda: work.call_peer(compiled)
        contenders["compiled"]()
        torch.cuda.synchronize()
        compile_seconds = time.perf_counter() - start
    for run in contenders.values():
        warm(run)
    times = in_turns(contenders, rounds)
    best = min(value for name, value in times.items() if name != "darkroom")
    print(
        f"| {work.name} | {times['darkroom']:.2f} | {times['diffusers']:.2f} "
        f"| {number(times.get('compiled'))} | {number(compile_seconds)} | {times['darkroom'] / best:.2f} "
        f"| {peak / 1e9:.1f} |",
        flush=True,
    )
    return {"ms": times, "compile_s": compile_seconds, "first_call_s": first, "peak_bytes": peak}


def warm(run: Run) -> None:
    """Runs until everything is compiled, chosen and recorded."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()


def in_turns(contenders: dict[str, Run], rounds: int) -> dict[str, float]:
    """Median milliseconds of a call; each turn lasts about a third of a second.

    A card that others' work has warmed or rested is slower or faster for a while: the order of each round is
    another one, and the first half of a turn does not count.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    shuffled = random.Random(0)
    for turn in range(rounds + 1):
        for name, run in shuffled.sample(list(contenders.items()), len(contenders)):
            calls = 1 if turn == 0 else max(1, min(50, int(200 / times[name][0])))
            for _ in range(calls):
                run()
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            for _ in range(calls):
                run()
            end.record()
            end.synchronize()
            times[name].append(start.elapsed_time(end) / calls)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def weights(net: nn.Module) -> int:
    """Bytes of a network's weights."""
    return sum(tensor.nbytes for tensor in (*net.parameters(), *net.buffers()))


def number(value: float | None) -> str:
    """For the table; a dash where there is none."""
    return "-" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    main()
