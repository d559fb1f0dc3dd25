"""Flux.1 whole: diffusers' pictures of the same folder, and the same model from other files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxFillPipeline, FluxKontextPipeline, FluxPipeline
from PIL import Image
from safetensors.torch import save_file
from tests.comparison import difference
from tests.families.flux.reference import native, pipeline
from torch import Tensor

from darkroom import Engine, EngineConfig, GenerationRequest
from darkroom.api.names import ComputeType, RngType
from darkroom.weights.save import write_gguf

PROMPT = "a photo of a cat, best quality"
SIZE, STEPS, SEED = 64, 4, 11
PARTS = ("transformer", "scheduler", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
FILES = {
    "diffusion_model": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "clip_l": "text_encoders.clip_l.",
    "t5xxl": "text_encoders.t5xxl.",
}


def noise() -> Tensor:
    latent = torch.randn(1, 16, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(SEED))
    return FluxPipeline._pack_latents(latent, 1, 16, SIZE // 8, SIZE // 8)


def reference_picture(pipe: Any, **given: Any) -> Image.Image:  # noqa: ANN401
    settings = {"height": SIZE, "width": SIZE, "num_inference_steps": STEPS, "latents": noise()}
    picture: Image.Image = pipe(prompt=PROMPT, **settings, **given).images[0]
    return picture


def draw(files: dict[str, Path], model_args: str = "", **asked: Any) -> Image.Image:  # noqa: ANN401
    config = EngineConfig(
        compute_type=ComputeType.F32,
        rng=RngType.CPU,
        threads=1,
        model_args=model_args,
        **files,  # type: ignore[arg-type]
    )
    request = GenerationRequest(prompt=PROMPT, width=SIZE, height=SIZE, steps=STEPS, seed=SEED, **asked)
    with Engine.load(config) as engine:
        assert engine.model.family.name == "flux"
        return engine.generate(request).images[0]


def soft(width: int, height: int) -> Image.Image:
    """A picture to start from: soft colours with an edge."""
    y, x = np.mgrid[:height, :width] / max(width, height)
    rgb = np.stack([x, y, np.where(x + y > 1, 0.8, 0.2)], axis=-1)
    return Image.fromarray((rgb * 255).astype(np.uint8))


def test_dev_draws_diffusers_picture(tmp_path: Path) -> None:
    pipe = pipeline()
    pipe.save_pretrained(tmp_path)
    assert difference(draw({"model": tmp_path}), reference_picture(pipe, guidance_scale=3.5)) <= 1
    assert (
        difference(draw({"model": tmp_path}, guidance=1.0), reference_picture(pipe, guidance_scale=1.0)) <= 1
    )


def test_schnell_draws_diffusers_picture(tmp_path: Path) -> None:
    pipe = pipeline(has_guidance=False)
    pipe.save_pretrained(tmp_path)
    expected = reference_picture(pipe, max_sequence_length=256, guidance_scale=0.0)
    assert difference(draw({"model": tmp_path}), expected) <= 1


def test_kontext_looks_at_a_picture(tmp_path: Path) -> None:
    pipe = pipeline()
    pipe.save_pretrained(tmp_path)
    image = soft(48, 80)
    image.save(tmp_path / "reference.png")
    kontext = FluxKontextPipeline(**pipe.components)
    kontext.set_progress_bar_config(disable=True)
    expected = reference_picture(
        kontext, image=image, _auto_resize=False, max_area=SIZE**2, guidance_scale=2.5
    )

    drawn = draw(
        {"model": tmp_path},
        guidance=2.5,
        ref_images=(tmp_path / "reference.png",),
        ref_image_args="resize_before_vae=off",
    )

    assert difference(drawn, expected) <= 1
    assert difference(drawn, draw({"model": tmp_path}, guidance=2.5)) > 1


def test_fill_paints_what_the_mask_shows(tmp_path: Path) -> None:
    pipe = pipeline(in_channels=384)
    pipe.save_pretrained(tmp_path)
    fill = FluxFillPipeline(**{name: getattr(pipe, name) for name in PARTS})
    fill.set_progress_bar_config(disable=True)
    image, everything, corner = (
        soft(SIZE, SIZE),
        Image.new("L", (SIZE, SIZE), 255),
        Image.new("L", (SIZE, SIZE)),
    )
    corner.paste(255, (0, 0, SIZE // 4, SIZE // 4))
    for name, picture in (("init", image), ("everything", everything), ("corner", corner)):
        picture.save(tmp_path / f"{name}.png")

    def painted(mask: str) -> Image.Image:
        images = {"init_image": tmp_path / "init.png", "mask_image": tmp_path / f"{mask}.png"}
        return draw({"model": tmp_path}, strength=1.0, **images)

    # diffusers leaves what the mask hides to the network; with nothing hidden that makes no difference.
    expected = reference_picture(fill, image=image, mask_image=everything, guidance_scale=30.0)
    assert difference(painted("everything"), expected) <= 1
    assert difference(painted("corner"), expected) > 1


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return {name: tensor.half().contiguous() for name, tensor in native(pipeline()).items()}


def part(tensors: dict[str, Tensor], role: str) -> dict[str, Tensor]:
    prefix = FILES[role]
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


@pytest.fixture(scope="module")
def separate(tensors: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("flux")
    for role in FILES:
        save_file(part(tensors, role), folder / f"{role}.safetensors")
    return {role: folder / f"{role}.safetensors" for role in FILES}


@pytest.fixture(scope="module")
def picture(separate: dict[str, Path]) -> Image.Image:
    return draw(separate)


def test_the_same_seed_gives_the_same_picture(separate: dict[str, Path], picture: Image.Image) -> None:
    assert difference(draw(separate), picture) == 0


def test_all_in_one_gives_the_same_picture(
    tensors: dict[str, Tensor], picture: Image.Image, tmp_path: Path
) -> None:
    """As ComfyUI saves a checkpoint."""
    theirs = {
        "diffusion_model": "model.diffusion_model.",
        "vae": "vae.",
        "clip_l": "text_encoders.clip_l.transformer.",
        "t5xxl": "text_encoders.t5xxl.transformer.",
    }
    whole = {theirs[role] + name: t for role in FILES for name, t in part(tensors, role).items()}
    whole["text_encoders.t5xxl.logit_scale"] = torch.tensor(4.6)
    save_file(whole, tmp_path / "model.safetensors")
    assert difference(draw({"model": tmp_path / "model.safetensors"}), picture) == 0


def test_gguf_gives_the_same_picture(
    tensors: dict[str, Tensor], separate: dict[str, Path], picture: Image.Image, tmp_path: Path
) -> None:
    write_gguf(tmp_path / "net.gguf", part(tensors, "diffusion_model"))
    assert difference(draw(separate | {"diffusion_model": tmp_path / "net.gguf"}), picture) == 0


def test_the_length_of_the_text_can_be_chosen(separate: dict[str, Path], picture: Image.Image) -> None:
    assert difference(draw(separate, "flux_t5_tokens=256"), picture) > 0
