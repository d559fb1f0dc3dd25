"""Which files are Chroma, what it is put together from, and what it does where nobody says otherwise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from tests.headers import answers, header_names, native, read_header

from darkroom.api.errors import CheckpointError
from darkroom.api.names import Role
from darkroom.families.chroma import FAMILY
from darkroom.families.chroma.config import ChromaConfig
from darkroom.families.chroma.model import ChromaNetConfig
from darkroom.nets.flux_blocks import StreamsConfig
from darkroom.sampling.extra_args import parse_extra_args
from darkroom.sampling.prediction import make_prediction
from darkroom.sampling.schedules import get_sigmas
from darkroom.weights.index import TensorIndex, TensorInfo

HD = {
    Role.DIFFUSION_MODEL: "chroma_hd-original",
    Role.T5XXL: "companions/t5xxl-comfyui",
    Role.VAE: "companions/flux_ae-bfl",
}
FILES = {
    "original": HD,
    "gguf": {**HD, Role.DIFFUSION_MODEL: "chroma_hd-gguf", Role.T5XXL: "companions/t5xxl-gguf"},
    "diffusers": {Role.MODEL: "chroma_hd-diffusers"},
}
LAYOUTS = pytest.mark.parametrize("layout", FILES)


def detect(files: dict[Role, str | TensorIndex]) -> ChromaConfig:
    config = FAMILY.detect(native(files, FAMILY))
    assert config is not None
    return config


@pytest.fixture(scope="module")
def config() -> ChromaConfig:
    return detect(HD)


@LAYOUTS
def test_published_files_have_one_answer(layout: str) -> None:
    assert answers(FILES[layout]) == ["chroma"]


@LAYOUTS
def test_published_files_are_the_published_architecture(layout: str) -> None:
    config = detect(FILES[layout])
    assert config.net == ChromaNetConfig(StreamsConfig())
    index = native(FILES[layout], FAMILY)
    for spec in FAMILY.modules(config).values():
        expected = {name: tuple(p.shape) for name, p in spec.build().state_dict().items()}
        assert index.under(spec.prefix).shapes() == expected


def test_other_families_files_have_no_answer() -> None:
    for name in header_names():
        if not name.startswith("chroma"):
            assert FAMILY.detect(FAMILY.key_rules().apply(read_header(name)).index) is None


@pytest.mark.parametrize("role", [Role.T5XXL, Role.VAE])
def test_a_missing_companion_is_named(role: Role) -> None:
    files = {other: name for other, name in HD.items() if other is not role}
    with pytest.raises(CheckpointError, match=rf"Chroma: .* is missing; give its file with {role.flag}, for"):
        detect(files)


def test_radiance_is_refused() -> None:
    radiance = TensorIndex(
        [
            *read_header("chroma_hd-original").values(),
            TensorInfo("nerf_final_layer_conv.conv.weight", (3, 64, 3, 3), "bf16"),
        ]
    )
    with pytest.raises(CheckpointError, match="model: this is Chroma Radiance"):
        detect({**HD, Role.DIFFUSION_MODEL: radiance})


def test_model_args_say_what_is_seen_of_the_text(config: ChromaConfig) -> None:
    assert (config.t5_mask, config.dit_mask, config.pad) == (True, True, 1)
    args = parse_extra_args(
        "chroma_use_t5_mask=false,chroma_use_dit_mask=0,chroma_t5_mask_pad=3",
        "--model-args",
        FAMILY.model_args,
    )
    configured = FAMILY.configure(config, args)
    assert (configured.t5_mask, configured.dit_mask, configured.pad) == (False, False, 3)


@pytest.mark.parametrize("steps", [40, 26, 3])
def test_noise_levels_are_the_authors(config: ChromaConfig, steps: int) -> None:
    """lodestones/Chroma1-HD's scheduler shifts nothing."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps))
    defaults = FAMILY.defaults(config)
    kind = FAMILY.prediction(config, lambda: pytest.fail("nothing to try"))

    sigmas = get_sigmas(
        defaults.scheduler,
        steps,
        make_prediction(kind, shift=defaults.flow_shift),
        tokens=4096,
        shift=defaults.resolution_shift,
    )

    torch.testing.assert_close(sigmas, scheduler.sigmas, atol=1e-6, rtol=0)


def test_defaults_are_the_authors(config: ChromaConfig) -> None:
    defaults = FAMILY.defaults(config)
    assert (defaults.steps, defaults.cfg_scale, defaults.guidance) == (40, 3.0, None)
    assert (defaults.width, defaults.height, defaults.size_multiple) == (1024, 1024, 16)
