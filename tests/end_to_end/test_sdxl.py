"""SDXL from files to pictures: diffusers' picture, from every layout that people have the same tensors in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file
from tests.comparison import difference
from tests.reference_tokenizers import clip_tokenizer
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from darkroom import Engine, EngineConfig, GenerationRequest
from darkroom.api.errors import CheckpointError
from darkroom.api.names import ComputeType, PredictionType, RngType, SampleMethod
from darkroom.families.sdxl import FAMILY
from darkroom.quant.packed import PackedTensor
from darkroom.tokenizers.clip import VOCAB_SIZE
from darkroom.weights.checkpoint import open_checkpoint
from darkroom.weights.save import write_gguf
from darkroom.weights.source import open_source

PROMPT, NEGATIVE = "a photo of a (cat:1.0), best quality", "blurry"
SIZE, STEPS, SEED, CFG = 64, 4, 11, 4.0
WIDTH_L, WIDTH_G = 64, 128
UNET, VAE, CLIP_L, CLIP_G = (
    "model.diffusion_model.",
    "first_stage_model.",
    "text_encoders.clip_l.",
    "text_encoders.clip_g.",
)

State = dict[str, Tensor]


def clip_config(width: int, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=width // 64,
        hidden_act=activation,
        projection_dim=WIDTH_G,
    )


def make_pipeline() -> StableDiffusionXLPipeline:
    torch.manual_seed(1)
    unet = UNet2DConditionModel(
        sample_size=SIZE // 8,
        block_out_channels=(64, 64, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=(1, 1, 2),  # how many heads, in spite of the name
        use_linear_projection=True,
        cross_attention_dim=WIDTH_L + WIDTH_G,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=WIDTH_G + 6 * 256,
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        scaling_factor=0.13025,
    )
    pipe = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(clip_config(WIDTH_L, "quick_gelu")),
        text_encoder_2=CLIPTextModelWithProjection(clip_config(WIDTH_G, "gelu")),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer("!"),
        unet=unet,
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="linspace",
            steps_offset=1,
        ),
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder with the picture that diffusers draws from it, `theirs.png`."""
    path = tmp_path_factory.mktemp("sdxl")
    pipe = make_pipeline()
    pipe.save_pretrained(path)
    noise = torch.randn(1, 4, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(SEED))
    pipe(
        PROMPT.replace("(cat:1.0)", "cat"),
        negative_prompt=NEGATIVE,
        height=SIZE,
        width=SIZE,
        num_inference_steps=STEPS,
        guidance_scale=CFG,
        latents=noise,
    ).images[0].save(path / "theirs.png")
    return path


@pytest.fixture(scope="module")
def state(folder: Path) -> State:
    """The folder's tensors under native names."""
    with open_checkpoint(folder) as checkpoint:
        view = open_source(checkpoint, FAMILY.key_rules())
        tensors = {name: view.read(name) for name in view.index}
        return {name: t.clone().contiguous() for name, t in tensors.items() if isinstance(t, Tensor)}


def part(state: State, prefix: str, new: str = "") -> State:
    return {new + name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}


def open_clip(state: State) -> State:
    """CLIP-G's tensors as open_clip names and joins them."""
    blocks = {"self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2",
              "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}  # fmt: skip
    layer = "text_model.encoder.layers."
    found = {
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "ln_final.weight": state["text_model.final_layer_norm.weight"],
        "ln_final.bias": state["text_model.final_layer_norm.bias"],
        "text_projection": state["text_projection.weight"].mT.contiguous(),
        "logit_scale": torch.tensor(4.6),
    }
    for i in range(3):
        new = f"transformer.resblocks.{i}."
        for kind in ("weight", "bias"):
            qkv = [state[f"{layer}{i}.self_attn.{x}_proj.{kind}"] for x in "qkv"]
            found[f"{new}attn.in_proj_{kind}"] = torch.cat(qkv)
            for ours, theirs in blocks.items():
                found[f"{new}{theirs}.{kind}"] = state[f"{layer}{i}.{ours}.{kind}"]
    return found


def one_file(state: State) -> State:
    """Stability's own layout, sd_xl_base_1.0.safetensors."""
    clip_g = {f"conditioner.embedders.1.model.{k}": t for k, t in open_clip(part(state, CLIP_G)).items()}
    clip_l = part(state, CLIP_L, "conditioner.embedders.0.transformer.")
    return {**part(state, UNET, UNET), **clip_l, **clip_g, **part(state, VAE, VAE)}


def draw(**files: Path) -> Image.Image:
    config = EngineConfig(**files, compute_type=ComputeType.F32, rng=RngType.CPU, threads=1)  # type: ignore[arg-type]
    request = GenerationRequest(
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        width=SIZE,
        height=SIZE,
        steps=STEPS,
        seed=SEED,
        cfg_scale=CFG,
        sampling_method=SampleMethod.EULER,
    )
    with Engine.load(config) as engine:
        assert engine.model.family.name == "sdxl"
        return engine.generate(request).images[0]


def test_the_folder_gives_diffusers_picture(folder: Path) -> None:
    assert difference(draw(model=folder), Image.open(folder / "theirs.png")) <= 1


def test_one_file(folder: Path, state: State, tmp_path: Path) -> None:
    save_file(one_file(state), path := tmp_path / "sd_xl_base.safetensors")
    assert difference(draw(model=path), Image.open(folder / "theirs.png")) <= 1


def test_a_gguf_file(folder: Path, state: State, tmp_path: Path) -> None:
    write_gguf(path := tmp_path / "sdxl.gguf", {k: t for k, t in one_file(state).items() if t.numel() > 1})
    assert difference(draw(model=path), Image.open(folder / "theirs.png")) <= 1


LAYOUTS: dict[str, Callable[[State], dict[str, State]]] = {
    "native": lambda state: {
        "diffusion_model": part(state, UNET),
        "clip_l": part(state, CLIP_L),
        "clip_g": part(state, CLIP_G),
        "vae": part(state, VAE),
    },
    "prefixed": lambda state: {
        "diffusion_model": part(state, UNET, UNET),
        "clip_l": part(state, CLIP_L, "text_encoders.clip_l.transformer."),
        "clip_g": open_clip(part(state, CLIP_G)),
        "vae": part(state, VAE, VAE),
    },
    "from-one-file": lambda state: dict.fromkeys(
        ("diffusion_model", "clip_l", "clip_g", "vae"), one_file(state)
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_files_of_one_network_each(
    folder: Path, state: State, tmp_path: Path, layout: Callable[[State], dict[str, State]]
) -> None:
    files = {}
    for role, tensors in layout(state).items():
        save_file(tensors, tmp_path / f"{role}.safetensors")
        files[role] = tmp_path / f"{role}.safetensors"
    assert difference(draw(**files), Image.open(folder / "theirs.png")) <= 1


def test_diffusers_files_of_one_network_each(folder: Path) -> None:
    names = {
        "diffusion_model": "unet/diffusion_pytorch_model.safetensors",
        "clip_l": "text_encoder/model.safetensors",
        "clip_g": "text_encoder_2/model.safetensors",
        "vae": "vae/diffusion_pytorch_model.safetensors",
    }
    assert (
        difference(
            draw(**{role: folder / name for role, name in names.items()}), Image.open(folder / "theirs.png")
        )
        <= 1
    )


def test_quantized_weights_draw_nearly_the_same(folder: Path, state: State, tmp_path: Path) -> None:
    packed = {
        name: PackedTensor.encode(t, "q8_0") if t.ndim == 2 and t.shape[1] % 32 == 0 else t
        for name, t in state.items()
    }
    write_gguf(path := tmp_path / "sdxl-q8_0.gguf", packed)
    ours = np.asarray(draw(model=path), dtype=np.float64)
    theirs = np.asarray(Image.open(folder / "theirs.png").convert("RGB"), dtype=np.float64)
    assert np.abs(ours - theirs).mean() < 5


@pytest.mark.parametrize(
    ("mark", "prediction"),
    [
        ("v_pred", PredictionType.V),
        ("edm_vpred.sigma_max", PredictionType.EDM_V),
        (UNET + "v_pred", PredictionType.V),
    ],
)
def test_marks_tell_what_the_unet_predicts(
    state: State, tmp_path: Path, mark: str, prediction: PredictionType
) -> None:
    save_file({**state, mark: torch.zeros(())}, path := tmp_path / "marked.safetensors")
    with Engine.load(EngineConfig(model=path)) as engine:
        assert engine.model.architecture.prediction is prediction


@pytest.mark.parametrize(
    ("lost", "flag"), [(CLIP_L, "--clip_l"), (CLIP_G, "--clip_g"), (VAE, "--vae")], ids=["l", "g", "vae"]
)
def test_what_is_missing_is_named(state: State, tmp_path: Path, lost: str, flag: str) -> None:
    left = {name: tensor for name, tensor in state.items() if not name.startswith(lost)}
    save_file(left, path := tmp_path / "part.safetensors")
    with pytest.raises(CheckpointError, match=f"SDXL: .* is missing; give its file with {flag}"):
        Engine.load(EngineConfig(model=path))


def test_swapped_encoders_are_named(state: State, tmp_path: Path) -> None:
    for role, tensors in LAYOUTS["native"](state).items():
        save_file(tensors, tmp_path / f"{role}.safetensors")
    files = {role: tmp_path / f"{role}.safetensors" for role in LAYOUTS["native"](state)}
    files["clip_g"] = files["clip_l"]
    with pytest.raises(
        CheckpointError, match=r"--clip_g: this is .*no text_projection.*SDXL needs the CLIP-G"
    ):
        Engine.load(EngineConfig(**files))  # type: ignore[arg-type]


def test_nine_input_channels_inpaint(state: State, tmp_path: Path) -> None:
    torch.manual_seed(2)
    conv_in = UNET + "input_blocks.0.0.weight"
    save_file({**state, conv_in: torch.randn(64, 9, 3, 3) * 0.1}, path := tmp_path / "inpaint.safetensors")
    rgb = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(init := tmp_path / "init.png")
    masks = {"left": np.s_[:, : SIZE // 2], "right": np.s_[:, SIZE // 2 :]}
    drawn = []
    with Engine.load(EngineConfig(model=path, compute_type=ComputeType.F32, threads=1)) as engine:
        for name, half in masks.items():
            mask = np.zeros((SIZE, SIZE), dtype=np.uint8)
            mask[half] = 255
            Image.fromarray(mask).save(tmp_path / f"{name}.png")
            request = GenerationRequest(
                prompt="a cat", steps=2, strength=1.0, init_image=init, mask_image=tmp_path / f"{name}.png"
            )
            drawn.append(np.asarray(engine.generate(request).images[0]))
    assert drawn[0].shape == (SIZE, SIZE, 3)
    assert np.abs(drawn[0].astype(int) - drawn[1]).max() > 5
