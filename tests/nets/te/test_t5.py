"""T5's encoder against transformers on the same random weights."""

from __future__ import annotations

import pytest
import torch
from tests.comparison import relative_error
from torch import Tensor
from transformers import PreTrainedModel
from transformers import T5Config as ReferenceConfig
from transformers import T5EncoderModel as ReferenceT5
from transformers import UMT5Config as ReferenceUMT5Config
from transformers import UMT5EncoderModel as ReferenceUMT5
from transformers.models.t5.modeling_t5 import T5Attention as ReferenceAttention

from darkroom.layers.joint import join_weights
from darkroom.nets.te.t5 import T5Config, T5EncoderModel, position_buckets

VOCAB = 99
LENGTH = 150  # long enough for every bucket

KINDS = {"t5": (ReferenceT5, ReferenceConfig), "umt5": (ReferenceUMT5, ReferenceUMT5Config)}


def reference_model(kind: str) -> PreTrainedModel:
    """Published models project onto 64 channels for each head, which need not be the model's width."""
    torch.manual_seed(0)
    model_type, config_type = KINDS[kind]
    config = config_type(
        vocab_size=VOCAB,
        d_model=48,
        d_kv=64,
        d_ff=80,
        num_layers=3,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        attn_implementation="eager",
    )
    model = model_type(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=1.0 if "relative" in name or "shared" in name else 0.15)
            if "layer_norm" in name:
                parameter += 1
            elif ".q." in name:
                parameter /= 8  # scores are not scaled; training starts from such queries
    return model


def our_model(reference: PreTrainedModel, dtype: torch.dtype = torch.float32) -> T5EncoderModel:
    state = {n: t.to(dtype) for n, t in reference.state_dict().items() if "embed_tokens" not in n}
    with torch.device("meta"):
        net = T5EncoderModel(T5Config.from_shapes({name: tuple(t.shape) for name, t in state.items()}))
    net.load_state_dict(state, assign=True, strict=True)
    return net.eval()


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(0, VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def mask() -> Tensor:
    """A padded prompt, and one that fills its row."""
    return torch.arange(LENGTH)[None] < torch.tensor([[21], [LENGTH]])


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_equals_transformers(kind: str, tokens: Tensor, mask: Tensor) -> None:
    reference = reference_model(kind)
    net = our_model(reference)
    assert relative_error(net(tokens), reference(tokens).last_hidden_state) < 1e-5
    masked = reference(tokens, attention_mask=mask).last_hidden_state
    assert relative_error(net(tokens, mask), masked) < 1e-5
    assert relative_error(net(tokens), masked) > 1e-2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
@torch.no_grad()
def test_half_types(kind: str, dtype: torch.dtype, tolerance: float, tokens: Tensor, mask: Tensor) -> None:
    reference = reference_model(kind)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.copy_(parameter.to(dtype))
    out = our_model(reference, dtype)(tokens, mask)
    assert out.dtype == dtype
    expected = reference(tokens, attention_mask=mask).last_hidden_state
    error = (out.float() - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert error < tolerance


@torch.no_grad()
def test_float16_bears_what_overflows_it(tokens: Tensor) -> None:
    reference = reference_model("t5")
    for block in reference.encoder.block:
        block.layer[1].DenseReluDense.wo.weight *= 40_000
    expected = reference(tokens, output_hidden_states=True)
    assert expected.hidden_states[1].abs().max() > 2 * torch.finfo(torch.float16).max
    out = our_model(reference, torch.float16)(tokens).float()
    assert relative_error(out, expected.last_hidden_state) < 2e-2


@torch.no_grad()
def test_projections_side_by_side_change_nothing(tokens: Tensor) -> None:
    net = our_model(reference_model("t5"))
    expected = net(tokens)
    join_weights(net)
    torch.testing.assert_close(net(tokens), expected)


@torch.no_grad()
def test_a_mask_that_hides_all_gives_numbers(tokens: Tensor) -> None:
    net = our_model(reference_model("t5"))
    assert net(tokens, torch.zeros(2, LENGTH, dtype=torch.bool)).isfinite().all()


@pytest.mark.parametrize("num_buckets", [8, 32])
def test_buckets_are_transformers(num_buckets: int) -> None:
    positions = torch.arange(600)
    expected = ReferenceAttention._relative_position_bucket(
        positions[None] - positions[:, None], num_buckets=num_buckets
    )
    assert torch.equal(position_buckets(600, num_buckets, torch.device("cpu")), expected)


def test_config_is_read_from_shapes() -> None:
    shapes = {name: tuple(t.shape) for name, t in reference_model("umt5").state_dict().items()}
    assert T5Config.from_shapes(shapes) == T5Config(VOCAB, 48, 80, 128, 3, 2, 32, bias_in_every_block=True)
    del shapes["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"]
    with pytest.raises(KeyError):
        T5Config.from_shapes(shapes)


def test_trains() -> None:
    net = T5EncoderModel(T5Config(VOCAB, 48, 80, 128, 2, 2, 32))
    net(torch.zeros(1, 20, dtype=torch.long)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
