"""CLIP's text transformer against transformers on the same random weights."""

from __future__ import annotations

import pytest
import torch
from tests.comparison import relative_error
from torch import Tensor
from transformers import CLIPTextConfig as ReferenceConfig
from transformers import CLIPTextModel as ReferenceModel
from transformers import CLIPTextModelWithProjection as ReferenceWithProjection

from darkroom.nets.te.clip import EOS, CLIPTextConfig, CLIPTextModel, encode_chunks

VOCAB = 99


def reference_model(activation: str, layers: int = 3) -> ReferenceModel:
    torch.manual_seed(0)
    config = ReferenceConfig(
        vocab_size=VOCAB,
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=layers,
        num_attention_heads=2,
        hidden_act=activation,
        attn_implementation="eager",
    )
    model = ReferenceModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3 if parameter.ndim == 1 else 0.1)
    return model


def native_state(reference: ReferenceModel) -> dict[str, Tensor]:
    """Weights under the names that checkpoints have, whatever transformers calls them today."""
    state = {name: tensor for name, tensor in reference.state_dict().items() if "position_ids" not in name}
    return {name if name.startswith("text_model.") else f"text_model.{name}": t for name, t in state.items()}


def our_model(reference: ReferenceModel, activation: str) -> CLIPTextModel:
    state = native_state(reference)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    with torch.device("meta"):
        net = CLIPTextModel(CLIPTextConfig.from_shapes(shapes, activation))  # type: ignore[arg-type]
    net.load_state_dict(state, assign=True, strict=True)
    return net.eval()


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(0, VOCAB, (3, 77), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("clip_skip", [1, 2, 3])
@torch.no_grad()
def test_equals_transformers(activation: str, clip_skip: int, tokens: Tensor) -> None:
    reference = reference_model(activation)
    out = reference(tokens, output_hidden_states=True)
    norm = getattr(reference, "text_model", reference).final_layer_norm
    expected = norm(out.hidden_states[-clip_skip])
    assert relative_error(our_model(reference, activation)(tokens, clip_skip), expected) < 1e-5


@pytest.mark.parametrize("clip_skip", [1, 2, 3])
@torch.no_grad()
def test_hidden_and_pooled_equal_transformers(clip_skip: int) -> None:
    torch.manual_seed(0)
    reference = ReferenceWithProjection(
        ReferenceConfig(
            vocab_size=EOS + 1,
            hidden_size=128,
            intermediate_size=320,
            num_hidden_layers=3,
            num_attention_heads=2,
            hidden_act="gelu",
            projection_dim=48,
            eos_token_id=EOS,
        )
    ).eval()
    for parameter in reference.parameters():
        parameter.normal_(std=0.3 if parameter.ndim == 1 else 0.1)
    state = {name: t for name, t in reference.state_dict().items() if "position_ids" not in name}
    net = CLIPTextModel(CLIPTextConfig.from_shapes({n: tuple(t.shape) for n, t in state.items()}, "gelu"))
    net.load_state_dict(state, strict=True)
    tokens = torch.randint(0, EOS, (3, 77))
    tokens[0, 5:], tokens[1, 76] = EOS, EOS  # one row is padded with EOS, one is full,
    tokens[2, 7], tokens[2, 8:] = EOS, 0  # and one is padded with another token

    out = reference(tokens, output_hidden_states=True)
    hidden, pooled = net.hidden_and_pooled(tokens, clip_skip)

    assert relative_error(hidden, out.hidden_states[-clip_skip]) < 1e-5
    assert relative_error(pooled, out.text_embeds) < 1e-5
    plain = net.hidden_and_pooled(tokens, clip_skip, project=False)[1]
    assert relative_error(net.text_projection(plain), out.text_embeds) < 1e-5
    assert torch.equal(plain, net(tokens)[torch.arange(3), torch.tensor([5, 76, 7])])


def test_config_is_read_from_shapes() -> None:
    shapes = {name: tuple(t.shape) for name, t in native_state(reference_model("gelu", layers=2)).items()}
    assert CLIPTextConfig.from_shapes(shapes, "gelu") == CLIPTextConfig(VOCAB, 77, 128, 320, 2, 2, "gelu")


@pytest.mark.parametrize(
    ("width", "heads"), [(32, 1), (64, 1), (96, 1), (200, 2), (768, 12), (1024, 16), (1280, 20)]
)
def test_heads_are_64_wide(width: int, heads: int) -> None:
    shapes = {
        "text_model.embeddings.token_embedding.weight": (VOCAB, width),
        "text_model.embeddings.position_embedding.weight": (77, width),
        "text_model.encoder.layers.0.mlp.fc1.weight": (4 * width, width),
    }
    assert CLIPTextConfig.from_shapes(shapes, "gelu").num_heads == heads


@torch.no_grad()
def test_extra_embeddings_stand_for_ids_past_the_vocabulary(tokens: Tensor) -> None:
    net = our_model(reference_model("gelu"), "gelu")
    table = net.text_model.embeddings.token_embedding.weight
    aliased = tokens.clone()
    aliased[0, 5], aliased[2, 7] = VOCAB, VOCAB + 1
    extra = table[torch.stack([tokens[0, 5], tokens[2, 7]])]
    torch.testing.assert_close(net(aliased, 1, extra), net(tokens), rtol=0, atol=0)


def test_trains() -> None:
    config = CLIPTextConfig(VOCAB, 77, 64, 128, 2, 1)
    net = CLIPTextModel(config)
    net(torch.zeros(1, 77, dtype=torch.long)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


class TestWeights:
    @pytest.fixture
    def net(self) -> CLIPTextModel:
        return our_model(reference_model("gelu"), "gelu")

    @torch.no_grad()
    def test_ones_change_nothing(self, net: CLIPTextModel, tokens: Tensor) -> None:
        assert torch.equal(encode_chunks(net, tokens, torch.ones(3, 77)), net(tokens))

    @torch.no_grad()
    def test_mean_of_each_chunk_is_kept(self, net: CLIPTextModel, tokens: Tensor) -> None:
        weights = torch.ones(3, 77)
        weights[0, 3:9], weights[2, 5] = 1.4, 0.3
        hidden = net(tokens)
        out = encode_chunks(net, tokens, weights)
        scaled = hidden[0] * weights[0][:, None]
        expected = scaled * (hidden[0].mean() / scaled.mean())
        assert relative_error(out[0], expected) < 1e-5
        assert torch.equal(out[1], hidden[1])
        torch.testing.assert_close(out.mean(dim=(1, 2)), hidden.mean(dim=(1, 2)), rtol=1e-3, atol=1e-6)

    @torch.no_grad()
    def test_all_zero_weights_give_zeros(self, net: CLIPTextModel, tokens: Tensor) -> None:
        assert not encode_chunks(net, tokens, torch.zeros(3, 77)).any()
