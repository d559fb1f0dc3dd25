"""Spellings: networks loaded through the rules compute what diffusers' own compute."""

from __future__ import annotations

import pytest
import torch
from tests.families.reference import folders
from tests.families.sd3.reference import FOLDERS, native, pipeline

from darkroom.families.sd3.keys import RULES
from darkroom.families.sd3.model import MMDiT, MMDiTConfig
from darkroom.weights.dit_names import NET
from darkroom.weights.index import TensorIndex, TensorInfo


@pytest.mark.parametrize("is_3_5", [False, True], ids=["3", "3.5"])
@torch.no_grad()
def test_diffusers_names(is_3_5: bool) -> None:
    pipe = pipeline(is_3_5=is_3_5)
    state = {name.removeprefix(NET): t for name, t in native(pipe).items() if name.startswith(NET)}
    config = MMDiTConfig.from_shapes({name: tuple(t.shape) for name, t in state.items()})
    with torch.device("meta"):
        net = MMDiT(config)
    net.load_state_dict(state, strict=True, assign=True)
    torch.manual_seed(2)
    x, t, y = torch.randn(2, 16, 10, 16), torch.tensor([1000.0, 30.0]), torch.randn(2, config.vector_dim)
    context = torch.randn(2, 9, config.context_dim)

    expected = pipe.transformer(x, context, y, t).sample

    assert (net(x, t, context, y) - expected).abs().max() / expected.abs().max() < 1e-5


def names(*tensors: TensorInfo) -> list[str]:
    return [*RULES.apply(TensorIndex(tensors)).index]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("joint_blocks.0.x_block.attn.qkv.weight", f"{NET}joint_blocks.0.x_block.attn.qkv.weight"),
        ("pos_embed", f"{NET}pos_embed"),
        ("diffusion_model.pos_embed", f"{NET}pos_embed"),
        ("model.diffusion_model.pos_embed", f"{NET}pos_embed"),
        ("vae.encoder.conv_in.weight", "first_stage_model.encoder.conv_in.weight"),
        ("text_encoders.clip_l.transformer.text_model.final_layer_norm.bias",
         "text_encoders.clip_l.text_model.final_layer_norm.bias"),
        ("text_encoders.clip_g.transformer.text_projection.weight",
         "text_encoders.clip_g.text_projection.weight"),
        ("text_encoders.t5xxl.transformer.shared.weight", "text_encoders.t5xxl.shared.weight"),
        ("te2.text_model.final_layer_norm.bias", "text_encoders.clip_g.text_model.final_layer_norm.bias"),
        ("te3.shared.weight", "text_encoders.t5xxl.shared.weight"),
    ],
)  # fmt: skip
def test_places(theirs: str, ours: str) -> None:
    assert names(TensorInfo(theirs, (1, 4, 4), "f16")) == [ours]


def test_names_of_other_diffusers_models_are_left_alone() -> None:
    """Qwen-Image, Flux and others have transformer_blocks, too."""
    assert names(TensorInfo("transformer_blocks.0.attn.to_q.weight", (4, 4), "f16")) == [
        f"{NET}transformer_blocks.0.attn.to_q.weight"
    ]


def test_positions_without_their_first_axis() -> None:
    view = RULES.apply(TensorIndex([TensorInfo("model.diffusion_model.pos_embed", (36, 8), "f16")]))
    recipe = view.recipes[f"{NET}pos_embed"]
    positions = torch.randn(36, 8)
    made = recipe.make(positions)
    assert isinstance(made, torch.Tensor)
    assert torch.equal(made, positions[None])


def test_nothing_of_a_folder_is_lost() -> None:
    pipe = pipeline(is_3_5=True)
    theirs, ours = folders(pipe, FOLDERS), native(pipe)
    roots = ("model.diffusion_model.", "first_stage_model.", "text_encoders.")
    assert all(name.startswith(roots) for name in ours)
    twice = pipe.text_encoder_3.shared.weight.numel()  # T5's table has two names
    assert sum(t.numel() for t in theirs.values()) - twice == sum(t.numel() for t in ours.values())
