"""Which files are Qwen-Image, what it is put together from, and what it does where nobody says otherwise."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift
from tests.headers import answers, changed, header_names, native, read_header

from darkroom.api.errors import CheckpointError
from darkroom.api.names import Module, PredictionType, Role
from darkroom.families.base import Frame
from darkroom.families.qwen_image import FAMILY
from darkroom.families.qwen_image.config import QwenImageConfig
from darkroom.families.qwen_image.model import QwenImageTransformerConfig
from darkroom.nets.te.qwen import QwenConfig
from darkroom.nets.te.qwen_vision import QwenVisionConfig
from darkroom.nets.vae.wan import WanConfig
from darkroom.sampling.extra_args import parse_extra_args
from darkroom.sampling.prediction import make_prediction
from darkroom.sampling.schedules import get_sigmas
from darkroom.weights.index import TensorIndex, TensorInfo
from darkroom.weights.keys import KeyRules, Rename

LLM, LLM_GGUF, MMPROJ, VAE = (
    f"companions/{name}"
    for name in (
        "qwen2.5_vl_7b-comfyui",
        "qwen2.5_vl_7b-gguf",
        "qwen2.5_vl_7b_mmproj-gguf",
        "qwen_image_vae-comfyui",
    )
)
COMPANIONS = {Role.LLM: LLM, Role.VAE: VAE}
FILES = {
    "comfyui": {Role.DIFFUSION_MODEL: "qwen_image-comfyui", **COMPANIONS},
    "gguf": {
        Role.DIFFUSION_MODEL: "qwen_image-gguf", Role.LLM: LLM_GGUF, Role.LLM_VISION: MMPROJ, Role.VAE: VAE,
    },
    "edit-2511": {Role.DIFFUSION_MODEL: "qwen_image_edit_2511-comfyui", **COMPANIONS},
    "diffusers": {Role.MODEL: "qwen_image-diffusers"},
}  # fmt: skip


def detect(files: Mapping[Role, str | TensorIndex]) -> QwenImageConfig:
    config = FAMILY.detect(native(files, FAMILY))
    assert config is not None
    return config


@pytest.fixture(scope="module")
def config() -> QwenImageConfig:
    return detect(FILES["gguf"])


@pytest.mark.parametrize("layout", FILES)
def test_published_files_have_one_answer(layout: str) -> None:
    assert answers(FILES[layout]) == ["qwen_image"]


@pytest.mark.parametrize("layout", FILES)
def test_published_files_are_the_published_architecture(layout: str) -> None:
    config = detect(FILES[layout])
    assert config.net == QwenImageTransformerConfig(zero_cond_t=layout == "edit-2511")
    assert config.llm == QwenConfig(152064, 3584, 18944, 28, 28, 4, 128, True, False)
    assert config.vision == QwenVisionConfig(1280, 3420, 32, 16, 3584, 14, 2)
    assert config.vae == WanConfig()


@pytest.mark.parametrize("layout", FILES)
def test_networks_have_the_tensors_of_the_files(layout: str) -> None:
    index = native(FILES[layout], FAMILY)
    for spec in FAMILY.modules(detect(FILES[layout])).values():
        expected = {name: tuple(p.shape) for name, p in spec.build().state_dict().items()}
        found = index.under(spec.prefix).shapes()
        found.pop("__index_timestep_zero__", None)  # a mark, which the network does not have
        assert found == expected


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "transformer.", "diffusion_model."])
def test_every_prefix_is_known(prefix: str) -> None:
    rules = KeyRules((Rename("^", prefix),)) + FAMILY.key_rules()
    index = rules.apply(read_header("qwen_image_edit_2511-comfyui")).index
    expected = native({Role.DIFFUSION_MODEL: "qwen_image_edit_2511-comfyui"}, FAMILY)
    assert index.shapes() == expected.shapes()


def test_the_vision_tower_may_be_missing() -> None:
    files = {role: name for role, name in FILES["gguf"].items() if role is not Role.LLM_VISION}
    config = detect(files)
    assert config.vision is None
    te = FAMILY.modules(config)[Module.TE].build()
    assert not any(name.startswith("llm_vision") for name, _ in te.named_parameters())


@pytest.mark.parametrize("role", COMPANIONS)
def test_a_missing_companion_is_named(role: Role) -> None:
    files = {other: name for other, name in FILES["comfyui"].items() if other is not role}
    with pytest.raises(
        CheckpointError, match=rf"is missing; give its file with {role.flag}, for example qwen"
    ):
        detect(files)


QWEN_3B = changed(LLM_GGUF, {"token_embd.weight": (151936, 2048)})
MMPROJ_3B = changed(MMPROJ, {"mm.2.weight": (2048, 5120)})
LAYERED_VAE = changed(
    VAE, {"encoder.conv1.weight": (96, 4, 3, 3, 3), "decoder.head.2.weight": (4, 96, 3, 3, 3)}
)
QWEN_3 = TensorIndex(
    [
        *read_header(LLM_GGUF).values(),
        *(TensorInfo(f"blk.{i}.attn_{part}_norm.weight", (128,), "f32") for i in range(28) for part in "qk"),
    ]
)
KL_VAE = TensorIndex(
    TensorInfo(name, shape, "f32")
    for name, shape in {
        "encoder.conv_in.weight": (128, 3, 3, 3),
        "decoder.conv_in.weight": (512, 16, 3, 3),
        "decoder.conv_out.weight": (3, 128, 3, 3),
    }.items()
)


@pytest.mark.parametrize(
    ("role", "file", "message"),
    [
        (Role.LLM, QWEN_3B, r"--llm: this is Qwen2.5 3B.* \(it gives text of width 2048, not 3584\)"),
        (Role.LLM, QWEN_3, r"--llm: this is Qwen3.* \(its attention is not Qwen2.5's\)"),
        (Role.LLM, MMPROJ, r"--llm: this is a vision tower without a language model \(an mmproj file\)"),
        (Role.LLM_VISION, MMPROJ_3B, r"--llm_vision: .* \(it gives embeddings of width 2048, not 3584\)"),
        (Role.LLM_VISION, LLM_GGUF, r"--llm_vision: this is "),
        (Role.VAE, KL_VAE, r"--vae: this is a KL autoencoder with 16 latent channels \(SD3 or Flux.1\)"),
        (Role.VAE, LAYERED_VAE, r"--vae: .* \(it is for pictures with transparency\)"),
    ],
    ids=["3b", "qwen3", "mmproj", "mmproj of 3b", "llm", "flux ae", "layered vae"],
)
def test_a_wrong_companion_is_refused(role: Role, file: str | TensorIndex, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        detect({**FILES["gguf"], role: file})


def test_layered_files_are_refused() -> None:
    layered = TensorIndex(
        [
            *read_header("qwen_image-comfyui").values(),
            TensorInfo("time_text_embed.addition_t_embedding.weight", (2, 3072), "bf16"),
        ]
    )
    with pytest.raises(CheckpointError, match="Qwen-Image-Layered"):
        detect({**FILES["comfyui"], Role.DIFFUSION_MODEL: layered})


def test_other_latents_are_refused() -> None:
    wider = changed("qwen_image-comfyui", {"img_in.weight": (3072, 128)})
    with pytest.raises(CheckpointError, match="latents with 32 channels"):
        detect({**FILES["comfyui"], Role.DIFFUSION_MODEL: wider})


def test_other_families_files_have_no_answer() -> None:
    for name in header_names():
        if not name.startswith("qwen_image"):
            assert FAMILY.detect(FAMILY.key_rules().apply(read_header(name)).index) is None


def test_model_args_change_what_no_shape_tells(config: QwenImageConfig) -> None:
    args = parse_extra_args(
        "qwen_image_zero_cond_t=true,qwen_image_numbered_pictures=0", "--model-args", FAMILY.model_args
    )
    configured = FAMILY.configure(config, args)
    assert (configured.net.zero_cond_t, configured.numbers_pictures) == (True, False)
    assert FAMILY.configure(config, parse_extra_args("")) == config
    marked = detect(FILES["edit-2511"])
    assert FAMILY.configure(marked, parse_extra_args("")).net.zero_cond_t


@pytest.mark.parametrize(("width", "height", "steps"), [(1024, 1024, 50), (1664, 928, 20), (512, 768, 4)])
def test_noise_levels_are_the_authors(config: QwenImageConfig, width: int, height: int, steps: int) -> None:
    """Of Qwen/Qwen-Image's scheduler_config.json, called as the pipelines call it."""
    scheduler = FlowMatchEulerDiscreteScheduler(
        base_image_seq_len=256,
        base_shift=0.5,
        max_image_seq_len=8192,
        max_shift=0.9,
        shift_terminal=0.02,
        time_shift_type="exponential",
        use_dynamic_shifting=True,
    )
    tokens = (width // 16) * (height // 16)
    mu = calculate_shift(tokens, 256, 8192, 0.5, 0.9)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)

    defaults = FAMILY.defaults(config)
    prediction = make_prediction(
        FAMILY.prediction(config, lambda: pytest.fail("no probe is needed")), shift=defaults.flow_shift
    )
    latent_pixels = (width // 8) * (height // 8)
    got = get_sigmas(
        defaults.scheduler,
        steps,
        prediction,
        tokens=latent_pixels // defaults.patch**2,
        shift=defaults.resolution_shift,
    )
    torch.testing.assert_close(got, scheduler.sigmas, rtol=1e-5, atol=1e-6)
    timesteps = torch.tensor([prediction.timestep(sigma) for sigma in got[:-1].tolist()])
    torch.testing.assert_close(timesteps, scheduler.timesteps, rtol=1e-5, atol=1e-3)


def test_defaults(config: QwenImageConfig) -> None:
    defaults = FAMILY.defaults(config)
    assert (defaults.steps, defaults.cfg_scale, defaults.size_multiple) == (50, 4.0, 16)
    assert FAMILY.prediction(config, lambda: pytest.fail("no probe is needed")) is PredictionType.SD3_FLOW


def test_latents_are_centred_and_scaled_as_by_diffusers() -> None:
    with torch.device("meta"):
        vae = AutoencoderKLQwenImage()
    z = torch.randn(2, 16, 4, 4)
    mean, deviation = (torch.tensor(vae.config[f"latents_{name}"])[:, None, None] for name in ("mean", "std"))
    torch.testing.assert_close(FAMILY.latent.from_vae(z), (z - mean) / deviation)
    torch.testing.assert_close(FAMILY.latent.to_vae(FAMILY.latent.from_vae(z)), z)
    assert not FAMILY.latent.sampled


def test_references_are_brought_to_a_megapixel() -> None:
    assert FAMILY.reference_size(512, 512, Frame(256, 256)) == (1024, 1024)
    assert FAMILY.reference_size(1920, 1080, Frame(1024, 1024)) == (1376, 768)
