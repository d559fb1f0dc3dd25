"""SD 1.5 on the processor: ours against diffusers (bf16 channels_last, and float32) and stable-diffusion.cpp.

The claim: at 512x512 with guidance at most 0.85 of diffusers' best seconds a step, VAE decode at most 0.9 of
its best, peak memory at most 1.15 x (the file + the largest activations).

    python benchmarks/cpu_sd15.py [--rounds 3] [--steps 4] [--sd-cpp path/to/sd-cli] [--json FILE]

One random full-size float16 checkpoint for all, written once to benchmarks/data/. Every turn is a process of
its own, which loads the file, encodes a prompt pair, samples and decodes one picture; contenders take turns,
so that what disturbs the machine disturbs everybody, and the best of the rounds counts. Needs diffusers and
transformers (the `test` group of pyproject.toml).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

MODEL = Path(__file__).parent / "data" / "sd1.safetensors"
MEASURES = ("load", "text", "step", "decode", "memory")
GOALS = {"step": 0.85, "decode": 0.9}
MEMORY_GOAL = 1.15
# The decoder's widest layers at 512x512, bf16: 256 channels, the same normalised, and 128 of the output.
ACTIVATIONS = (256 + 256 + 128) * 512 * 512 * 2
PROMPT, NEGATIVE = "a photograph of a red fox in the snow", "blurry"
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
Result = dict[str, float]


def main() -> None:
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="turns that each contender takes")
    parser.add_argument("--steps", type=int, default=4, help="denoising steps in a turn")
    parser.add_argument("--size", type=int, default=512, help="width and height of the picture")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", nargs="+", help="contenders to run, by the start of their names")
    parser.add_argument("--sd-cpp", type=Path, help="stable-diffusion.cpp's sd-cli")
    parser.add_argument("--json", type=Path, help="write all numbers there")
    parser.add_argument("--turn", choices=TURNS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.turn:
        print(json.dumps(TURNS[options.turn](options)))
        return
    if not MODEL.exists():
        from random_checkpoint import write_checkpoint

        write_checkpoint(MODEL, "sd1")
    results = run(options)
    print(f"\n{machine()}, {options.threads} threads, {options.size}x{options.size}")
    report(results)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


def run(options: argparse.Namespace) -> dict[str, list[Result]]:
    """All turns of all contenders."""
    contenders: dict[str, Callable[[], Result]] = {
        name: lambda name=name: python_turn(name, options) for name in TURNS
    }
    if options.sd_cpp:
        contenders["stable-diffusion.cpp"] = lambda: sd_cpp_turn(options)
    if options.only:
        contenders = {n: c for n, c in contenders.items() if n.startswith(tuple(options.only))}
    results: dict[str, list[Result]] = {name: [] for name in contenders}
    for turn in range(options.rounds):
        for name, contender in contenders.items():
            result = contender()
            results[name].append(result)
            shown = ", ".join(f"{measure} {result[measure]:.2f}" for measure in MEASURES)
            print(f"turn {turn + 1}, load average {os.getloadavg()[0]:.1f}: {name}: {shown}", flush=True)
    return results


def python_turn(name: str, options: argparse.Namespace) -> Result:
    """One contender of this file in a process of its own."""
    command = [sys.executable, __file__, "--turn", name, "--steps", str(options.steps)]
    command += ["--size", str(options.size), "--threads", str(options.threads)]
    output, memory, _ = child(command)
    return {**json.loads(output.splitlines()[-1]), "memory": memory}


def child(command: list[str]) -> tuple[str, float, float]:
    """What a process printed, its peak memory in GB and its seconds."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read().decode(errors="replace")
    if process.returncode:
        raise SystemExit(f"{command[0]} failed:\n{text[-2000:]}")
    return text, usage.ru_maxrss * 1024 / 1e9, time.perf_counter() - start


def our_turn(options: argparse.Namespace) -> Result:
    """The whole engine, as sd-cli uses it."""
    from darkroom import Engine, EngineConfig, GenerationRequest
    from darkroom.api.result import Phase, Progress

    steps: list[float] = []

    def on_progress(progress: Progress) -> None:
        if progress.phase is Phase.SAMPLE:
            steps.append(progress.seconds)

    request = GenerationRequest(
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        width=options.size,
        height=options.size,
        steps=options.steps,
    )
    start = time.perf_counter()
    with Engine.load(EngineConfig(model=MODEL, threads=options.threads)) as engine:
        opened = time.perf_counter() - start
        timings = engine.generate(request, on_progress).timings
    return {
        "load": opened + timings[Phase.LOAD],
        "text": timings[Phase.ENCODE_TEXT],
        "step": min(after - before for before, after in pairwise(steps)),
        "decode": timings[Phase.DECODE],
    }


def diffusers_turn(options: argparse.Namespace, dtype: torch.dtype) -> Result:
    """diffusers' networks and scheduler, one after the other; channels_last in bf16, where it is faster."""
    from diffusers import EulerAncestralDiscreteScheduler

    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    start = time.perf_counter()
    text_encoder, unet, vae = diffusers_networks(dtype)
    if dtype == torch.bfloat16:
        unet.to(memory_format=torch.channels_last)
        vae.to(memory_format=torch.channels_last)
    load = time.perf_counter() - start

    start = time.perf_counter()
    context = text_encoder(torch.full((2, 77), 320)).last_hidden_state
    text = time.perf_counter() - start

    scheduler = EulerAncestralDiscreteScheduler(beta_start=0.00085, beta_end=0.012)
    scheduler.set_timesteps(options.steps)
    side = options.size // 8
    x = torch.randn(1, 4, side, side, dtype=dtype) * scheduler.init_noise_sigma
    steps = []
    for t in scheduler.timesteps:
        start = time.perf_counter()
        inputs = scheduler.scale_model_input(torch.cat((x, x)), t)
        uncond, cond = unet(inputs, t, context).sample.chunk(2)
        x = scheduler.step(uncond + 7.0 * (cond - uncond), t, x).prev_sample.to(dtype)
        steps.append(time.perf_counter() - start)

    start = time.perf_counter()
    vae.decode(x / 0.18215)
    return {"load": load, "text": text, "step": min(steps), "decode": time.perf_counter() - start}


def diffusers_networks(dtype: torch.dtype) -> tuple[Any, Any, Any]:
    """Text encoder, UNet and VAE from the checkpoint, through diffusers' own single-file loader."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from safetensors import safe_open
    from transformers import CLIPTextConfig, CLIPTextModel

    with tempfile.TemporaryDirectory() as folder:
        with torch.device("meta"):
            UNet2DConditionModel(cross_attention_dim=768, sample_size=64).save_config(f"{folder}/unet")
            AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
            ).save_config(f"{folder}/vae")
        unet, vae = (
            network.from_single_file(
                str(MODEL), config=folder, subfolder=part, torch_dtype=dtype, local_files_only=True
            )
            for network, part in ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae"))
        )
    text_encoder = CLIPTextModel(CLIPTextConfig(**CLIP_L))
    prefix = "cond_stage_model.transformer."
    with safe_open(MODEL, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        weights = {name.removeprefix(prefix): file.get_tensor(name) for name in names}
    is_bare = not any(name.startswith("text_model.") for name in text_encoder.state_dict())
    if is_bare:  # transformers 5
        weights = {name.removeprefix("text_model."): weight for name, weight in weights.items()}
    text_encoder.load_state_dict(weights)
    return text_encoder.to(dtype).eval(), unet.eval(), vae.eval()


TURNS: Mapping[str, Callable[[argparse.Namespace], Result]] = {
    "darkroom": our_turn,
    "diffusers bf16 channels_last": lambda options: diffusers_turn(options, torch.bfloat16),
    "diffusers float32": lambda options: diffusers_turn(options, torch.float32),
}


def sd_cpp_turn(options: argparse.Namespace) -> Result:
    """stable-diffusion.cpp's program; its own log has the seconds. Loading is what the log leaves over."""
    steps = max(1, options.steps // 2)  # it takes a minute for one
    with tempfile.TemporaryDirectory() as folder:
        size = ["-W", str(options.size), "-H", str(options.size)]
        command = [str(options.sd_cpp), "-m", str(MODEL), "-p", PROMPT, "-n", NEGATIVE, *size]
        command += ["--steps", str(steps), "-t", str(options.threads), "-o", f"{folder}/picture.png", "-v"]
        log, memory, seconds = child(command)
    text, sampling, decode = (
        float(re.findall(rf"{phase} completed, taking ([\d.]+)s", log)[-1])
        for phase in ("get_learned_condition", "sampling", "decode_first_stage")
    )
    return {
        "load": seconds - text - sampling - decode,
        "text": text,
        "step": sampling / steps,
        "decode": decode,
        "memory": memory,
    }


def machine() -> str:
    """Processor, cores and the version of torch."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    found = re.search(r"model name\s*:\s*(.+)", info)
    kind = re.search(r"cpu family\s*:\s*(\d+)\nmodel\s*:\s*(\d+)", info)
    name = found[1] if found else platform.processor()
    detail = f" (family {kind[1]}, model {kind[2]})" if kind else ""
    return f"{name}{detail}, {os.cpu_count()} cores, torch {torch.__version__}"


def report(results: Mapping[str, list[Result]]) -> None:
    """Prints a table in Markdown: the best of each measure, and ours as a share of it."""
    best = {name: {m: min(turn[m] for turn in turns) for m in MEASURES} for name, turns in results.items()}
    ours = best.get("darkroom")
    print(
        "\n| | load s | text s | s a step | VAE decode s | peak GB |\n| --- | --- | --- | --- | --- | --- |"
    )
    for name, values in best.items():
        print(f"| {name} | " + " | ".join(f"{values[m]:.2f}" for m in MEASURES) + " |")
    if ours is None:
        return
    for name, values in best.items():
        if name != "darkroom":
            print(f"| ours / {name} | " + " | ".join(f"{ours[m] / values[m]:.2f}" for m in MEASURES) + " |")
    rivals = [values for name, values in best.items() if name.startswith("diffusers")]
    for measure, goal in GOALS.items() if rivals else ():
        ratio = ours[measure] / min(values[measure] for values in rivals)
        print(f"goal: {measure} {goal:.2f} of diffusers' best: {ratio:.2f}, {verdict(ratio <= goal)}")
    limit = MEMORY_GOAL * (MODEL.stat().st_size + ACTIVATIONS) / 1e9
    print(f"goal: memory {limit:.2f} GB: {ours['memory']:.2f} GB, {verdict(ours['memory'] <= limit)}")


def verdict(is_met: bool) -> str:
    """In a word."""
    return "met" if is_met else "not met"


if __name__ == "__main__":
    main()
