"""From files to a picture of 1024x1024 on one CUDA GPU: loading, text, steps, decoding and peak memory.

    python benchmarks/gpu_pictures.py [flux sdxl ...] [--folder /dev/shm] [--steps 4]

Writes checkpoints of full size with random weights under native names into the folder, one family after the
other, so that they are in the page cache, and draws through the engine. The peer for loading is
safetensors.torch.load_file of the same files to the card, with which diffusers loads, too, in the same run.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from benchmarks.full_size import FAMILIES, Work, random_network
from safetensors.torch import load_file, save_file

from darkroom.api.config import EngineConfig
from darkroom.api.names import Module
from darkroom.api.request import GenerationRequest
from darkroom.api.result import Phase, Progress
from darkroom.engine.engine import Engine

# Which option names the file of a network, by how the work begins its name.
ROLES = {
    "KL": "vae",
    "Wan": "vae",
    "T5": "t5xxl",
    "CLIP-L": "clip_l",
    "CLIP-G": "clip_g",
    "Qwen": "llm",
}
PROJECTED = {"clip_l": 768, "clip_g": 1280}


def main() -> None:
    """Draws with every family and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("families", nargs="*", help=f"of {', '.join(FAMILIES)}; all where none is named")
    parser.add_argument("--folder", type=Path, help="where the checkpoints go; a temporary folder by default")
    parser.add_argument("--steps", type=int, default=4, help="steps of the picture")
    options = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    print(
        "| family | files GB | load s | load GB/s | load_file GB/s | text ms | step ms | decode ms | peak GB "
        "| first picture s |"
    )
    print("| --- " * 10 + "|")
    for family in options.families or FAMILIES:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            try:
                print(row(family, Path(folder), options.steps), flush=True)
            except Exception:
                traceback.print_exc()
                print(f"| {family} | failed " + "| " * 9, flush=True)
        gc.collect()
        torch.cuda.empty_cache()


def row(family: str, folder: Path, steps: int) -> str:
    """A line of the table."""
    files = write_files(family, folder)
    size = sum(path.stat().st_size for path in files.values()) / 1e9
    peer = read_plainly(files.values())
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    with Engine.load(EngineConfig(eager_load=True, **files)) as engine:
        torch.cuda.synchronize()
        load = time.perf_counter() - start
        draw(engine, steps, "a first picture")
        first = time.perf_counter() - start
        times = draw(engine, steps, "another picture")
        assert all(
            engine.components[module].is_loaded for module in (Module.TE, Module.DIFFUSION, Module.VAE)
        )
    peak = torch.cuda.max_memory_allocated() / 1e9
    return (
        f"| {family} | {size:.1f} | {load:.1f} | {size / load:.1f} | {size / peer:.1f} "
        f"| {times[Phase.ENCODE_TEXT] * 1e3:.0f} | {times[Phase.SAMPLE] * 1e3 / steps:.1f} "
        f"| {times[Phase.DECODE] * 1e3:.0f} | {peak:.1f} | {first:.1f} |"
    )


def write_files(family: str, folder: Path) -> dict[str, Path]:
    """The family's checkpoints, by the option that names each."""
    work = FAMILIES[family]()
    files = {"diffusion_model": write(work.step, folder / "diffusion.safetensors")}
    for part in (*work.text, work.decode):
        role = next(role for start, role in ROLES.items() if part.name.startswith(start))
        files[role] = write(part, folder / f"{role}.safetensors", PROJECTED.get(role))
    return files


def write(work: Work, path: Path, projected: int | None = None) -> Path:
    """One network with random weights under its own names. projected: width of CLIP's text_projection."""
    net = random_network(work.build)
    tensors = {name: tensor.contiguous().cpu() for name, tensor in net.state_dict().items()}
    if projected is not None:
        tensors.setdefault("text_projection.weight", torch.eye(projected, dtype=torch.bfloat16))
    save_file(tensors, path)
    return path


def read_plainly(paths: Iterable[Path]) -> float:
    """Seconds that safetensors takes to bring the files to the card."""
    start = time.perf_counter()
    for path in paths:
        load_file(path, device="cuda")
        torch.cuda.synchronize()
    return time.perf_counter() - start


def draw(engine: Engine, steps: int, prompt: str) -> Mapping[Phase, float]:
    """Seconds of each phase of a picture."""

    def wait_at_the_end(progress: Progress) -> None:
        if progress.step == progress.steps:
            torch.cuda.synchronize()

    request = GenerationRequest(prompt=prompt, steps=steps, width=1024, height=1024)
    return engine.generate(request, wait_at_the_end).timings


if __name__ == "__main__":
    main()
