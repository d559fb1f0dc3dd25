"""Which files are Z-Image, what it is put together from, and what it does where nobody says otherwise."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.z_image.pipeline_z_image import get_default_z_image_sigmas
from tests.headers import answers, changed, header_names, native, read_header

from darkroom.api.errors import CheckpointError
from darkroom.api.names import PredictionType, Role
from darkroom.families.z_image import FAMILY
from darkroom.families.z_image.config import ZImageConfig
from darkroom.families.z_image.model import ZImageTransformerConfig
from darkroom.nets.te.qwen import QwenConfig
from darkroom.nets.vae.kl import KLConfig
from darkroom.sampling.prediction import make_prediction
from darkroom.sampling.schedules import get_sigmas
from darkroom.tokenizers.gguf_vocab import GGUFTokenizer
from darkroom.tokenizers.qwen import QwenTokenizer
from darkroom.weights.index import TensorIndex, TensorInfo
from darkroom.weights.keys import KeyRules, Rename

LLM, LLM_GGUF, VAE = (f"companions/{name}" for name in ("qwen3_4b-comfyui", "qwen3_4b-gguf", "flux_ae-bfl"))
FILES = {
    "comfyui": {Role.DIFFUSION_MODEL: "z_image-comfyui", Role.LLM: LLM, Role.VAE: VAE},
    "gguf": {Role.DIFFUSION_MODEL: "z_image-gguf", Role.LLM: LLM_GGUF, Role.VAE: VAE},
    "all in one": {Role.MODEL: "z_image-comfyui-all-in-one"},
    "diffusers": {Role.MODEL: "z_image-diffusers"},
}
AUTOENCODER = KLConfig(z_channels=16, embed_dim=16, use_quant_conv=False)


def detect(files: Mapping[Role, str | TensorIndex]) -> ZImageConfig:
    config = FAMILY.detect(native(files, FAMILY))
    assert config is not None
    return config


@pytest.fixture(scope="module")
def config() -> ZImageConfig:
    return detect(FILES["comfyui"])


@pytest.mark.parametrize("layout", FILES)
def test_published_files_have_one_answer(layout: str) -> None:
    assert answers(FILES[layout]) == ["z_image"]


@pytest.mark.parametrize("layout", FILES)
def test_published_files_are_the_published_architecture(layout: str) -> None:
    config = detect(FILES[layout])
    assert config.net == ZImageTransformerConfig()
    assert config.llm == QwenConfig(151936, 2560, 9728, 36, 32, 8, 128, False, True)
    assert config.vae == AUTOENCODER


@pytest.mark.parametrize("layout", FILES)
def test_networks_have_the_tensors_of_the_files(layout: str) -> None:
    index = native(FILES[layout], FAMILY)
    for spec in FAMILY.modules(detect(FILES[layout])).values():
        expected = {name: tuple(p.shape) for name, p in spec.build().state_dict().items()}
        assert index.under(spec.prefix).shapes() == expected


def test_a_whole_file_may_have_no_prefix() -> None:
    bare = KeyRules((Rename(r"^model\.diffusion_model\.", ""),))
    whole = bare.apply(read_header("z_image-comfyui-all-in-one")).index
    assert detect({Role.MODEL: whole}) == detect(FILES["all in one"])


@pytest.mark.parametrize("role", [Role.LLM, Role.VAE])
def test_a_missing_companion_is_named(role: Role) -> None:
    files = {other: name for other, name in FILES["comfyui"].items() if other is not role}
    example = r"qwen_3_4b\.safetensors" if role is Role.LLM else r"ae\.safetensors"
    with pytest.raises(
        CheckpointError, match=rf"is missing; give its file with {role.flag}, for example {example}"
    ):
        detect(files)


QWEN_8B = changed(LLM, {"model.embed_tokens.weight": (151936, 4096)})
SD1_VAE = changed(VAE, {"decoder.conv_in.weight": (512, 4, 3, 3)})


@pytest.mark.parametrize(
    ("role", "file", "message"),
    [
        (Role.LLM, QWEN_8B, r"--llm: this is Qwen3.* \(it gives text of width 4096, not 2560\)"),
        (
            Role.LLM,
            "companions/qwen2.5_vl_7b-gguf",
            r"--llm: this is Qwen2.5.* \(its attention is not Qwen3's\)",
        ),
        (Role.LLM, "companions/t5xxl-comfyui", r"--llm: this is .*T5"),
        (Role.VAE, SD1_VAE, r"--vae: .* \(its latents have 4 channels, not 16\)"),
        (Role.VAE, "companions/qwen_image_vae-comfyui", r"--vae: this is a video autoencoder"),
    ],
    ids=["8b", "qwen2.5", "t5", "sd1 vae", "wan vae"],
)
def test_a_wrong_companion_is_refused(role: Role, file: str | TensorIndex, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        detect({**FILES["comfyui"], role: file})


def test_omni_files_are_refused() -> None:
    omni = TensorIndex(
        [
            *read_header("z_image-comfyui").values(),
            TensorInfo("siglip_embedder.1.weight", (3840, 1152), "bf16"),
        ]
    )
    with pytest.raises(CheckpointError, match="Z-Image-Omni"):
        detect({**FILES["comfyui"], Role.DIFFUSION_MODEL: omni})


def test_other_latents_are_refused() -> None:
    wider = changed("z_image-comfyui", {"x_embedder.weight": (3840, 128)})
    with pytest.raises(CheckpointError, match="latents with 32 channels"):
        detect({**FILES["comfyui"], Role.DIFFUSION_MODEL: wider})


def test_a_broken_file_is_named() -> None:
    broken = TensorIndex(
        info for info in read_header("z_image-comfyui").values() if info.name != "t_embedder.mlp.2.weight"
    )
    with pytest.raises(CheckpointError, match=r"lacks model\.diffusion_model\.t_embedder\.mlp\.2\.weight"):
        detect({**FILES["comfyui"], Role.DIFFUSION_MODEL: broken})


def test_other_families_files_have_no_answer() -> None:
    for name in header_names():
        if not name.startswith("z_image"):
            assert FAMILY.detect(FAMILY.key_rules().apply(read_header(name)).index) is None


@pytest.mark.parametrize("steps", [4, 8, 20, 50])
@pytest.mark.parametrize("shift", [None, 6.0], ids=["turbo", "base"])
def test_noise_levels_are_the_authors(config: ZImageConfig, steps: int, shift: float | None) -> None:
    """Of their scheduler_config.json, called as the pipeline calls it; Z-Image itself shifts by 6."""
    defaults = FAMILY.defaults(config)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift or 3.0)
    scheduler.set_timesteps(sigmas=get_default_z_image_sigmas(steps))

    kind = FAMILY.prediction(config, lambda: pytest.fail("no probe is needed"))
    prediction = make_prediction(kind, shift=shift or defaults.flow_shift)
    got = get_sigmas(defaults.scheduler, steps, prediction)
    torch.testing.assert_close(got, scheduler.sigmas, rtol=1e-5, atol=1e-6)
    timesteps = torch.tensor([prediction.timestep(sigma) for sigma in got[:-1].tolist()])
    torch.testing.assert_close(timesteps, scheduler.timesteps, rtol=1e-5, atol=1e-3)


def test_nine_steps_of_the_first_diffusers_are_eight_here(config: ZImageConfig) -> None:
    """The model's page asks for nine, the last of which that version made from no noise to none."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.sigma_min = 0.0
    scheduler.set_timesteps(9)
    defaults = FAMILY.defaults(config)
    prediction = make_prediction(PredictionType.SD3_FLOW, shift=defaults.flow_shift)
    got = get_sigmas(defaults.scheduler, defaults.steps, prediction)
    torch.testing.assert_close(got, scheduler.sigmas[:9], rtol=1e-5, atol=1e-6)


def test_defaults(config: ZImageConfig) -> None:
    defaults = FAMILY.defaults(config)
    assert (defaults.steps, defaults.cfg_scale, defaults.size_multiple) == (8, 1.0, 16)
    assert (defaults.width, defaults.height, defaults.flow_shift) == (1024, 1024, 3.0)


def test_the_text_encoders_own_vocabulary_wins(config: ZImageConfig) -> None:
    metadata = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2"}
    own = FAMILY.detect(TensorIndex(native(FILES["gguf"], FAMILY).values(), metadata))
    assert own is not None
    assert isinstance(own.tokenizer, GGUFTokenizer)
    assert config.tokenizer == QwenTokenizer()
