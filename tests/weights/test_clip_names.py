"""CLIP's spellings: what the rules make of open_clip's layout and of bare Hugging Face names."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from darkroom.nets.te.clip import EOS, CLIPTextConfig, CLIPTextModel
from darkroom.weights.clip_names import BARE_CLIP, CLIP_G, CLIP_L, OPEN_CLIP
from darkroom.weights.index import TensorIndex, TensorInfo
from darkroom.weights.keys import KeyRules

D, VOCAB, LENGTH, LAYERS, HEADS = 128, 49408, 77, 2, 2


def renamed(state: dict[str, Tensor], rules: KeyRules) -> dict[str, Tensor]:
    view = rules.apply(TensorIndex(TensorInfo(name, tuple(t.shape), "f32") for name, t in state.items()))
    made = {name: recipe.make(state[recipe.source.name]) for name, recipe in view.recipes.items()}
    return {name: tensor for name, tensor in made.items() if isinstance(tensor, Tensor)}


def open_clip_state(prefix: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    state = {
        "token_embedding.weight": torch.randn(VOCAB, D),
        "positional_embedding": torch.randn(LENGTH, D),
        "text_projection": torch.randn(D, D),
        "logit_scale": torch.tensor(4.6),
        "ln_final.weight": torch.randn(D),
        "ln_final.bias": torch.randn(D),
    }
    for i in range(LAYERS):
        shapes = {
            "attn.in_proj_weight": (3 * D, D),
            "attn.in_proj_bias": (3 * D,),
            "attn.out_proj.weight": (D, D),
            "attn.out_proj.bias": (D,),
            "ln_1.weight": (D,),
            "ln_1.bias": (D,),
            "ln_2.weight": (D,),
            "ln_2.bias": (D,),
            "mlp.c_fc.weight": (4 * D, D),
            "mlp.c_fc.bias": (4 * D,),
            "mlp.c_proj.weight": (D, 4 * D),
            "mlp.c_proj.bias": (D,),
        }
        for name, shape in shapes.items():
            state[f"transformer.resblocks.{i}.{name}"] = torch.randn(shape) * 0.1
    return {prefix + name: tensor for name, tensor in state.items()}


def open_clip_forward(state: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """open_clip's text tower on torch's own MultiheadAttention, after which its files are named."""
    mask = torch.full((LENGTH, LENGTH), -torch.inf).triu(1)
    x = state["token_embedding.weight"][tokens] + state["positional_embedding"]
    for i in range(LAYERS):
        block = {
            name.split(f"resblocks.{i}.")[1]: t for name, t in state.items() if f"resblocks.{i}." in name
        }
        attn = torch.nn.MultiheadAttention(D, HEADS, batch_first=True)
        attn.load_state_dict({name[5:]: t for name, t in block.items() if name.startswith("attn.")})
        h = F.layer_norm(x, (D,), block["ln_1.weight"], block["ln_1.bias"])
        x = x + attn(h, h, h, need_weights=False, attn_mask=mask)[0]
        h = F.layer_norm(x, (D,), block["ln_2.weight"], block["ln_2.bias"])
        h = F.gelu(F.linear(h, block["mlp.c_fc.weight"], block["mlp.c_fc.bias"]))
        x = x + F.linear(h, block["mlp.c_proj.weight"], block["mlp.c_proj.bias"])
    return F.layer_norm(x, (D,), state["ln_final.weight"], state["ln_final.bias"])


def our_model(native: dict[str, Tensor]) -> CLIPTextModel:
    shapes = {name: tuple(tensor.shape) for name, tensor in native.items()}
    net = CLIPTextModel(CLIPTextConfig.from_shapes(shapes, "gelu"))
    net.load_state_dict(native, strict=True)
    return net.eval()


@pytest.fixture
def tokens() -> Tensor:
    ids = torch.randint(0, VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    ids[:, 9] = EOS
    return ids


@torch.no_grad()
def test_open_clip_runs_as_hugging_face_clip(tokens: Tensor) -> None:
    state = renamed(open_clip_state("cond_stage_model.model."), OPEN_CLIP)
    net = our_model({name.removeprefix("cond_stage_model.transformer."): t for name, t in state.items()})
    expected = open_clip_forward(open_clip_state(""), tokens)
    torch.testing.assert_close(net(tokens), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "place",
    [
        "conditioner.embedders.1.model.",
        "cond_stage_model.1.model.",
        "text_encoders.clip_g.",
        "text_encoders.clip_g.model.",
        "text_encoders.clip_g.transformer.",
        "clip_g.",
    ],
)
@torch.no_grad()
def test_open_clip_pools_as_open_clip_does(place: str, tokens: Tensor) -> None:
    if place.endswith("transformer."):  # a file of the text tower alone has `transformer.` of its own
        state = {f"text_encoders.clip_g.{name}": tensor for name, tensor in open_clip_state("").items()}
    else:
        state = open_clip_state(place)
    native = renamed(state, CLIP_G)
    net = our_model({name.removeprefix("text_encoders.clip_g."): t for name, t in native.items()})
    plain = open_clip_state("")
    expected = open_clip_forward(plain, tokens)[:, 9] @ plain["text_projection"]
    torch.testing.assert_close(net.hidden_and_pooled(tokens)[1], expected, rtol=1e-4, atol=1e-3)


HUGGING_FACE = [
    "text_model.embeddings.token_embedding.weight",
    "text_model.encoder.layers.0.self_attn.q_proj.weight",
    "text_model.final_layer_norm.bias",
    "text_projection.weight",
]


@pytest.mark.parametrize(
    ("rules", "role", "place"),
    [
        (CLIP_L, "clip_l", place)
        for place in (
            "conditioner.embedders.0.transformer.",
            "cond_stage_model.transformer.",
            "text_encoders.clip_l.transformer.",
            "text_encoders.clip_l.",
            "clip_l.transformer.",
            "clip_l.",
            "te.",
            "te1.",
            "text_encoder.",
        )
    ]
    + [
        (CLIP_G, "clip_g", place)
        for place in (
            "text_encoders.clip_g.transformer.",
            "text_encoders.clip_g.",
            "clip_g.transformer.",
            "clip_g.",
            "te2.",
            "text_encoder_2.",
            "text_encoder.2.",
            "cond_stage_model.1.transformer.",
        )
    ],
)
def test_places_of_hugging_face_names(rules: KeyRules, role: str, place: str) -> None:
    for text_model in ("text_model.", ""):
        names = [place + name.replace("text_model.", text_model) for name in HUGGING_FACE]
        native = renamed({name: torch.zeros(1, 1) for name in names}, rules)
        assert list(native) == [f"text_encoders.{role}.{name}" for name in HUGGING_FACE]


def test_the_other_half_of_a_clip_is_left_out() -> None:
    names = ["vision_model.encoder.layers.0.mlp.fc1.bias", "visual_projection.weight", "logit_scale"]
    state = {f"text_encoders.clip_l.{name}": torch.zeros(1) for name in names}
    assert renamed(state, CLIP_L) == {}


def test_stable_diffusion_cpp_converts_the_projection_unturned() -> None:
    matrix = torch.randn(3, 4)
    state = {"cond_stage_model.1.transformer.text_model.text_projection": matrix}
    native = renamed(state, CLIP_G)
    assert torch.equal(native["text_encoders.clip_g.text_projection.weight"], matrix.mT)


@pytest.mark.parametrize("matrix", ["text_projection", "model.text_projection"])
@pytest.mark.parametrize("layer", ["text_projection.weight", "transformer.text_projection.weight"])
def test_of_two_projections_the_layer_is_taken(matrix: str, layer: str) -> None:
    """SDXL files that ComfyUI saved before and after it called the projection a layer, merged."""
    place = "conditioner.embedders.0."
    state = {place + matrix: torch.zeros(3, 3), place + layer: torch.ones(3, 3)}
    native = renamed(state, CLIP_L)
    assert list(native) == ["text_encoders.clip_l.text_projection.weight"]
    assert native["text_encoders.clip_l.text_projection.weight"].all()


def test_bare_names_get_their_text_model() -> None:
    names = ["embeddings.token_embedding.weight", "encoder.layers.0.mlp.fc1.bias", "final_layer_norm.weight"]
    state = {f"cond_stage_model.transformer.{name}": torch.zeros(1) for name in names}
    assert list(renamed(state, BARE_CLIP)) == [
        f"cond_stage_model.transformer.text_model.{name}" for name in names
    ]


@pytest.mark.parametrize("rules", [OPEN_CLIP, BARE_CLIP, CLIP_L, CLIP_G])
def test_native_names_stay(rules: KeyRules) -> None:
    names = [
        *(
            ["cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight"]
            * (rules is not CLIP_L)
        ),
        "text_encoders.clip_l.text_model.encoder.layers.0.mlp.fc1.weight",
        "text_encoders.clip_g.text_projection.weight",
        "text_encoders.t5xxl.encoder.final_layer_norm.weight",
        "model.diffusion_model.input_blocks.0.0.weight",
        "first_stage_model.encoder.conv_in.weight",
    ]
    assert list(renamed({name: torch.zeros(1) for name in names}, rules)) == names
