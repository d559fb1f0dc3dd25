"""Qwen's decoders against transformers on the same random weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.comparison import relative_error
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLModel, Qwen3Config, Qwen3Model

from darkroom.nets.te.qwen import QwenConfig, QwenTextModel, image_positions

VOCAB, IMAGE, START = 99, 90, 91
THETA = {"rope_type": "default", "rope_theta": 1e6}


def shaken(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3 if parameter.ndim == 1 else 0.1)
    return model.eval()


def qwen3() -> Qwen3Model:
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=16,
        rms_norm_eps=1e-6,
        rope_parameters=THETA,
    )
    return shaken(Qwen3Model(config))


def qwen2_5() -> Qwen2_5_VLModel:
    """One 64 wide head of keys for four of queries; images are of 2x2 patches to a token."""
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": VOCAB,
            "hidden_size": 256,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "rms_norm_eps": 1e-6,
            "rope_parameters": THETA | {"mrope_section": [8, 12, 12]},
        },
        vision_config={"depth": 1, "hidden_size": 16, "num_heads": 1, "out_hidden_size": 256},
        image_token_id=IMAGE,
        vision_start_token_id=START,
    )
    return shaken(Qwen2_5_VLModel(config))


def ours(reference: nn.Module, **changes: int) -> QwenTextModel:
    state = {f"model.{name}": tensor for name, tensor in reference.state_dict().items()}
    config = QwenConfig.from_shapes({name: tuple(tensor.shape) for name, tensor in state.items()})
    with torch.device("meta"):
        net = QwenTextModel(replace(config, **changes))
    net.load_state_dict(state, assign=True, strict=True)
    return net.eval()


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(0, IMAGE, (2, 23), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def mask() -> Tensor:
    return torch.arange(23) < torch.tensor([[23], [15]])


@pytest.mark.parametrize("layer", [-1, -2, 0, 1])
@pytest.mark.parametrize("build", [qwen3, lambda: qwen2_5().language_model], ids=["qwen3", "qwen2.5"])
@torch.no_grad()
def test_equals_transformers(build, layer: int, tokens: Tensor, mask: Tensor) -> None:
    reference = build()
    out = reference(tokens, attention_mask=mask.long(), output_hidden_states=True)
    actual = ours(reference)(tokens, mask, layer=layer)
    assert relative_error(actual[mask], out.hidden_states[layer][mask]) < 1e-5


@torch.no_grad()
def test_padding_changes_nothing(tokens: Tensor, mask: Tensor) -> None:
    net = ours(qwen3())
    torch.testing.assert_close(net(tokens, mask)[1, :15], net(tokens[1:, :15])[0])


@torch.no_grad()
def test_blocks_past_the_layer_are_not_run(tokens: Tensor) -> None:
    net = ours(qwen3())
    expected = net(tokens, layer=-2)
    del net.model.layers[2].mlp, net.model.norm
    assert torch.equal(net(tokens, layer=-2), expected)


def prompt() -> tuple[list[int], list[tuple[int, int]]]:
    """Text, a tall image, text, a wide one, text."""
    grids = [(4, 2), (2, 3)]
    images = [[START, *[IMAGE] * rows * columns] for rows, columns in grids]
    return [1, 2, 3, *images[0], 4, 5, *images[1], 6], grids


def test_positions_of_images_equal_transformers() -> None:
    tokens, grids = prompt()
    ids = torch.tensor([tokens])
    expected, _ = qwen2_5().get_rope_index(
        ids,
        mm_token_type_ids=(ids == IMAGE).int(),
        image_grid_thw=torch.tensor([[1, 2 * rows, 2 * columns] for rows, columns in grids]),
    )
    assert torch.equal(image_positions(tokens, grids, IMAGE), expected[:, 0])


@torch.no_grad()
def test_images_equal_transformers() -> None:
    tokens, grids = prompt()
    reference = qwen2_5()
    ids = torch.tensor([tokens])
    images = torch.randn(sum(rows * columns for rows, columns in grids), 256)
    embeds = reference.language_model.embed_tokens(ids)
    embeds[ids == IMAGE] = images
    positions = image_positions(tokens, grids, IMAGE)[:, None]
    expected = reference.language_model(inputs_embeds=embeds, position_ids=positions).last_hidden_state
    actual = ours(reference.language_model, image_token=IMAGE)(ids, images=images, positions=positions)
    assert relative_error(actual, expected) < 1e-5


def test_architectures_are_read_from_shapes() -> None:
    assert ours(qwen3()).config == QwenConfig(VOCAB, 64, 96, 3, 6, 2, 16, has_bias=False, has_qk_norm=True)
    assert ours(qwen2_5().language_model).config == QwenConfig(
        VOCAB, 256, 96, 3, 4, 1, 64, has_bias=True, has_qk_norm=False
    )


def test_published_models_are_read_from_shapes() -> None:
    """Qwen2.5-VL 7B, whose heads no tensor tells, and the widths of its frequencies' sections."""
    shapes = {
        "model.embed_tokens.weight": (152064, 3584),
        "model.layers.27.self_attn.q_proj.weight": (3584, 3584),
        "model.layers.0.self_attn.q_proj.weight": (3584, 3584),
        "model.layers.0.self_attn.q_proj.bias": (3584,),
        "model.layers.0.self_attn.k_proj.weight": (512, 3584),
        "model.layers.0.mlp.gate_proj.weight": (18944, 3584),
    }
    config = QwenConfig.from_shapes(shapes)
    assert (config.num_layers, config.num_heads, config.num_kv_heads, config.head_width) == (28, 28, 4, 128)
    assert config.sections == (16, 24, 24)


def test_no_embeddings_is_an_error_with_the_name() -> None:
    with pytest.raises(KeyError, match=r"model\.embed_tokens\.weight"):
        QwenConfig.from_shapes({})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision(dtype: torch.dtype, tokens: Tensor, mask: Tensor) -> None:
    net = ours(qwen3())
    expected = net(tokens, mask)
    actual = net.to(dtype)(tokens, mask)
    assert actual.dtype == dtype
    assert relative_error(actual[mask].float(), expected[mask]) < 0.05
