"""Detection on the headers of published files, and what is said about companions that do not fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.headers import native, read_header

from darkroom.api.errors import CheckpointError
from darkroom.api.names import Module, Role
from darkroom.families import discover
from darkroom.families.sd3 import FAMILY
from darkroom.families.sd3.model import MMDiTConfig
from darkroom.nets.te.clip import CLIPTextConfig
from darkroom.nets.te.t5 import T5Config
from darkroom.nets.vae.kl import KLConfig
from darkroom.weights.bind import NOT_OF_A_NETWORK
from darkroom.weights.index import TensorIndex, TensorInfo

MEDIUM = MMDiTConfig()
MEDIUM_X = replace(MEDIUM, positions=384, qk_norm=True, dual_blocks=tuple(range(13)))
LARGE = MMDiTConfig(hidden_size=2432, num_layers=38, num_heads=38, mlp_size=9728, qk_norm=True)

ENCODERS = {Role.CLIP_L: "clip_l-comfyui", Role.CLIP_G: "clip_g-comfyui", Role.T5XXL: "t5xxl-comfyui"}
ENCODERS_GGUF = {**ENCODERS, Role.T5XXL: "t5xxl-gguf"}
BESIDE_DIFFUSION = {**ENCODERS_GGUF, Role.VAE: "sd3_vae-diffusers"}
LAYOUTS = pytest.mark.parametrize(
    ("header", "companions", "net"),
    [
        ("sd3_medium-original", ENCODERS, MEDIUM),
        ("sd3_medium-all_in_one", {}, MEDIUM),
        ("sd3.5_medium-original", ENCODERS_GGUF, MEDIUM_X),
        ("sd3.5_medium-diffusers", {}, MEDIUM_X),
        ("sd3.5_large-original", ENCODERS, LARGE),
        ("sd3.5_large-gguf", BESIDE_DIFFUSION, LARGE),
    ],
)


def together(header: str, companions: dict[Role, str]) -> TensorIndex:
    """The native view of a main file and of companions in files of their own."""
    beside = {role: f"companions/{name}" for role, name in companions.items()}
    return native({Role.MODEL: header, **beside}, FAMILY)


@LAYOUTS
def test_published_layouts(header: str, companions: dict[Role, str], net: MMDiTConfig) -> None:
    config = FAMILY.detect(together(header, companions))
    assert config is not None
    assert config.net == net
    assert config.vae == KLConfig(z_channels=16, embed_dim=16, use_quant_conv=False)
    is_folder = header.endswith("diffusers")
    assert config.clip_l == CLIPTextConfig(
        49408, 77, 768, 3072, 12, 12, "quick_gelu", 768 if is_folder else None
    )
    assert config.clip_g == CLIPTextConfig(49408, 77, 1280, 5120, 32, 20, "gelu", 1280)
    assert config.t5xxl == T5Config(32128, 4096, 10240, 4096, 24, 64, 32)


@LAYOUTS
def test_networks_have_exactly_the_published_tensors(
    header: str, companions: dict[Role, str], net: MMDiTConfig
) -> None:
    index = together(header, companions)
    config = FAMILY.detect(index)
    assert config is not None
    expected: dict[str, tuple[int, ...]] = {}
    for spec in FAMILY.modules(config).values():
        state = spec.build().state_dict()
        expected |= {spec.prefix + name: tuple(tensor.shape) for name, tensor in state.items()}
    assert {
        name: shape for name, shape in index.shapes().items() if not NOT_OF_A_NETWORK.search(name)
    } == expected


@LAYOUTS
def test_no_other_family_answers(header: str, companions: dict[Role, str], net: MMDiTConfig) -> None:
    for family in discover():
        if family is not FAMILY:
            assert family.detect(family.key_rules().apply(read_header(header)).index) is None


def test_longest_sides() -> None:
    sides = [
        FAMILY.detect(together(header, companions))
        for header, companions in (("sd3_medium-all_in_one", {}), ("sd3.5_medium-original", ENCODERS))
    ]
    assert [config and config.longest_side for config in sides] == [3072, 6144]


def test_defaults() -> None:
    defaults = []
    for header, companions in (("sd3_medium-original", ENCODERS), ("sd3.5_large-original", ENCODERS)):
        config = FAMILY.detect(together(header, companions))
        assert config is not None
        defaults.append(FAMILY.defaults(config))
    assert [(d.steps, d.cfg_scale, d.flow_shift, d.size_multiple) for d in defaults] == [
        (28, 5.0, 3.0, 16),
        (40, 4.5, 3.0, 16),
    ]


class TestCompanions:
    def message(self, companions: dict[Role, str], header: str = "sd3.5_large-gguf") -> str:
        with pytest.raises(CheckpointError) as caught:
            FAMILY.detect(together(header, companions))
        return str(caught.value)

    @pytest.mark.parametrize(
        "roles", [(Role.T5XXL,), (Role.CLIP_L,), (Role.CLIP_G,), (Role.CLIP_L, Role.CLIP_G)]
    )
    def test_encoders_may_be_absent(self, roles: tuple[Role, ...]) -> None:
        companions = {role: name for role, name in ENCODERS.items() if role not in roles}
        config = FAMILY.detect(together("sd3_medium-original", companions))
        assert config is not None
        found = {Role.CLIP_L: config.clip_l, Role.CLIP_G: config.clip_g, Role.T5XXL: config.t5xxl}
        assert {role for role, part in found.items() if part is None} == set(roles)
        built = FAMILY.modules(config)[Module.TE].build()
        assert {name for name, _ in built.named_children()} == {role.value for role in companions}

    def test_but_not_all(self) -> None:
        message = self.message({Role.VAE: "sd3_vae-diffusers"})
        assert message.startswith("Stable Diffusion 3: all text encoders are missing")
        assert all(part in message for part in ("--clip_l", "--clip_g", "--t5xxl", "clip_g.safetensors"))

    def test_missing_autoencoder(self) -> None:
        message = self.message(ENCODERS)
        assert "autoencoder" in message
        assert "--vae" in message

    @pytest.mark.parametrize(
        ("role", "name", "words"),
        [
            (Role.CLIP_L, "clip_g-comfyui", ["--clip_l: this is OpenCLIP-bigG", "needs the CLIP-L"]),
            (Role.CLIP_G, "clip_l-comfyui", ["--clip_g: this is CLIP-L", "needs the CLIP-G"]),
            (Role.CLIP_G, "t5xxl-comfyui", ["--clip_g: this is T5-XXL", "needs the CLIP-G"]),
            (Role.T5XXL, "clip_l-comfyui", ["--t5xxl: this is CLIP-L", "needs the T5-XXL"]),
        ],
    )
    def test_wrong_encoders(self, role: Role, name: str, words: list[str]) -> None:
        message = self.message({**BESIDE_DIFFUSION, role: name})
        assert all(word in message for word in words), message

    @pytest.mark.parametrize(
        ("role", "name"), [(Role.CLIP_L, "clip_g-comfyui"), (Role.CLIP_G, "clip_l-comfyui")]
    )
    def test_wrong_encoders_alone(self, role: Role, name: str) -> None:
        message = self.message({Role.VAE: "sd3_vae-diffusers", role: name})
        assert f"{role.flag}: this is" in message

    def test_umt5(self) -> None:
        bias = "text_encoders.t5xxl.encoder.block.{}.layer.0.SelfAttention.relative_attention_bias.weight"
        index = together("sd3_medium-original", ENCODERS)
        others = [TensorInfo(bias.format(i), (32, 64), "f16") for i in range(1, 24)]
        with pytest.raises(CheckpointError, match=r"--t5xxl: this is .* needs the T5-XXL v1\.1"):
            FAMILY.detect(TensorIndex([*index.values(), *others]))

    def test_an_autoencoder_of_four_channels(self) -> None:
        index = together("sd3_medium-all_in_one", {})
        narrow = TensorInfo("first_stage_model.decoder.conv_in.weight", (512, 4, 3, 3), "f16")
        with pytest.raises(CheckpointError, match=r"--vae: this is a KL autoencoder with 4 latent channels"):
            FAMILY.detect(TensorIndex([*index.values(), narrow]))


def test_a_broken_file_is_told() -> None:
    index = together("sd3_medium-all_in_one", {})
    name = "final_layer.linear.weight"
    with pytest.raises(CheckpointError, match=f"lacks model.diffusion_model.{name}; a complete file"):
        FAMILY.detect(TensorIndex(info for info in index.values() if not info.name.endswith(name)))
    odd = TensorInfo("model.diffusion_model.x_embedder.proj.weight", (1536, 64), "f16")
    with pytest.raises(CheckpointError, match="has tensors of other shapes than Stable Diffusion 3's"):
        FAMILY.detect(TensorIndex([*index.values(), odd]))
