"""Z-Image whole: diffusers' pictures of the same folder, and the same model from other files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from diffusers import ZImagePipeline
from PIL import Image
from safetensors.torch import save_file
from tests.comparison import difference
from tests.families.z_image.reference import pipeline
from torch import Tensor

from darkroom import Engine, EngineConfig, GenerationRequest
from darkroom.api.errors import CheckpointError
from darkroom.api.names import ComputeType, RngType
from darkroom.families.z_image import FAMILY
from darkroom.weights.checkpoint import open_checkpoint
from darkroom.weights.save import write_gguf
from darkroom.weights.source import open_source

PROMPT, NEGATIVE = "a photo of a cat, 最好", "blurry"
WIDTH, HEIGHT, STEPS, SEED = 96, 64, 4, 11  # 24 tokens, so that some are filled up

PREFIXES = {
    "diffusion_model": "model.diffusion_model.",
    "llm": "text_encoders.llm.",
    "vae": "first_stage_model.",
}


@pytest.fixture(scope="module")
def pipe() -> ZImagePipeline:
    return pipeline()


@pytest.fixture(scope="module")
def folder(pipe: ZImagePipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("z_image")
    pipe.save_pretrained(path)
    return path


def draw(cfg_scale: float | None = None, **files: Path) -> Image.Image:
    config = EngineConfig(compute_type=ComputeType.F32, rng=RngType.CPU, threads=1, **files)  # type: ignore[arg-type]
    request = GenerationRequest(
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        width=WIDTH,
        height=HEIGHT,
        steps=STEPS,
        seed=SEED,
        cfg_scale=cfg_scale,
    )
    with Engine.load(config) as engine:
        assert engine.model.family.name == "z_image"
        return engine.generate(request).images[0]


@pytest.mark.parametrize("guidance", [0.0, 3.0], ids=["turbo", "base"])
def test_pictures_are_diffusers(pipe: ZImagePipeline, folder: Path, guidance: float) -> None:
    """Whose guidance counts from 0: prompt + guidance * (prompt - negative prompt)."""
    noise = torch.randn(1, 16, HEIGHT // 8, WIDTH // 8, generator=torch.Generator().manual_seed(SEED))
    theirs = pipe(
        PROMPT,
        negative_prompt=NEGATIVE,
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        latents=noise,
    ).images[0]
    assert difference(draw(1 + guidance if guidance else None, model=folder), theirs) <= 1


@pytest.fixture(scope="module")
def tensors(folder: Path) -> dict[str, Tensor]:
    """The model under native names."""
    with open_checkpoint(folder) as checkpoint:
        source = open_source(checkpoint, FAMILY.key_rules())
        return {name: half(source.read(name)) for name in source.index}


def half(tensor: object) -> Tensor:
    assert isinstance(tensor, Tensor)
    return tensor.half().contiguous()


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


@pytest.fixture(scope="module")
def files(tensors: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three files without prefixes, as ComfyUI takes them."""
    path = tmp_path_factory.mktemp("files")
    for role, prefix in PREFIXES.items():
        save_file(part(tensors, prefix), path / f"{role}.safetensors")
    return {role: path / f"{role}.safetensors" for role in PREFIXES}


@pytest.fixture(scope="module")
def picture(files: dict[str, Path]) -> Image.Image:
    return draw(**files)


def test_half_precision_files_give_nearly_the_picture(picture: Image.Image, folder: Path) -> None:
    whole = draw(model=folder)
    pixels = [np.asarray(image.convert("RGB"), dtype=np.float64) for image in (picture, whole)]
    assert np.abs(pixels[0] - pixels[1]).mean() < 2


def test_the_same_seed_gives_the_same_picture(files: dict[str, Path], picture: Image.Image) -> None:
    assert difference(draw(**files), picture) == 0


def test_one_file_gives_the_same_picture(
    tensors: dict[str, Tensor], picture: Image.Image, tmp_path: Path
) -> None:
    """As ComfyUI saves checkpoints."""
    theirs = {
        "diffusion_model": "model.diffusion_model.",
        "llm": "text_encoders.qwen3_4b.transformer.",
        "vae": "vae.",
    }
    whole = {
        theirs[role] + name: tensor
        for role, prefix in PREFIXES.items()
        for name, tensor in part(tensors, prefix).items()
    }
    save_file(whole, tmp_path / "whole.safetensors")
    assert difference(draw(model=tmp_path / "whole.safetensors"), picture) == 0


def test_gguf_gives_the_same_picture(
    tensors: dict[str, Tensor], files: dict[str, Path], picture: Image.Image, tmp_path: Path
) -> None:
    """The filling tokens without their first axis, the text encoder in llama.cpp's names."""
    net = part(tensors, "model.diffusion_model.")
    flat = {name: net[name][0] for name in ("x_pad_token", "cap_pad_token")}
    write_gguf(tmp_path / "net.gguf", net | flat)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, 3)
    llm = {
        names.get_name(name, try_suffixes=(".weight",)): tensor
        for name, tensor in part(tensors, "text_encoders.llm.").items()
    }
    assert None not in llm
    write_gguf(tmp_path / "llm.gguf", llm)  # type: ignore[arg-type]
    given = files | {"diffusion_model": tmp_path / "net.gguf", "llm": tmp_path / "llm.gguf"}
    assert difference(draw(**given), picture) == 0


@pytest.mark.parametrize("role", ["llm", "vae"])
def test_a_missing_companion_is_an_error(files: dict[str, Path], role: str) -> None:
    with pytest.raises(CheckpointError, match=rf"Z-Image: .* is missing; give its file with --{role}"):
        draw(**{other: path for other, path in files.items() if other != role})
