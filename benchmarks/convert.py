"""Converting a model: GB/s and peak memory, ours and stable-diffusion.cpp's in turns.

    python benchmarks/convert.py --sd-cli path/to/sd-cli --megabytes 300 --types q8_0 q4_K

The model is random: bf16 matrices of 3072 columns, as Flux has them. Both programs run as processes of their
own, on as many threads, from the page cache; errors are measured on the first matrix of both results.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch
from safetensors.torch import save_file

from darkroom.quant.packed import PackedTensor
from darkroom.weights.checkpoint import open_checkpoint

ROWS, COLUMNS = 3072, 3072


def make_model(path: Path, megabytes: int) -> None:
    """Matrices of random weights."""
    generator = torch.Generator().manual_seed(1)
    count = max(1, round(megabytes * 1e6 / (2 * ROWS * COLUMNS)))
    tensors = {}
    for i in range(count):
        weights = torch.randn(ROWS, COLUMNS, generator=generator) * 0.02
        tensors[f"model.diffusion_model.double_blocks.{i}.img_mlp.0.weight"] = weights.bfloat16()
    save_file(tensors, path)


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds and peak resident megabytes of a process."""
    start = time.perf_counter()
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:  # what the system remembers of it begins with our own size
        with contextlib.suppress(psutil.Error):
            peak = max(peak, process.memory_info().rss)
        time.sleep(0.01)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - start, peak / 1e6


def relative_error(original: Path, converted: Path) -> float:
    """Of the first matrix: root mean square, relative to the weights."""
    with open_checkpoint(original) as before, open_checkpoint(converted) as after:
        name = next(iter(before.index))
        weights, packed = before.read(name), after.read(name)
        assert isinstance(weights, torch.Tensor)
        values = packed.decode(torch.float32) if isinstance(packed, PackedTensor) else packed.float()
        return float((values - weights.float()).norm() / weights.float().norm())


def main() -> None:
    """Prints one line for each type and program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sd-cli", type=Path, help="stable-diffusion.cpp's program; without it only ours runs"
    )
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--types", nargs="+", default=["bf16", "q8_0", "q4_0", "q4_K", "q6_K"])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    programs = {"darkroom": [sys.executable, "-m", "darkroom.cli.main"]}
    if asked.sd_cli:
        programs["stable-diffusion.cpp"] = [str(asked.sd_cli)]
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.safetensors"
        make_model(model, asked.megabytes)
        size = model.stat().st_size
        print(f"{size / 1e6:.0f} MB of bf16, {asked.threads} threads")
        for type in asked.types:
            for name, program in programs.items():
                output = Path(folder) / f"{name}-{type}.gguf"
                command = ["-M", "convert", "-m", str(model), "-o", str(output), "--type", type]
                seconds, megabytes = timed([*program, *command, "-t", str(asked.threads)])
                print(
                    f"{type:6} {name:20} {seconds:6.1f} s  {size / seconds / 1e9:5.2f} GB/s  "
                    f"peak {megabytes:5.0f} MB  error {relative_error(model, output):.5f}"
                )
                output.unlink()


if __name__ == "__main__":
    main()
