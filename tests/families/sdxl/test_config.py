"""Which files are SDXL, what it is put together from, and what it does where nobody says otherwise."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from tests.headers import header_names, native, read_header

from darkroom.api.errors import CheckpointError, RequestError
from darkroom.api.names import Module, PredictionType, Role, SampleMethod, Scheduler
from darkroom.families import discover
from darkroom.families.sdxl import FAMILY
from darkroom.families.sdxl.config import SDXLConfig
from darkroom.nets.te.clip import CLIPTextConfig
from darkroom.nets.unet import UNetConfig, UNetModel
from darkroom.nets.vae.kl import KLConfig
from darkroom.sampling.extra_args import parse_extra_args
from darkroom.weights.index import TensorIndex, TensorInfo
from darkroom.weights.spellings import UNET

SDXL = UNetConfig(
    channel_mult=(1, 2, 4),
    num_res_blocks=(2, 2, 2),
    transformer_depth=(0, 2, 10),
    middle_depth=10,
    context_dim=2048,
    linear_proj=True,
    adm_in_channels=2816,
)
UNETS = {
    "sdxl-original": SDXL,
    "sdxl-diffusers": SDXL,
    "sdxl_inpainting-diffusers": replace(SDXL, in_channels=9),
    "ssd_1b-original": replace(
        SDXL, transformer_depth=(0, 2, 4), output_depth=((4, 4, 10), (2, 1, 1), (0, 0, 0)), middle_depth=None
    ),
    "segmind_vega-original": replace(SDXL, transformer_depth=(0, 1, 2), middle_depth=None),
}
COMPANIONS = {
    Role.DIFFUSION_MODEL: "sdxl-gguf",
    Role.CLIP_L: "companions/clip_l-comfyui",
    Role.CLIP_G: "companions/clip_g-comfyui",
}


def split() -> dict[Role, TensorIndex]:
    """SDXL in four files, the autoencoder taken from a whole one."""
    files = {role: read_header(name) for role, name in COMPANIONS.items()}
    vae = read_header("sdxl-original").under("first_stage_model.")
    return {**files, Role.VAE: vae}


def whole() -> TensorIndex:
    return FAMILY.key_rules().apply(read_header("sdxl-original")).index


@pytest.mark.parametrize("name", UNETS)
def test_published_files_have_one_answer(name: str) -> None:
    header = read_header(name)
    found = {family.name: family.detect(family.key_rules().apply(header).index) for family in discover()}
    assert [family for family, config in found.items() if config is not None] == ["sdxl"]
    assert found["sdxl"] == SDXLConfig(
        UNETS[name],
        KLConfig(),
        CLIPTextConfig(49408, 77, 768, 3072, 12, 12, "quick_gelu"),
        CLIPTextConfig(49408, 77, 1280, 5120, 32, 20, "gelu", projection_dim=1280),
    )


@pytest.mark.parametrize("name", UNETS)
def test_networks_have_the_tensors_of_the_file(name: str) -> None:
    index = FAMILY.key_rules().apply(read_header(name)).index
    config = FAMILY.detect(index)
    assert config is not None
    for spec in FAMILY.modules(config).values():
        expected = {key: tuple(p.shape) for key, p in spec.build().state_dict().items()}
        found = index.under(spec.prefix).shapes()
        extra = {name for name in found if name.endswith(("position_ids", "logit_scale"))}
        assert {name: shape for name, shape in found.items() if name not in extra} == expected


def test_projections_may_be_convolutions() -> None:
    """So did stable-diffusion.cpp write GGUF files before 2025."""
    wide = TensorIndex(
        replace(info, shape=(*info.shape, 1, 1)) if re.search(r"\.1\.proj_(in|out)\.weight$", name) else info
        for name, info in read_header("sdxl-original").items()
    )
    config = FAMILY.detect(native({Role.MODEL: wide}, FAMILY))
    assert config is not None
    assert config.unet == SDXL


def test_files_of_one_network_each() -> None:
    config = FAMILY.detect(native(split(), FAMILY))
    assert config is not None
    assert config.unet == SDXL
    assert config.clip_g.projection_dim == 1280


@pytest.mark.parametrize("name", sorted({*header_names()} - {*UNETS, "sdxl-gguf"}))
def test_files_of_other_families_have_no_answer(name: str) -> None:
    assert FAMILY.detect(FAMILY.key_rules().apply(read_header(name)).index) is None


@pytest.mark.parametrize("name", ["sdxl-original", "sdxl-diffusers"])
def test_landmarks_are_in_every_file(name: str) -> None:
    index = FAMILY.key_rules().apply(read_header(name)).index
    assert [mark for mark in FAMILY.landmarks if mark not in index] == []


@pytest.mark.parametrize(
    ("role", "flag"), [(Role.CLIP_L, "--clip_l"), (Role.CLIP_G, "--clip_g"), (Role.VAE, "--vae")]
)
def test_what_is_missing_is_named(role: Role, flag: str) -> None:
    files = {other: index for other, index in split().items() if other is not role}
    with pytest.raises(CheckpointError, match=f"is missing; give its file with {flag}, for example"):
        FAMILY.detect(native(files, FAMILY))


@pytest.mark.parametrize(
    ("role", "other", "message"),
    [
        (
            Role.CLIP_G,
            "companions/clip_l-comfyui",
            r"--clip_g: this is CLIP-L.*\(it has no text_projection\)",
        ),
        (
            Role.CLIP_L,
            "companions/clip_g-comfyui",
            r"--clip_l: this is OpenCLIP-bigG.*\(it gives text of width 1280, not 768\)",
        ),
        (Role.CLIP_L, "companions/t5xxl-comfyui", r"--clip_l: this is T5-XXL"),
        (
            Role.VAE,
            "companions/sd3_vae-diffusers",
            r"--vae: this is a KL autoencoder with 16 latent channels",
        ),
    ],
    ids=["clip_l-for-g", "clip_g-for-l", "t5-for-l", "sd3-vae"],
)
def test_what_does_not_fit_is_named(role: Role, other: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        FAMILY.detect(native({**split(), role: read_header(other)}, FAMILY))


def test_the_refiner_is_named() -> None:
    refiner = UNetConfig(
        model_channels=384,
        transformer_depth=(0, 4, 4, 0),
        middle_depth=4,
        context_dim=1280,
        linear_proj=True,
        adm_in_channels=2560,
    )
    with torch.device("meta"):
        unet = UNetModel(refiner).state_dict()
    clip_g = read_header("sdxl-original").under("conditioner.embedders.1.")
    infos = [
        *(TensorInfo(UNET + name, tuple(tensor.shape), "f16") for name, tensor in unet.items()),
        *(replace(info, name=f"conditioner.embedders.0.{name}") for name, info in clip_g.items()),
    ]
    with pytest.raises(CheckpointError, match="this is SDXL's refiner, which finishes pictures"):
        FAMILY.detect(FAMILY.key_rules().apply(TensorIndex(infos)).index)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({UNET + "input_blocks.0.0.weight": (320, 8, 3, 3)}, "8 input channels .such as instruct-pix2pix"),
        ({"edm_mean": (1, 4, 1, 1)}, "this is Playground 2.5"),
    ],
    ids=["pix2pix", "playground"],
)
def test_kin_that_is_sampled_otherwise_is_named(extra: dict[str, tuple[int, ...]], message: str) -> None:
    changed = [TensorInfo(name, shape, "f16") for name, shape in extra.items()]
    infos = {info.name: info for info in (*whole().values(), *changed)}
    with pytest.raises(CheckpointError, match=message):
        FAMILY.detect(TensorIndex(infos.values()))


def test_unclip_is_another_family() -> None:
    unclip = UNetConfig(context_dim=1024, linear_proj=True, adm_in_channels=2048)
    with torch.device("meta"):
        infos = [
            TensorInfo(UNET + k, tuple(t.shape), "f16") for k, t in UNetModel(unclip).state_dict().items()
        ]
    assert FAMILY.detect(TensorIndex(infos)) is None


@pytest.mark.parametrize(
    ("mark", "metadata", "prediction"),
    [
        ("alphas_cumprod", {}, PredictionType.EPS),
        ("v_pred", {}, PredictionType.V),
        (UNET + "v_pred", {}, PredictionType.V),
        ("edm_vpred.sigma_max", {}, PredictionType.EDM_V),
        ("alphas_cumprod", {"modelspec.prediction_type": "v"}, PredictionType.V),
    ],
)
def test_marks_tell_what_the_unet_predicts(
    mark: str, metadata: dict[str, str], prediction: PredictionType
) -> None:
    index = TensorIndex([*read_header("sdxl-original").values(), TensorInfo(mark, (), "f32")], metadata)
    view = FAMILY.key_rules().apply(index).index
    config = FAMILY.detect(view)
    assert config is not None
    assert FAMILY.prediction(config, lambda: pytest.fail("no need to try")) is prediction
    assert len(view.under(UNET)) == 1680


def test_defaults() -> None:
    config = FAMILY.detect(whole())
    assert config is not None
    defaults = FAMILY.defaults(config)
    assert (defaults.method, defaults.scheduler) == (SampleMethod.EULER_A, Scheduler.DISCRETE)
    assert (defaults.steps, defaults.cfg_scale, defaults.clip_skip) == (30, 5.0, 2)
    assert (defaults.width, defaults.height, defaults.size_multiple) == (1024, 1024, 64)
    sized = FAMILY.detect(TensorIndex(whole().values(), {"modelspec.resolution": "512x512"}))
    assert sized is not None
    assert FAMILY.defaults(sized).width == 512


def test_what_model_args_change() -> None:
    config = FAMILY.detect(whole())
    assert config is not None
    asked = parse_extra_args("sdxl_unturned_projection=true", "--model-args", FAMILY.model_args)
    assert FAMILY.configure(config, asked).unturned_projection
    assert FAMILY.configure(config, parse_extra_args("")) == config
    narrow = replace(config, clip_g=replace(config.clip_g, projection_dim=768))
    with pytest.raises(RequestError, match="needs a square text_projection; this one is 768x1280"):
        FAMILY.configure(narrow, asked)


@pytest.mark.parametrize(
    ("name", "inpaints"), [("sdxl-diffusers", False), ("sdxl_inpainting-diffusers", True)]
)
def test_nine_input_channels_mean_inpainting(name: str, inpaints: bool) -> None:
    config = FAMILY.detect(FAMILY.key_rules().apply(read_header(name)).index)
    assert config is not None
    assert FAMILY.inpaints(config) is inpaints
    assert set(FAMILY.modules(config)) == {Module.TE, Module.DIFFUSION, Module.VAE}
