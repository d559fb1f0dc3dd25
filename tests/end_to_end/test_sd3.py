"""Stable Diffusion 3 whole: diffusers' pictures of the same folder, and the same model from other files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from PIL import Image
from safetensors.torch import save_file
from tests.comparison import difference
from tests.families.sd3.reference import native, pipeline
from torch import Tensor

from darkroom import Engine, EngineConfig, GenerationRequest
from darkroom.api.errors import RequestError
from darkroom.api.names import ComputeType, RngType
from darkroom.weights.save import write_gguf

PROMPT, NEGATIVE = "a photo of a cat, best quality", "blurry"
SIZE, STEPS, SEED, CFG = 64, 4, 11, 4.5


def reference_picture(pipe: StableDiffusion3Pipeline) -> Image.Image:
    """With as many tokens for T5 as Stability takes, and levels that are shifted once."""
    noise = torch.randn(1, 16, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(SEED))
    picture: Image.Image = pipe(
        PROMPT,
        negative_prompt=NEGATIVE,
        height=SIZE,
        width=SIZE,
        sigmas=np.linspace(1.0, 1 / 1000, STEPS),
        guidance_scale=CFG,
        max_sequence_length=77,
        latents=noise,
    ).images[0]
    return picture


def draw(width: int = SIZE, **files: Path) -> Image.Image:
    config = EngineConfig(compute_type=ComputeType.F32, rng=RngType.CPU, threads=1, **files)  # type: ignore[arg-type]
    request = GenerationRequest(
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        width=width,
        height=SIZE,
        steps=STEPS,
        seed=SEED,
        cfg_scale=CFG,
    )
    with Engine.load(config) as engine:
        assert engine.model.family.name == "sd3"
        return engine.generate(request).images[0]


@pytest.mark.parametrize("is_3_5", [False, True], ids=["3", "3.5"])
def test_pictures_are_diffusers(tmp_path: Path, is_3_5: bool) -> None:
    pipe = pipeline(is_3_5=is_3_5)
    pipe.save_pretrained(tmp_path)
    assert difference(draw(model=tmp_path), reference_picture(pipe)) <= 1


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return {name: tensor.half().contiguous() for name, tensor in native(pipeline()).items()}


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


@pytest.fixture(scope="module")
def all_in_one(tensors: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sd3") / "all_in_one.safetensors"
    save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def picture(all_in_one: Path) -> Image.Image:
    return draw(model=all_in_one)


def test_the_same_seed_gives_the_same_picture(all_in_one: Path, picture: Image.Image) -> None:
    assert difference(draw(model=all_in_one), picture) == 0


def test_separate_files_give_the_same_picture(
    tensors: dict[str, Tensor], picture: Image.Image, tmp_path: Path
) -> None:
    files = {
        "diffusion_model": "model.diffusion_model.",
        "vae": "first_stage_model.",
        **{role: f"text_encoders.{role}." for role in ("clip_l", "clip_g", "t5xxl")},
    }
    for role, prefix in files.items():
        save_file(part(tensors, prefix), tmp_path / f"{role}.safetensors")
    assert difference(draw(**{role: tmp_path / f"{role}.safetensors" for role in files}), picture) == 0


def test_gguf_gives_the_same_picture(
    tensors: dict[str, Tensor], all_in_one: Path, picture: Image.Image, tmp_path: Path
) -> None:
    """The diffusion network in Stability's names without a prefix, its positions without their first axis."""
    net = part(tensors, "model.diffusion_model.")
    write_gguf(tmp_path / "net.gguf", net | {"pos_embed": net["pos_embed"][0]})
    assert difference(draw(model=all_in_one, diffusion_model=tmp_path / "net.gguf"), picture) == 0


def test_scaled_fp8_gives_the_picture_of_its_values(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    """ComfyUI's all-in-one files: its names, factors beside the weights, marks."""
    places = {f"text_encoders.{role}.": f"text_encoders.{role}.transformer." for role in ("clip_g", "t5xxl")}
    scaled = {"model.diffusion_model.scaled_fp8": torch.empty(2, dtype=torch.float8_e4m3fn)}
    exact: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        comfy = next((name.replace(old, new) for old, new in places.items() if name.startswith(old)), name)
        if tensor.ndim != 2 or "embedding" in name or not name.endswith(".weight"):
            scaled[comfy] = exact[name] = tensor
            continue
        scale = tensor.float().abs().max() / 448
        values = (tensor.float() / scale).to(torch.float8_e4m3fn)
        scaled |= {comfy: values, comfy.removesuffix("weight") + "scale_weight": scale}
        exact[name] = values.float() * scale
    save_file(scaled, tmp_path / "scaled.safetensors")
    save_file(exact, tmp_path / "exact.safetensors")
    pictures = [draw(model=tmp_path / f"{name}.safetensors") for name in ("scaled", "exact")]
    assert difference(*pictures) <= 1


def test_absent_encoders_change_the_picture(
    tensors: dict[str, Tensor], picture: Image.Image, tmp_path: Path
) -> None:
    without = {name: t for name, t in tensors.items() if not name.startswith("text_encoders.t5xxl.")}
    save_file(without, tmp_path / "model.safetensors")
    assert difference(draw(model=tmp_path / "model.safetensors"), picture) > 1


def test_pictures_too_large_for_the_positions_are_refused(all_in_one: Path) -> None:
    with pytest.raises(RequestError, match=r"size: 208x64 is more .* up to 192 pixels a side work"):
        draw(208, model=all_in_one)
