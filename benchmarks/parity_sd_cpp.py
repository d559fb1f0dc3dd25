"""Whole pictures against stable-diffusion.cpp: same checkpoint, prompt and seed, both in float32 on the CPU.

The claim: for every combination below the mean absolute difference of the pixels is under 1/255.

    python benchmarks/parity_sd_cpp.py --sd-cpp path/to/sd-cli [--kind sd1]

stable-diffusion.cpp's sd-cli: the source archive of stable-diffusion-cpp-python 0.4.7 carries it under
vendor/; `cmake -B build -DSD_BUILD_EXAMPLES=ON && cmake --build build` makes build/bin/sd-cli.
For sd3, flux, chroma and their like, docs/parity.md says which numbers in it have to change before.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from random_checkpoint import FLUX, SD3, write_checkpoint, write_flux, write_sd3

DATA = Path(__file__).parent / "data"
OURS = [sys.executable, "-m", "darkroom.cli.main"]
PROMPT = "a (red:1.3) cat on a [wooden] table, photograph BREAK soft morning light"
PLAIN_PROMPT = "a red cat on a wooden table, photograph"
COMMON = ["-n", "blurry, text", "-W", "128", "-H", "128", "-t", "2", "--cfg-scale", "7"]


@dataclass(frozen=True)
class Case:
    """What is asked of both programs.

    ours, theirs: options that only one of them knows. without: flags of files that are left out.
    """

    name: str
    options: tuple[str, ...]
    prompt: str = PROMPT
    ours: tuple[str, ...] = ()
    theirs: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


def sd3_cases(folder: Path) -> list[Case]:
    """Weights only for CLIP: stable-diffusion.cpp reads more spaces to T5 than sentencepiece does."""
    init = folder / "init.png"
    picture(init)
    euler = ("--sampling-method", "euler", "--steps", "6", "--cfg-scale", "4.5")
    long = ", ".join(["a red cat on a wooden table by the old window"] * 9)
    return [
        Case("euler, cuda", (*euler, "-s", "42"), PLAIN_PROMPT),
        Case("euler, cpu", (*euler, "-s", "1234", "--rng", "cpu"), PLAIN_PROMPT),
        Case("dpm++2m", (*euler[2:], "--sampling-method", "dpm++2m"), PLAIN_PROMPT),
        Case("cfg 1", (*euler[:-1], "1"), PLAIN_PROMPT),
        Case("clip skip 3", (*euler, "--clip-skip", "3"), PLAIN_PROMPT),
        Case("image-to-image 0.6", (*euler, "-i", str(init), "--strength", "0.6"), PLAIN_PROMPT),
        Case("long, T5 in chunks", euler, long, ours=("--model-args", "t5_chunks=true")),
        Case("without T5", euler, PLAIN_PROMPT, without=("--t5xxl",)),
        Case("weights, without T5", euler, PROMPT.partition(" BREAK")[0], without=("--t5xxl",)),
    ]


FLUX_STEPS = ("--sampling-method", "euler", "--scheduler", "discrete", "--steps", "4")


def flux_cases(folder: Path) -> list[Case]:
    """Without weights, which T5 would be given with other spaces (see sd3_cases)."""
    init, reference = folder / "init.png", folder / "reference.png"
    picture(init)
    picture(reference, 160, 96)
    euler = (*FLUX_STEPS, "--cfg-scale", "1", "--guidance", "3.5")
    long = ", ".join(["a red cat on a wooden table by the old window"] * 30)

    def case(
        name: str,
        *options: str,
        prompt: str = PLAIN_PROMPT,
        ours: tuple[str, ...] = (),
        theirs: tuple[str, ...] = (),
    ) -> Case:
        tokens = ("--model-args", "flux_t5_tokens=256")
        return Case(name, (*euler, *options), prompt, (*tokens, *ours), theirs)

    return [
        case("euler, cuda", "-s", "42"),
        case("euler, cpu", "-s", "1234", "--rng", "cpu"),
        case("dpm++2m simple", "--sampling-method", "dpm++2m", "--scheduler", "simple"),
        case("guidance 1", "--guidance", "1"),
        case("cfg 3", "--cfg-scale", "3"),
        case("long, T5 in chunks", prompt=long),
        case("image-to-image 0.6", "-i", str(init), "--strength", "0.6"),
        case(
            "reference image", "-r", str(reference),
            ours=("--ref-image-args", "resize_before_vae=off"), theirs=("--disable-auto-resize-ref-image",),
        ),
    ]  # fmt: skip


def schnell_cases(folder: Path) -> list[Case]:
    """stable-diffusion.cpp's levels are shifted."""
    ours = ("--model-args", "flux_t5_tokens=256", "--flow-shift", "1")
    return [Case("euler, cuda", (*FLUX_STEPS, "--cfg-scale", "1"), PLAIN_PROMPT, ours)]


def fill_cases(folder: Path) -> list[Case]:
    """With and without a picture."""
    init, mask = folder / "init.png", folder / "mask.png"
    picture(init)
    disc(mask)
    euler, ours = (
        (*FLUX_STEPS, "--cfg-scale", "1", "--guidance", "30"),
        ("--model-args", "flux_t5_tokens=256"),
    )
    painted = (*euler, "-i", str(init), "--mask", str(mask))
    return [
        Case("inpainting", (*painted, "--strength", "1"), PLAIN_PROMPT, ours),
        Case("inpainting 0.6", (*painted, "--strength", "0.6"), PLAIN_PROMPT, ours),
        Case("without a picture", euler, PLAIN_PROMPT, ours),
    ]


def chroma_cases(folder: Path) -> list[Case]:
    """What T5 and the network see of the filling, in all ways."""
    euler = (*FLUX_STEPS[:-1], "2", "--flow-shift", "1", "--cfg-scale")
    unmasked = ("--model-args", "chroma_use_t5_mask=false")
    nothing_masked = ("--model-args", "chroma_use_t5_mask=false,chroma_use_dit_mask=false")
    return [
        Case("cfg 4", (*euler, "4"), PLAIN_PROMPT, unmasked),
        Case("no masks", (*euler, "1"), PLAIN_PROMPT, nothing_masked, ("--chroma-disable-dit-mask",)),
        Case("both masks", (*euler, "1"), PLAIN_PROMPT, theirs=("--chroma-enable-t5-mask",)),
    ]


def cases(folder: Path) -> list[Case]:
    """Two generators, three samplers; then other schedules, clip-skip, image-to-image and inpainting."""
    init, mask = folder / "init.png", folder / "mask.png"
    picture(init)
    disc(mask)
    found = [
        Case(f"{method}, {rng}", ("--sampling-method", method, "--rng", rng, "--steps", "6", "-s", seed))
        for rng, seed in (("cuda", "42"), ("cpu", "1234"))
        for method in ("euler", "euler_a", "dpm++2m")
    ]
    euler = ("--sampling-method", "euler", "--steps", "6")
    found += [
        Case("dpm++2m karras", ("--sampling-method", "dpm++2m", "--scheduler", "karras", "--steps", "6")),
        Case("clip skip 2", (*euler, "--clip-skip", "2")),
        Case("cfg 1", (*euler, "--cfg-scale", "1")),
        Case("image-to-image 0.6", (*euler, "-i", str(init), "--strength", "0.6")),
        Case("inpainting 0.8", (*euler, "-i", str(init), "--mask", str(mask), "--strength", "0.8")),
    ]
    return found


def sdxl_cases(folder: Path) -> list[Case]:
    """The same; SDXL's clip-skip is 2 and without a negative prompt the text is zeros."""
    euler = ("--sampling-method", "euler", "--steps", "6")
    same = [case for case in cases(folder) if case.name != "clip skip 2"]
    return [
        *same,
        Case("clip skip 1", (*euler, "--clip-skip", "1")),
        Case("no negative prompt", (*euler, "-n", "")),
    ]


CASES = {
    **dict.fromkeys(("sd1", "sd2"), cases),
    **dict.fromkeys(("sdxl", "vega"), sdxl_cases),
    **dict.fromkeys(SD3, sd3_cases),
    "flux": flux_cases,
    "flux-schnell": schnell_cases,
    "flux-fill": fill_cases,
    "chroma": chroma_cases,
}


def disc(path: Path) -> None:
    """A mask."""
    y, x = np.mgrid[:128, :128]
    Image.fromarray((((x - 64) ** 2 + (y - 64) ** 2 < 40**2) * 255).astype(np.uint8)).save(path)


def picture(path: Path, width: int = 128, height: int = 128) -> None:
    """A picture to start from: soft colours with an edge."""
    y, x = np.mgrid[:height, :width] / (max(width, height) - 1)
    rgb = np.stack([x, y, np.where(x + y > 1, 0.8, 0.2)], axis=-1)
    Image.fromarray((rgb * 255).astype(np.uint8)).save(path)


def run(program: list[str], files: Mapping[str, Path], case: Case, output: Path) -> float:
    """Draws with one program; seconds. files: by their flags."""
    model = [part for flag, path in files.items() if flag not in case.without for part in (flag, str(path))]
    command = [*program, *model, "-p", case.prompt, *COMMON, *case.options, "-o", str(output)]
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not output.exists():
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return time.monotonic() - start


def main() -> None:
    """Draws every case with both programs and prints the differences."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sd-cpp", type=Path, required=True, help="stable-diffusion.cpp's sd-cli")
    parser.add_argument("--kind", choices=list(CASES), default="sd1")
    parser.add_argument("--keep", type=Path, help="folder for the pictures")
    args = parser.parse_args()
    if args.kind in SD3:
        files = write_sd3(DATA, args.kind)
    elif args.kind in FLUX:
        files = write_flux(DATA, args.kind)
    else:
        files = {"-m": DATA / f"{args.kind}.safetensors"}
        if not files["-m"].exists():
            write_checkpoint(files["-m"], args.kind)
    worst = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{args.kind}, 128x128, float32; differences of pixels in 0..255")
        print(f"{'case':<22}{'mean':>8}{'largest':>9}{'their s':>9}{'our s':>8}")
        for i, case in enumerate(CASES[args.kind](folder)):
            theirs, ours = folder / f"{i}-theirs.png", folder / f"{i}-ours.png"
            their_seconds = run([str(args.sd_cpp), "--type", "f32", *case.theirs], files, case, theirs)
            our_seconds = run([*OURS, "--compute-type", "f32", *case.ours], files, case, ours)
            a, b = (np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) for path in (theirs, ours))
            difference = np.abs(a - b)
            worst = max(worst, float(difference.mean()))
            print(
                f"{case.name:<22}{difference.mean():>8.3f}{difference.max():>9.0f}"
                f"{their_seconds:>9.1f}{our_seconds:>8.1f}",
                flush=True,
            )
    print(f"largest mean difference: {worst:.3f} of 255; the claim is below 1")
    raise SystemExit(worst >= 1)


if __name__ == "__main__":
    main()
