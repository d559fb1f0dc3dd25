"""Which files are Flux.1, what it is put together from, and what it does where nobody says otherwise."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.pipelines.flux.pipeline_flux_fill import FluxFillPipeline
from tests.headers import answers, changed, header_names, native, read_header

from darkroom.api.errors import CheckpointError, RequestError
from darkroom.api.names import PredictionType, Role
from darkroom.families.base import Conditioning, Frame
from darkroom.families.flux import FAMILY
from darkroom.families.flux.config import FluxConfig
from darkroom.families.flux.model import FluxNetConfig
from darkroom.nets.flux_blocks import StreamsConfig
from darkroom.nets.vae.kl import KLConfig
from darkroom.sampling.extra_args import parse_extra_args
from darkroom.sampling.prediction import make_prediction
from darkroom.sampling.schedules import get_sigmas
from darkroom.tokenizers.gguf_vocab import GGUFTokenizer
from darkroom.tokenizers.t5 import T5Tokenizer
from darkroom.weights.index import TensorIndex, TensorInfo

COMPANIONS = {
    Role.CLIP_L: "companions/clip_l-comfyui",
    Role.T5XXL: "companions/t5xxl-comfyui",
    Role.VAE: "companions/flux_ae-bfl",
}
DEV = {Role.DIFFUSION_MODEL: "flux_dev-bfl", **COMPANIONS}
FILES = {
    "dev": DEV,
    "schnell": {**DEV, Role.DIFFUSION_MODEL: "flux_schnell-bfl"},
    "fill": {**DEV, Role.DIFFUSION_MODEL: "flux_fill-bfl"},
    "gguf": {**DEV, Role.DIFFUSION_MODEL: "flux_dev-gguf", Role.T5XXL: "companions/t5xxl-gguf"},
    "comfyui": {Role.MODEL: "flux_dev-comfyui"},
    "diffusers": {Role.MODEL: "flux_dev-diffusers"},
}
LAYOUTS = pytest.mark.parametrize("layout", FILES)
STREAMS = StreamsConfig()
NETS = {
    "schnell": FluxNetConfig(STREAMS, has_guidance=False),
    "fill": FluxNetConfig(replace(STREAMS, in_channels=384)),
}


def detect(files: dict[Role, str | TensorIndex]) -> FluxConfig:
    config = FAMILY.detect(native(files, FAMILY))
    assert config is not None
    return config


@pytest.fixture(scope="module")
def configs() -> dict[str, FluxConfig]:
    return {layout: detect(files) for layout, files in FILES.items()}


@LAYOUTS
def test_published_files_have_one_answer(layout: str) -> None:
    assert answers(FILES[layout]) == ["flux"]


@LAYOUTS
def test_published_files_are_the_published_architecture(configs: dict[str, FluxConfig], layout: str) -> None:
    config = configs[layout]
    assert config.net == NETS.get(layout, FluxNetConfig(STREAMS))
    assert config.vae == KLConfig(z_channels=16, embed_dim=16, use_quant_conv=False)
    assert (config.clip_l.hidden_size, config.clip_l.num_layers, config.clip_l.num_heads) == (768, 12, 12)
    assert (config.t5xxl.d_model, config.t5xxl.num_layers, config.t5xxl.num_heads) == (4096, 24, 64)
    assert config.t5_tokens == (256 if layout == "schnell" else 512)


@LAYOUTS
def test_networks_have_the_tensors_of_the_files(configs: dict[str, FluxConfig], layout: str) -> None:
    index = native(FILES[layout], FAMILY)
    for spec in FAMILY.modules(configs[layout]).values():
        expected = {name: tuple(p.shape) for name, p in spec.build().state_dict().items()}
        found = index.under(spec.prefix).shapes()
        assert {name: shape for name, shape in found.items() if name in expected} == expected
        assert all("logit_scale" in name for name in found.keys() - expected.keys())


def test_other_families_files_have_no_answer() -> None:
    for name in header_names():
        if not name.startswith("flux"):
            assert FAMILY.detect(FAMILY.key_rules().apply(read_header(name)).index) is None


@pytest.mark.parametrize("role", COMPANIONS)
def test_a_missing_companion_is_named(role: Role) -> None:
    files = {other: name for other, name in DEV.items() if other is not role}
    with pytest.raises(CheckpointError, match=rf"Flux.1: .* is missing; give its file with {role.flag}, for"):
        detect(files)


WIDE_CLIP = changed(
    "companions/clip_l-comfyui", {"text_model.embeddings.token_embedding.weight": (49408, 1280)}
)
SMALL_T5 = changed("companions/t5xxl-comfyui", {"shared.weight": (32128, 2048)})
UMT5 = TensorIndex(
    [
        TensorInfo("shared.weight", (256384, 4096), "bf16"),
        *(info for info in read_header("companions/t5xxl-comfyui").values() if info.name != "shared.weight"),
        *(
            TensorInfo(
                f"encoder.block.{i}.layer.0.SelfAttention.relative_attention_bias.weight", (32, 64), "bf16"
            )
            for i in range(1, 24)
        ),
    ]
)
WIDE_VAE = changed(
    "companions/flux_ae-bfl",
    {"decoder.conv_in.weight": (512, 32, 3, 3), "encoder.conv_out.weight": (64, 512, 3, 3)},
)


@pytest.mark.parametrize(
    ("role", "file", "message"),
    [
        (
            Role.CLIP_L,
            WIDE_CLIP,
            r"--clip_l: this is OpenCLIP-bigG \(CLIP-G\).* \(it gives a vector of width 1280, not 768\)",
        ),
        (Role.T5XXL, UMT5, r"--t5xxl: this is umT5-XXL.* \(it has a position bias in every block\)"),
        (Role.T5XXL, SMALL_T5, r"--t5xxl: this is T5-XL.* \(it gives text of width 2048, not 4096\)"),
        (
            Role.VAE,
            WIDE_VAE,
            r"--vae: this is .* 32 latent channels.* \(its latents have 32 channels, not 16\)",
        ),
        (Role.T5XXL, "companions/clip_l-comfyui", r"--t5xxl: this is CLIP-L.*; Flux.1 needs the T5-XXL"),
    ],
    ids=["clip-g", "umt5", "small t5", "wide vae", "clip for t5"],
)
def test_a_wrong_companion_is_refused(role: Role, file: str | TensorIndex, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        detect({**DEV, role: file})


@pytest.mark.parametrize(("channels", "name"), [(128, "Flux.1 Depth or Canny"), (196, "Flex.2"), (99, "99")])
def test_networks_that_take_other_pictures_are_refused(channels: int, name: str) -> None:
    other = changed("flux_dev-bfl", {"img_in.weight": (3072, channels)})
    with pytest.raises(CheckpointError, match=rf"model: this is .*{name}.*Kontext .*Fill \(384\) are supp"):
        detect({**DEV, Role.DIFFUSION_MODEL: other})


def test_an_incomplete_network_is_refused() -> None:
    cut = TensorIndex(
        info for info in read_header("flux_dev-bfl").values() if info.name != "final_layer.linear.weight"
    )
    with pytest.raises(CheckpointError, match=r"lacks model.diffusion_model.final_layer.linear.weight"):
        detect({**DEV, Role.DIFFUSION_MODEL: cut})


@pytest.mark.parametrize("layout", ["dev", "schnell", "fill"])
def test_defaults_are_the_authors(configs: dict[str, FluxConfig], layout: str) -> None:
    defaults = FAMILY.defaults(configs[layout])
    steps, guidance = {"dev": (28, 3.5), "schnell": (4, None), "fill": (50, 30.0)}[layout]
    assert (defaults.steps, defaults.guidance, defaults.cfg_scale) == (steps, guidance, 1.0)
    assert (defaults.width, defaults.height, defaults.size_multiple) == (1024, 1024, 16)
    assert FAMILY.inpaints(configs[layout]) == (layout == "fill")


def test_model_args(configs: dict[str, FluxConfig]) -> None:
    args = parse_extra_args("flux_t5_tokens=256", "--model-args", FAMILY.model_args)
    assert FAMILY.configure(configs["dev"], args).t5_tokens == 256
    assert FAMILY.configure(configs["dev"], parse_extra_args("")) == configs["dev"]


@pytest.mark.parametrize(("width", "height", "steps"), [(1024, 1024, 28), (1360, 768, 20), (512, 512, 4)])
@pytest.mark.parametrize("layout", ["dev", "schnell"])
def test_noise_levels_are_the_authors(
    configs: dict[str, FluxConfig], layout: str, width: int, height: int, steps: int
) -> None:
    """Of the scheduler_config.json of both, called as FluxPipeline calls it."""
    is_dev = layout == "dev"
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0 if is_dev else 1.0, use_dynamic_shifting=is_dev)
    tokens = width * height // 256
    scheduler.set_timesteps(
        sigmas=np.linspace(1.0, 1 / steps, steps), mu=calculate_shift(tokens) if is_dev else None
    )
    defaults = FAMILY.defaults(configs[layout])
    kind = FAMILY.prediction(configs[layout], lambda: pytest.fail("nothing to try"))
    assert kind is PredictionType.FLUX_FLOW

    sigmas = get_sigmas(
        defaults.scheduler,
        steps,
        make_prediction(kind, shift=defaults.flow_shift),
        tokens=tokens,
        shift=defaults.resolution_shift,
    )

    torch.testing.assert_close(sigmas, scheduler.sigmas, atol=1e-6, rtol=0)
    assert defaults.patch * FAMILY.latent.downscale == 16


@pytest.mark.parametrize("layout", ["dev", "schnell"])
@pytest.mark.parametrize("tokens", [4096, 1024])
def test_noise_levels_can_be_stable_diffusion_cpps(
    configs: dict[str, FluxConfig], layout: str, tokens: int
) -> None:
    """Which counts latent pixels, four to a token, and shifts schnell's levels as well."""
    mu = calculate_shift(4 * tokens)
    levels = [math.exp(mu) / (math.exp(mu) + 8 / (8 - i) - 1) for i in range(8)]

    sigmas = get_sigmas(
        FAMILY.defaults(configs[layout]).scheduler,
        8,
        make_prediction(PredictionType.FLUX_FLOW),
        tokens=tokens,
        shift=FAMILY.defaults(configs[layout]).resolution_shift,
        extra=parse_extra_args("base_shift=0.63,max_shift=3.23"),
    )

    torch.testing.assert_close(sigmas, torch.tensor([*levels, 0.0]), atol=1e-6, rtol=0)


def test_the_mask_has_all_its_pixels() -> None:
    mask, hidden = (torch.rand(1, 1, 32, 48) > 0.5).float(), torch.randn(1, 16, 4, 6)
    pipe = object.__new__(FluxFillPipeline)
    pipe.__dict__.update(vae_scale_factor=8, vae=_NoShift())
    expected = torch.cat(
        pipe.prepare_mask_latents(mask, hidden, 1, 16, 1, 32, 48, torch.float32, "cpu", None)[::-1], dim=-1
    )
    channels = FAMILY.inpainting_channels(mask, hidden)
    assert channels.shape == (1, 80, 4, 6)
    assert torch.equal(FluxFillPipeline._pack_latents(channels, 1, 80, 4, 6), expected)


class _NoShift:
    """An autoencoder whose latents are given already."""

    class config:
        shift_factor, scaling_factor = 0.0, 1.0


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((64, 64), (1024, 1024)),
        ((1920, 1080), (1392, 752)),
        ((300, 1000), (672, 1568)),
        ((4, 3), (1184, 880)),
    ],
)
def test_references_get_one_of_kontexts_sizes(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert FAMILY.reference_size(*size, Frame(512, 512)) == expected


def test_guidance_is_a_number_for_each_picture(configs: dict[str, FluxConfig]) -> None:
    cond = Conditioning(torch.zeros(1, 3, 8, dtype=torch.bfloat16))
    framed = FAMILY.frame(cond, Frame(512, 512, 3.5), configs["dev"])
    assert framed.guidance is not None
    assert (framed.guidance.dtype, framed.guidance.tolist()) == (torch.float32, [3.5])


def test_fill_looks_at_no_reference_images(configs: dict[str, FluxConfig]) -> None:
    FAMILY.check_references(configs["dev"], is_seen=True)
    with pytest.raises(RequestError, match=r"--ref-image: Flux.1 Fill looks at no reference images"):
        FAMILY.check_references(configs["fill"], is_seen=True)


def test_t5s_own_vocabulary_wins(configs: dict[str, FluxConfig]) -> None:
    index = native(FILES["gguf"], FAMILY)
    own = FAMILY.detect(TensorIndex(index.values(), {"tokenizer.ggml.model": "t5"}))
    assert own is not None
    assert isinstance(own.t5_tokenizer, GGUFTokenizer)
    assert configs["dev"].t5_tokenizer == T5Tokenizer()
