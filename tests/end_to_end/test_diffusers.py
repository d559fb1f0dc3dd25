"""Whole pictures against diffusers: its pipelines with random weights, saved as it saves them, read by us."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from tests.comparison import difference
from tests.reference_tokenizers import clip_tokenizer
from transformers import CLIPTextConfig, CLIPTextModel

from darkroom import Engine, EngineConfig, GenerationRequest
from darkroom.api.names import ComputeType, PredictionType, RngType, SampleMethod
from darkroom.tokenizers.clip import VOCAB_SIZE

PROMPT, NEGATIVE = "a photo of a cat, best quality", "blurry"
SIZE, STEPS, SEED, CFG = 64, 4, 11, 4.0


def pipeline(*, is_sd2: bool, prediction: str) -> StableDiffusionPipeline:
    torch.manual_seed(1)
    width = 64
    text = CLIPTextConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=1,
        hidden_act="gelu" if is_sd2 else "quick_gelu",
    )
    unet = UNet2DConditionModel(
        sample_size=SIZE // 8,
        block_out_channels=(64, 64, 128, 128),
        # How many heads, in spite of the name: SD 1 has eight everywhere, SD 2 one for 64 channels.
        attention_head_dim=(1, 1, 2, 2) if is_sd2 else 8,
        use_linear_projection=is_sd2,
        cross_attention_dim=width,
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
    )
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=clip_tokenizer("!" if is_sd2 else "<|endoftext|>"),
        unet=unet,
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="linspace",
            steps_offset=1,
            prediction_type=prediction,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def initial_noise() -> torch.Tensor:
    """What `--rng cpu` starts from."""
    return torch.randn(1, 4, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(SEED))


@pytest.mark.parametrize(
    ("is_sd2", "prediction"),
    [(False, "epsilon"), (True, "epsilon"), (True, "v_prediction")],
    ids=["sd1", "sd2", "sd2-v"],
)
def test_pictures_are_diffusers(tmp_path: Path, is_sd2: bool, prediction: str) -> None:
    pipe = pipeline(is_sd2=is_sd2, prediction=prediction)
    theirs = pipe(
        PROMPT,
        negative_prompt=NEGATIVE,
        height=SIZE,
        width=SIZE,
        num_inference_steps=STEPS,
        guidance_scale=CFG,
        latents=initial_noise(),
    ).images[0]
    pipe.save_pretrained(tmp_path)
    parts = {
        "diffusion_model": tmp_path / "unet/diffusion_pytorch_model.safetensors",
        "clip_l": tmp_path / "text_encoder/model.safetensors",
        "vae": tmp_path / "vae/diffusion_pytorch_model.safetensors",
    }
    kind = PredictionType.V if prediction == "v_prediction" else PredictionType.EPS
    for files in ({"model": tmp_path}, parts):
        ours = draw("sd2" if is_sd2 else "sd1", files, kind)
        assert difference(ours, theirs) <= 1


def draw(family: str, files: Mapping[str, Path], prediction: PredictionType) -> Image.Image:
    config = EngineConfig(
        **files,  # type: ignore[arg-type]
        compute_type=ComputeType.F32,
        rng=RngType.CPU,
        threads=1,
        prediction=prediction,
    )
    request = GenerationRequest(
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        width=SIZE,
        height=SIZE,
        steps=STEPS,
        seed=SEED,
        cfg_scale=CFG,
        sampling_method=SampleMethod.EULER,
        clip_skip=1,
    )
    with Engine.load(config) as engine:
        assert engine.model.family.name == family
        return engine.generate(request).images[0]
