"""Chroma whole: diffusers' pictures of the same folder, and the same model from other files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import ChromaPipeline
from PIL import Image
from safetensors.torch import save_file
from tests.comparison import difference
from tests.families.chroma.reference import native, pipeline
from torch import Tensor

from darkroom import Engine, EngineConfig, GenerationRequest
from darkroom.api.names import ComputeType, RngType
from darkroom.weights.save import write_gguf

PROMPT, NEGATIVE = "a photo of a cat, best quality", "low quality, blurry"
SIZE, STEPS, SEED = 64, 4, 11
FILES = {
    "diffusion_model": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "t5xxl": "text_encoders.t5xxl.",
}


def draw(files: dict[str, Path], model_args: str = "") -> Image.Image:
    config = EngineConfig(
        compute_type=ComputeType.F32,
        rng=RngType.CPU,
        threads=1,
        model_args=model_args,
        **files,  # type: ignore[arg-type]
    )
    request = GenerationRequest(
        prompt=PROMPT, negative_prompt=NEGATIVE, width=SIZE, height=SIZE, steps=STEPS, seed=SEED
    )
    with Engine.load(config) as engine:
        assert engine.model.family.name == "chroma"
        return engine.generate(request).images[0]


def test_pictures_are_diffusers(tmp_path: Path) -> None:
    pipe = pipeline()
    pipe.save_pretrained(tmp_path)
    latent = torch.randn(1, 16, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(SEED))
    theirs = pipe(
        PROMPT,
        negative_prompt=NEGATIVE,
        height=SIZE,
        width=SIZE,
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        latents=ChromaPipeline._pack_latents(latent, 1, 16, SIZE // 8, SIZE // 8),
    ).images[0]
    assert difference(draw({"model": tmp_path}), theirs) <= 1


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return {name: tensor.half().contiguous() for name, tensor in native(pipeline()).items()}


def part(tensors: dict[str, Tensor], role: str) -> dict[str, Tensor]:
    prefix = FILES[role]
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


@pytest.fixture(scope="module")
def separate(tensors: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("chroma")
    for role in FILES:
        save_file(part(tensors, role), folder / f"{role}.safetensors")
    return {role: folder / f"{role}.safetensors" for role in FILES}


@pytest.fixture(scope="module")
def picture(separate: dict[str, Path]) -> Image.Image:
    return draw(separate)


def test_all_in_one_gives_the_same_picture(
    tensors: dict[str, Tensor], picture: Image.Image, tmp_path: Path
) -> None:
    """As ComfyUI saves a checkpoint."""
    theirs = {
        "diffusion_model": "model.diffusion_model.",
        "vae": "vae.",
        "t5xxl": "text_encoders.t5xxl.transformer.",
    }
    whole = {theirs[role] + name: t for role in FILES for name, t in part(tensors, role).items()}
    save_file(whole, tmp_path / "model.safetensors")
    assert difference(draw({"model": tmp_path / "model.safetensors"}), picture) == 0


def test_an_encoder_too_many_does_no_harm(
    tensors: dict[str, Tensor], separate: dict[str, Path], picture: Image.Image, tmp_path: Path
) -> None:
    """A command line of Flux's with Chroma in it, and one file with the encoders of both."""
    clip = {"text_model.final_layer_norm.bias": torch.zeros(8)}
    save_file(clip, tmp_path / "clip_l.safetensors")
    assert difference(draw(separate | {"clip_l": tmp_path / "clip_l.safetensors"}), picture) == 0
    also = {f"text_encoders.clip_l.transformer.{name}": tensor for name, tensor in clip.items()}
    save_file(tensors | also, tmp_path / "model.safetensors")
    assert difference(draw({"model": tmp_path / "model.safetensors"}), picture) == 0


def test_gguf_gives_the_same_picture(
    tensors: dict[str, Tensor], separate: dict[str, Path], picture: Image.Image, tmp_path: Path
) -> None:
    write_gguf(tmp_path / "net.gguf", part(tensors, "diffusion_model"))
    assert difference(draw(separate | {"diffusion_model": tmp_path / "net.gguf"}), picture) == 0


@pytest.mark.parametrize(
    "model_args", ["chroma_use_dit_mask=false", "chroma_use_t5_mask=false", "chroma_t5_mask_pad=9"]
)
def test_masks_change_the_picture(separate: dict[str, Path], picture: Image.Image, model_args: str) -> None:
    assert difference(draw(separate, model_args), picture) > 0
