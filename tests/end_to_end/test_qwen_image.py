"""Whole pictures of a tiny Qwen-Image, against diffusers' pipelines and from every layout of its files."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImageEditPlusPipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from PIL import Image
from safetensors.torch import save_file
from tests.families.qwen_image.reference import WIDTH, Processor, photo, text_encoder
from tests.reference_tokenizers import qwen_tokenizer
from torch import Tensor

from darkroom import Engine, EngineConfig, GenerationRequest
from darkroom.api.errors import CheckpointError, RequestError
from darkroom.api.names import ComputeType, RngType
from darkroom.weights.save import write_gguf

PROMPT = "a neon sign that reads “OPEN”"
SIZE, STEPS, SEED = 64, 3, 11
CONFIG = EngineConfig(compute_type=ComputeType.F32, rng=RngType.CPU, threads=1)
REQUEST = GenerationRequest(prompt=PROMPT, width=SIZE, height=SIZE, steps=STEPS, seed=SEED, cfg_scale=1.0)


def make_pipeline() -> QwenImagePipeline:
    encoder = text_encoder()
    torch.manual_seed(1)
    transformer = QwenImageTransformer2DModel(
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    vae = AutoencoderKLQwenImage(base_dim=8, num_res_blocks=1)
    with torch.no_grad():
        for parameter in (*transformer.parameters(), *vae.parameters()):
            parameter.add_(torch.randn_like(parameter) * 0.05)
    scheduler = FlowMatchEulerDiscreteScheduler(
        base_image_seq_len=256,
        base_shift=0.5,
        max_image_seq_len=8192,
        max_shift=0.9,
        shift_terminal=0.02,
        time_shift_type="exponential",
        use_dynamic_shifting=True,
    )
    pipe = QwenImagePipeline(scheduler, vae, encoder, qwen_tokenizer(), transformer)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe() -> QwenImagePipeline:
    return make_pipeline()


@pytest.fixture(scope="module")
def folder(pipe: QwenImagePipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qwen_image")
    pipe.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def files(pipe: QwenImagePipeline, tmp_path_factory: pytest.TempPathFactory) -> EngineConfig:
    """Bare files, as ComfyUI takes them: the language model and its eyes in one."""
    path = tmp_path_factory.mktemp("files")
    for name, tensors in parts(pipe).items():
        save_file(tensors, path / f"{name}.safetensors")
    return with_files(path, diffusion_model="transformer", llm="llm", vae="vae")


def parts(pipe: QwenImagePipeline) -> dict[str, dict[str, Tensor]]:
    text, tower = pipe.text_encoder.model.language_model, pipe.text_encoder.model.visual
    return {
        "transformer": pipe.transformer.state_dict(),
        "llm": {f"model.{name}": tensor for name, tensor in text.state_dict().items()}
        | {f"visual.{name}": tensor for name, tensor in tower.state_dict().items()},
        "vae": pipe.vae.state_dict(),
    }


def with_files(path: Path, suffix: str = "safetensors", **names: str) -> EngineConfig:
    return CONFIG.model_copy(update={role: path / f"{name}.{suffix}" for role, name in names.items()})


def draw(config: EngineConfig, request: GenerationRequest = REQUEST) -> np.ndarray:
    with Engine.load(config) as engine:
        assert engine.model.family.name == "qwen_image"
        return pixels(engine.generate(request).images[0])


def pixels(picture: Image.Image) -> np.ndarray:
    values = np.asarray(picture.convert("RGB"), dtype=np.float64)
    assert values.std() > 5, "a flat picture would show nothing"
    return values


def initial_noise() -> Tensor:
    """What `--rng cpu` starts from, in diffusers' packed tokens."""
    noise = torch.randn(1, 16, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(SEED))
    return QwenImagePipeline._pack_latents(noise, 1, 16, SIZE // 8, SIZE // 8)


def test_the_picture_is_diffusers(
    pipe: QwenImagePipeline, folder: Path, files: EngineConfig, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = pipe(
        PROMPT,
        true_cfg_scale=1.0,
        height=SIZE,
        width=SIZE,
        num_inference_steps=STEPS,
        latents=initial_noise(),
    ).images[0]
    ours = draw(CONFIG.model_copy(update={"model": folder}))
    assert np.abs(ours - pixels(theirs)).max() <= 1
    assert np.array_equal(draw(files), ours)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_the_guided_picture_is_diffusers(pipe: QwenImagePipeline, files: EngineConfig) -> None:
    theirs = pipe(
        PROMPT,
        negative_prompt=" ",
        true_cfg_scale=30.0,
        height=SIZE,
        width=SIZE,
        num_inference_steps=STEPS,
        latents=initial_noise(),
    ).images[0]
    guided = REQUEST.model_copy(update={"cfg_scale": 30.0})  # small networks listen little
    assert np.abs(draw(files, guided) - pixels(theirs)).max() <= 1
    plain = guided.model_copy(update={"extra_sample_args": "keep_norm=false"})
    assert np.abs(draw(files, plain) - pixels(theirs)).max() > 5


def test_the_edited_picture_is_diffusers(
    pipe: QwenImagePipeline, files: EngineConfig, tmp_path: Path
) -> None:
    image = photo(96, 32)  # about 1760x608 for the autoencoder
    image.save(tmp_path / "photo.png")
    edit = QwenImageEditPlusPipeline(
        pipe.scheduler,
        pipe.vae,
        pipe.text_encoder,
        pipe.tokenizer,
        Processor(pipe.tokenizer),
        pipe.transformer,
    )
    edit.set_progress_bar_config(disable=True)
    theirs = edit(
        [image],
        PROMPT,
        true_cfg_scale=1.0,
        height=SIZE,
        width=SIZE,
        num_inference_steps=2,
        latents=initial_noise(),
    ).images[0]
    request = REQUEST.model_copy(update={"ref_images": (tmp_path / "photo.png",), "steps": 2})
    assert np.abs(draw(files, request) - pixels(theirs)).max() <= 2


def test_one_file_gives_the_same_picture(
    pipe: QwenImagePipeline, files: EngineConfig, tmp_path: Path
) -> None:
    """As ComfyUI saves checkpoints."""
    prefixes = {
        "transformer": "model.diffusion_model.",
        "llm": "text_encoders.qwen25_7b.transformer.",
        "vae": "vae.",
    }
    whole = {
        prefixes[part] + name: tensor
        for part, tensors in parts(pipe).items()
        for name, tensor in tensors.items()
    }
    whole["model.diffusion_model.__index_timestep_zero__"] = torch.zeros(
        ()
    )  # changes how references are seen
    save_file(whole, tmp_path / "whole.safetensors")
    assert np.array_equal(draw(with_files(tmp_path, model="whole")), draw(files))


def test_gguf_gives_the_same_picture(pipe: QwenImagePipeline, files: EngineConfig, tmp_path: Path) -> None:
    write_gguf(tmp_path / "transformer.gguf", parts(pipe)["transformer"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2VL, 2)
    text = {name: tensor for name, tensor in parts(pipe)["llm"].items() if name.startswith("model.")}
    renamed = {names.get_name(name, try_suffixes=(".weight", ".bias")): t for name, t in text.items()}
    assert None not in renamed
    write_gguf(tmp_path / "llm.gguf", renamed)
    packed = with_files(tmp_path, "gguf", diffusion_model="transformer", llm="llm")
    assert np.array_equal(draw(packed.model_copy(update={"vae": files.vae})), draw(files))


def test_guidance_needs_no_prompts_of_one_length(files: EngineConfig) -> None:
    guided = REQUEST.model_copy(update={"cfg_scale": 4.0, "negative_prompt": "blurry, out of focus, dark"})
    with Engine.load(files) as engine:
        first, second = (pixels(engine.generate(guided).images[0]) for _ in range(2))
        plain = pixels(engine.generate(REQUEST).images[0])
    assert np.array_equal(first, second)
    assert not np.array_equal(first, plain)


def test_without_eyes_references_need_a_flag(
    pipe: QwenImagePipeline, files: EngineConfig, tmp_path: Path
) -> None:
    text = {name: tensor for name, tensor in parts(pipe)["llm"].items() if name.startswith("model.")}
    save_file(text, tmp_path / "llm.safetensors")
    photo(64, 64).save(tmp_path / "photo.png")
    blind = files.model_copy(update={"llm": tmp_path / "llm.safetensors"})
    request = REQUEST.model_copy(update={"ref_images": (tmp_path / "photo.png",), "steps": 1})
    with pytest.raises(RequestError, match="--llm_vision"):
        draw(blind, request)
    hidden = request.model_copy(update={"ref_image_args": "pass_to_vlm=false"})
    assert draw(blind, hidden).shape == (SIZE, SIZE, 3)


def test_a_missing_language_model_is_named(files: EngineConfig) -> None:
    with pytest.raises(CheckpointError, match="--llm"):
        Engine.load(files.model_copy(update={"llm": None}))
