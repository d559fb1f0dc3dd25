"""Pictures one by one and as one batch: seconds of sampling a picture, on whatever device there is.

    python benchmarks/batches.py [-m model.safetensors] [--sizes 256 512 1024] [--together 1 2 4 8]

One engine for each size of batch, in turns, in an order that changes; the least of all rounds counts. Where
larger batches stop to help, a device is full (engine/sharing.py).
"""

from __future__ import annotations

import argparse
import random
from contextlib import ExitStack
from pathlib import Path

from darkroom.api.config import EngineConfig
from darkroom.api.request import GenerationRequest
from darkroom.api.result import Phase
from darkroom.engine.engine import Engine

ROUNDS = 4


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-m", "--model", type=Path, help="a full checkpoint; the built-in model by default")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256], help="sides of square pictures")
    parser.add_argument("--together", type=int, nargs="+", default=[1, 2, 4], help="pictures at once")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=-1)
    options = parser.parse_args()
    with ExitStack() as stack:
        engines = {
            count: stack.enter_context(
                Engine.load(EngineConfig(model=options.model, max_batch=count, threads=options.threads))
            )
            for count in options.together
        }
        print("| size " + "".join(f"| {count} at once, s a picture " for count in engines) + "|")
        print("| --- " * (1 + len(engines)) + "|")
        for size in options.sizes:
            seconds = compared(engines, size, options.steps)
            cells = "".join(f"| {seconds[count]:.3f} " for count in engines)
            print(f"| {size}x{size} {cells}|", flush=True)


def compared(engines: dict[int, Engine], size: int, steps: int) -> dict[int, float]:
    """Seconds of sampling a picture, for each number of pictures at once."""
    most = max(engines)
    request = GenerationRequest(prompt="a red circle", width=size, height=size, steps=steps, batch_count=most)
    for engine in engines.values():
        for _ in range(2):  # kernels are chosen, then calls are recorded
            engine.generate(request)
    found: dict[int, list[float]] = {count: [] for count in engines}
    for turn in range(ROUNDS):
        for count, engine in random.Random(turn).sample(list(engines.items()), len(engines)):
            found[count].append(engine.generate(request).timings[Phase.SAMPLE] / most)
    return {count: min(seconds) for count, seconds in found.items()}


if __name__ == "__main__":
    main()
