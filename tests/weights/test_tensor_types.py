from __future__ import annotations

import logging

import pytest

from darkroom.api.errors import RequestError
from darkroom.api.names import WeightType
from darkroom.quant.gguf import ENCODERS
from darkroom.weights.index import TensorInfo
from darkroom.weights.tensor_types import TypeRules


def wanted(rules: TypeRules, name: str, *shape: int, dtype: str = "f16") -> str:
    return rules.wanted(TensorInfo(name, shape or (64, 256), dtype))


def test_every_type_that_can_be_encoded_can_be_asked_for() -> None:
    assert {type.dtype for type in WeightType} == {"f32", "f16", "bf16", *ENCODERS}
    assert WeightType("Q4_k") is WeightType("q4_K")


def test_the_first_rule_that_matches_wins_over_the_type() -> None:
    rules = TypeRules.parse(WeightType.Q8_0, r"^vae\.=f16,block=q4_K,blocks\.0=f32")
    assert wanted(rules, "vae.block.weight") == "f16"
    assert wanted(rules, "net.blocks.0.weight", dtype="bf16") == "q4_k"
    assert wanted(rules, "net.other.weight") == "q8_0"
    assert rules.types == {"q8_0", "f16", "q4_k", "f32"}


def test_without_a_type_only_rules_change_anything() -> None:
    rules = TypeRules.parse(None, "attn=q5_0")
    assert wanted(rules, "attn.weight") == "q5_0"
    assert wanted(rules, "mlp.weight") == "f16"
    assert not TypeRules.parse(None, "")


@pytest.mark.parametrize(
    "name",
    [
        "a.bias", "norm.scale", "a.weight_scale", "img_in.weight", "txt_in.weight", "time_in.in_layer.weight",
        "vector_in.x", "guidance_in.x", "final_layer.linear.weight", "x_embedder.proj.weight",
        "t_embedder.mlp.0.weight", "y_embedder.mlp.0.weight", "pos_embed", "context_embedder.weight",
        "time_embed.0.weight", "label_emb.0.0.weight", "embeddings.token_embedding.weight",
    ],
)  # fmt: skip
def test_small_and_sensitive_tensors_keep_their_type(name: str) -> None:
    assert wanted(TypeRules.parse(WeightType.Q8_0, ""), name, dtype="f32") == "f32"
    assert wanted(TypeRules.parse(None, f"{name}=f16"), name, dtype="f32") == "f32"


def test_rows_must_be_whole_blocks() -> None:
    assert wanted(TypeRules("q8_0"), "a.weight", 4, 33) == "f16"
    assert wanted(TypeRules("q8_0"), "a.weight", 256, 32) == "q8_0"
    assert wanted(TypeRules("q4_k"), "a.weight", 256, 32) == "f16"
    assert wanted(TypeRules("bf16"), "conv.weight", 8, 4, 3, 3) == "bf16"
    assert TypeRules("q8_0").wanted(TensorInfo("scalar", (), "f32")) == "f32"


@pytest.mark.parametrize("dtype", ["i32", "i64", "u8", "bool"])
def test_whole_numbers_stay(dtype: str) -> None:
    assert wanted(TypeRules("q8_0"), "a.weight", dtype=dtype) == dtype


@pytest.mark.parametrize("dtype", ["f8_e4m3", "q4_0", "iq2_xxs", "f64"])
def test_quantized_weights_are_converted(dtype: str) -> None:
    assert wanted(TypeRules("q8_0"), "a.weight", dtype=dtype) == "q8_0"


@pytest.mark.parametrize("item", ["no_equals_sign", "a=q9_9", "a=", "a=iq2_xxs"])
def test_what_is_no_rule_is_named_and_left_out(item: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        rules = TypeRules.parse(None, f"{item},b=q8_0")
    assert caplog.messages == [f'ignoring invalid quant override "{item}"']
    assert [name for _, name in rules.rules] == ["q8_0"]


def test_a_broken_pattern_is_an_error() -> None:
    with pytest.raises(RequestError, match=r"--tensor-type-rules: '\(' is no regular expression"):
        TypeRules.parse(None, "(=q8_0")
