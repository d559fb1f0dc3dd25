"""A large model in little memory: Z-Image Turbo in Q4_K on the processor, held to 8 GB by a cgroup.

    python -m benchmarks.small_memory FOLDER [--gigabytes 8] [--size 512] [--steps 2] [--sd-cpp PATH]

Writes the files to FOLDER unless they are there: full size, random weights, 6.7 GB. Prints seconds a step and
the peak of memory that is the process's own, and with file pages, which the system may take back. The peer is
stable-diffusion.cpp's program with the same files, in the same cgroup. Needs root for the cgroup, version 1
or 2; without one the processes are watched but not held.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from benchmarks.random_checkpoint import NORM, RESIDUAL
from torch import Tensor, nn

from darkroom.families.z_image.model import ZImageTransformer, ZImageTransformerConfig
from darkroom.nets.te.qwen import QwenConfig, QwenTextModel
from darkroom.nets.vae.kl import AutoencoderKL, KLConfig
from darkroom.quant.gguf import encode
from darkroom.quant.packed import PackedTensor
from darkroom.weights.save import write_gguf

QWEN3_4B = QwenConfig(151936, 2560, 9728, 36, 32, 8, 128, False, True)
POOL, BLOCK, BLOCK_BYTES = 1 << 22, 256, 144
CGROUPS = Path("/sys/fs/cgroup")
NAME = "darkroom-small-memory"
STEP = re.compile(r"([\d.]+)\s?(s/it|it/s)")


def main() -> None:
    """Writes what is missing, runs both programs and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=8.0)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--sd-cpp", type=Path, help="stable-diffusion.cpp's sd-cli")
    options = parser.parse_args()
    files = make_files(options.folder)
    programs = {"darkroom": [sys.executable, "-m", "darkroom.cli.main"]}
    if options.sd_cpp:
        programs["stable-diffusion.cpp"] = [str(options.sd_cpp)]
    arguments = [part for flag, path in files.items() for part in (flag, str(path))]
    arguments += ["-p", "a lighthouse at dusk", "-W", str(options.size), "-H", str(options.size)]
    arguments += ["--steps", str(options.steps), "--cfg-scale", "1", "-o", str(options.folder / "out.png")]
    size = sum(path.stat().st_size for path in files.values()) / 1e9
    print(f"{size:.1f} GB of files, {os.cpu_count()} cores, {options.size}x{options.size}")
    with held(int(options.gigabytes * 1e9)) as join:
        print(f"held to {options.gigabytes:g} GB" if join else "no cgroup: watched, not held")
        print("\n| | seconds in all | s a step | peak GB of its own | with file pages |")
        print("| --- | --- | --- | --- | --- |")
        for name, program in programs.items():
            print(f"| {name} | {watched([*program, *arguments], join)} |", flush=True)


def make_files(folder: Path) -> dict[str, Path]:
    """Z-Image's three files by sd-cli's flag: native names, matrices in q4_K, the autoencoder in f16."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        networks: dict[str, tuple[str, nn.Module]] = {
            "--diffusion-model": ("z-image-q4_k", ZImageTransformer(ZImageTransformerConfig())),
            "--llm": ("qwen3-4b-q4_k", QwenTextModel(QWEN3_4B)),
            "--vae": ("ae-f16", AutoencoderKL(KLConfig(z_channels=16, embed_dim=16, use_quant_conv=False))),
        }
    paths = {}
    generator = torch.Generator().manual_seed(0)
    pool = encode(torch.randn(POOL, generator=generator), "q4_k").view(-1, BLOCK_BYTES)
    for flag, (stem, net) in networks.items():
        paths[flag] = folder / f"{stem}.gguf"
        if not paths[flag].exists():
            prefix = "model." if flag == "--llm" else ""
            tensors = {
                name if name.startswith(prefix) else prefix + name: _random(name, like, pool, generator)
                for name, like in net.state_dict().items()
            }
            write_gguf(paths[flag], tensors)
    return paths


def _random(name: str, like: Tensor, pool: Tensor, generator: torch.Generator) -> Tensor | PackedTensor:
    shape = tuple(like.shape)
    if like.ndim == 2 and shape[1] % BLOCK == 0:
        count = math.prod(shape) // BLOCK
        blocks = pool[torch.randint(len(pool), (count,), generator=generator)].clone()
        scale = (0.5 if RESIDUAL.search(name) else 1.0) / (50 if "embed" in name else shape[1] ** 0.5)
        scales = blocks[:, :4].contiguous().view(torch.float16)  # the block's scale and its minimum
        blocks[:, :4] = (scales * scale).view(torch.uint8)
        return PackedTensor(blocks.flatten(), "q4_k", shape)
    weight = torch.randn(shape, generator=generator)
    if like.ndim >= 2:
        return (weight / like[0].numel() ** 0.5).half()
    return 1 + 0.1 * weight if NORM.search(name) else 0.02 * weight


@contextmanager
def held(limit: int) -> Iterator[Callable[[], None] | None]:
    """A cgroup of so many bytes. ->  what a process calls to join it; None where there can be none"""
    version_1 = CGROUPS / "memory"
    root, name = (version_1, "memory.limit_in_bytes") if version_1.is_dir() else (CGROUPS, "memory.max")
    group = root / NAME
    try:
        group.mkdir(exist_ok=True)
        (group / name).write_text(str(limit))
    except OSError:
        with contextlib.suppress(OSError):
            group.rmdir()
        yield None
        return

    def join() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    try:
        yield join
    finally:
        group.rmdir()


def watched(command: Sequence[str], join: Callable[[], None] | None) -> str:
    """Runs a program; its figures as cells of the table."""
    start = time.perf_counter()
    log = Path(command[-1]).with_suffix(".log")
    own = resident = 0
    with log.open("wb") as output:
        process = psutil.Popen(command, stdout=output, stderr=output, preexec_fn=join)
        while process.poll() is None:
            with contextlib.suppress(psutil.Error):
                memory = process.memory_info()
                own, resident = max(own, memory.rss - memory.shared), max(resident, memory.rss)
            time.sleep(0.02)
    seconds = time.perf_counter() - start
    text = log.read_text(errors="replace")
    if process.returncode:
        return f"failed with {process.returncode}: {text[-300:]}"
    value, unit = STEP.findall(text)[-1]
    step = float(value) if unit == "s/it" else 1 / float(value)
    return f"{seconds:.1f} | {step:.1f} | {own / 1e9:.2f} | {resident / 1e9:.2f}"


if __name__ == "__main__":
    main()
