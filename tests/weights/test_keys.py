from __future__ import annotations

import pytest
import torch
from torch import Tensor

from darkroom.api.errors import CheckpointError
from darkroom.quant.packed import PackedTensor
from darkroom.weights.index import TensorIndex, TensorInfo
from darkroom.weights.keys import (
    Derived,
    Drop,
    Join,
    KeyRules,
    LeadingAxis,
    Rename,
    Rule,
    SplitRows,
    ToConv,
    ToLinear,
    Transpose,
)


def index(**shapes: tuple[int, ...]) -> TensorIndex:
    return TensorIndex(TensorInfo(name.replace("__", "."), shape, "f32") for name, shape in shapes.items())


def made(rule: Rule, name: str, tensor: Tensor | PackedTensor) -> dict[str, Tensor | PackedTensor]:
    """What `rule` makes of one tensor, by native name; its shape must be the one promised."""
    view = KeyRules((rule,)).apply(TensorIndex([TensorInfo(name, tuple(tensor.shape), "f32")]))
    result = {native: recipe.make(tensor) for native, recipe in view.recipes.items()}
    assert {native: tuple(t.shape) for native, t in result.items()} == view.index.shapes()
    return result


def test_rename_uses_groups_and_functions() -> None:
    rules = KeyRules(
        (
            Rename(r"^unet\.", "model.diffusion_model."),
            Rename(r"down\.(\d+)\.(\d+)", lambda m: f"input_blocks.{3 * int(m[1]) + int(m[2]) + 1}"),
        )
    )
    native = rules.apply(index(unet__down__1__1=(4,), unet__out=(2,))).index
    assert list(native) == ["model.diffusion_model.input_blocks.5", "model.diffusion_model.out"]


def test_split_rows_gives_equal_parts_in_order() -> None:
    fused = torch.arange(36.0).view(9, 4)
    parts = made(SplitRows(r"(.*)\.in_proj", (r"\1.q", r"\1.k", r"\1.v")), "attn.in_proj", fused)
    assert list(parts) == ["attn.q", "attn.k", "attn.v"]
    assert torch.equal(parts["attn.k"], fused[3:6])


def test_split_rows_of_packed_blocks_stay_packed() -> None:
    fused = PackedTensor.encode(torch.randn(9, 32), "q8_0")
    part = made(SplitRows("in_proj", ("q", "k", "v")), "in_proj", fused)["v"]
    assert isinstance(part, PackedTensor)
    assert torch.equal(part.decode(torch.float32), fused.decode(torch.float32)[6:])


def test_rows_that_do_not_divide_are_an_error_with_the_files_name() -> None:
    with pytest.raises(CheckpointError, match=r"attn.in_proj: 10 rows cannot be split into 3 equal parts"):
        KeyRules((Rename("^x", "attn"), SplitRows("attn.in_proj", ("q", "k", "v")))).apply(
            TensorIndex([TensorInfo("attn.in_proj", (10, 4), "f32")])
        )


QKV = Join((r"(\w+)\.q", r"(\w+)\.k", r"(\w+)\.v"), r"\1.qkv")


def joined(rule: Rule, tensors: dict[str, Tensor | PackedTensor]) -> dict[str, Tensor | PackedTensor]:
    infos = (TensorInfo(name, tuple(t.shape), "f32") for name, t in tensors.items())
    view = KeyRules((rule,)).apply(TensorIndex(infos))
    result = {
        name: recipe.make(*(tensors[source.name] for source in recipe.sources))
        for name, recipe in view.recipes.items()
    }
    assert {native: tuple(t.shape) for native, t in result.items()} == view.index.shapes()
    return result


def test_join_puts_rows_together_in_the_order_of_its_patterns() -> None:
    parts = {f"a.{part}": torch.randn(rows, 4) for part, rows in (("v", 2), ("q", 6), ("k", 2))}
    made = joined(QKV, parts | {"b.q": torch.zeros(1)})
    assert list(made) == ["a.qkv", "b.q"]
    assert torch.equal(made["a.qkv"], torch.cat([parts["a.q"], parts["a.k"], parts["a.v"]]))


def test_join_along_a_new_axis() -> None:
    first, second = torch.randn(5, 3, 2, 2), torch.randn(5, 3, 2, 2)
    made = joined(Join(("w", r"w\.1"), "proj", axis=2, stack=True), {"w": first, "w.1": second})
    assert torch.equal(made["proj"], torch.stack([first, second], dim=2))


def test_join_of_packed_blocks_stays_packed() -> None:
    parts = {f"a.{part}": PackedTensor.encode(torch.randn(3, 32), "q8_0") for part in "qkv"}
    made = joined(QKV, parts)["a.qkv"]
    assert isinstance(made, PackedTensor)
    whole = torch.cat([part.decode(torch.float32) for part in parts.values()])
    assert torch.equal(made.decode(torch.float32), whole)


def test_join_of_differently_packed_tensors_is_decoded() -> None:
    parts = {
        "a.q": PackedTensor.encode(torch.randn(3, 32), "q8_0"),
        "a.k": PackedTensor.encode(torch.randn(3, 32), "q4_0"),
        "a.v": torch.randn(3, 32),
    }
    made = joined(QKV, parts)["a.qkv"]
    assert isinstance(made, Tensor)
    assert torch.equal(made[3:6], parts["a.k"].decode(torch.float32))
    assert torch.equal(made[6:], parts["a.v"])


def test_what_was_joined_can_be_split() -> None:
    parts = {f"a.{part}": torch.randn(2, 4) for part in "qkv"}
    infos = [TensorInfo(name, (2, 4), "f32") for name in parts]
    view = KeyRules((QKV, SplitRows(r"a\.qkv", ("x", "y")))).apply(TensorIndex(infos))
    assert torch.equal(view.recipes["y"].make(*parts.values()), torch.cat(list(parts.values()))[3:])


def test_parts_that_do_not_fit_are_an_error_with_the_files_names() -> None:
    with pytest.raises(CheckpointError, match=r"a\.q: shape \[2, 4\] cannot be joined with a\.k \[2, 5\]"):
        KeyRules((QKV,)).apply(index(a__q=(2, 4), a__k=(2, 5), a__v=(2, 4)))


def test_a_matrix_becomes_a_1x1_convolution_and_is_renamed() -> None:
    matrix = torch.arange(6.0).view(2, 3)
    conv = made(ToConv("(.*)_q", r"\1.weight"), "to_q", matrix)["to.weight"]
    assert conv.shape == (2, 3, 1, 1)
    assert isinstance(conv, Tensor)
    assert torch.equal(conv[:, :, 0, 0], matrix)


def test_a_3x3_convolution_is_left_as_it_is() -> None:
    assert made(ToConv("w"), "w", torch.zeros(2, 3, 3, 3))["w"].shape == (2, 3, 3, 3)


def test_a_1x1_convolution_becomes_a_matrix() -> None:
    conv = torch.arange(6.0).view(2, 3, 1, 1)
    matrix = made(ToLinear("w"), "w", conv)["w"]
    assert isinstance(matrix, Tensor)
    assert torch.equal(matrix, conv[:, :, 0, 0])
    assert made(ToLinear("w"), "w", matrix)["w"].shape == (2, 3)
    assert made(ToLinear("w"), "w", torch.zeros(2, 3, 3, 3))["w"].shape == (2, 3, 3, 3)
    assert made(ToLinear("w"), "v", conv)["v"].shape == (2, 3, 1, 1)


def test_a_leading_axis_is_given_back_where_it_is_missing() -> None:
    rule, vector = LeadingAxis("w", axes=2), torch.tensor([1.0, 2.0])
    assert torch.equal(made(rule, "w", vector)["w"], vector[None])
    assert torch.equal(made(rule, "w", vector[None])["w"], vector[None])
    assert torch.equal(made(rule, "ww", vector)["ww"], vector)


def test_drop_leaves_tensors_out() -> None:
    assert list(KeyRules((Drop("^model_ema"),)).apply(index(model_ema__a=(1,), a=(1,))).index) == ["a"]


def test_derived_rules_see_the_names_before_them() -> None:
    def reversed_levels(shapes: object) -> tuple[Rule, ...]:
        levels = len(list(shapes))
        return (Rename(r"up\.(\d)", lambda m: f"level.{levels - 1 - int(m[1])}"),)

    rules = KeyRules((Rename("^u", "up"), Derived(reversed_levels)))
    assert list(rules.apply(index(u__0=(1,), u__1=(1,), u__2=(1,))).index) == [
        "level.2",
        "level.1",
        "level.0",
    ]


def test_two_tensors_of_one_name_are_an_error_that_names_both() -> None:
    with pytest.raises(CheckpointError, match=r"vae\.x and first_stage_model\.x are both this tensor"):
        KeyRules((Rename(r"^vae\.", "first_stage_model."),)).apply(
            index(vae__x=(1,), first_stage_model__x=(1,))
        )


def test_transpose_turns_a_matrix_packed_or_not() -> None:
    matrix = torch.randn(4, 32)
    rule = Transpose(r"(.*)text_projection", r"\1text_projection.weight")
    assert torch.equal(made(rule, "te.text_projection", matrix)["te.text_projection.weight"], matrix.mT)
    packed = PackedTensor.encode(matrix, "q8_0")
    turned = made(rule, "te.text_projection", packed)["te.text_projection.weight"]
    assert torch.equal(turned, packed.decode(torch.float32).mT)


def test_transpose_takes_matrices_only() -> None:
    with pytest.raises(CheckpointError, match=r"p: shape \[4\] cannot be turned; expected a matrix"):
        made(Transpose("p", "p.weight"), "p", torch.zeros(4))
