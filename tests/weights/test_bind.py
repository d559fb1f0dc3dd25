from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from darkroom.api.errors import CheckpointError
from darkroom.layers.conv import CausalConv3d
from darkroom.layers.linear import Linear
from darkroom.layers.packed_linear import PackedLinear
from darkroom.quant.packed import PackedTensor
from darkroom.weights.bind import bind_weights, bound_bytes
from darkroom.weights.checkpoint import open_checkpoint
from darkroom.weights.source import MemorySource, TensorSource, open_source

CPU = torch.device("cpu")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3)
        self.blocks = nn.ModuleList([Linear(32, 64)])
        self.register_buffer("counts", torch.zeros(3, dtype=torch.int64))


def net() -> Net:
    with torch.device("meta"):
        return Net()


def weights() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    return {
        "conv.weight": torch.randn(8, 4, 3, 3, generator=g),
        "conv.bias": torch.randn(8, generator=g),
        "blocks.0.weight": torch.randn(64, 32, generator=g),
        "blocks.0.bias": torch.randn(64, generator=g),
        "counts": torch.arange(3),
    }


def bind(
    module: nn.Module, source: TensorSource, dtype: torch.dtype = torch.float32, *, keep_packed: bool = False
) -> None:
    bind_weights(module, source, device=CPU, dtype=dtype, subject="unet", keep_packed=keep_packed)


def from_file(path: Path, tensors: dict[str, Tensor]) -> TensorSource:
    save_file(tensors, path)
    return open_source(open_checkpoint(path))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_tensor_arrives_in_the_type_asked_for(dtype: torch.dtype) -> None:
    module = net()
    bind(module, MemorySource(weights()), dtype)
    state = module.state_dict()
    for name, tensor in weights().items():
        expected = tensor.to(dtype) if tensor.is_floating_point() else tensor
        assert state[name].dtype == expected.dtype
        assert torch.equal(state[name], expected)
    assert not any(p.requires_grad for p in module.parameters())
    assert isinstance(module.conv.weight, nn.Parameter)


def test_half_files_are_rounded_once_to_bfloat16() -> None:
    """Values that have no neighbour in bfloat16, subnormal and infinite ones among them."""
    halves = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(torch.float16)
    halves = torch.where(halves.isnan(), 1.0, halves).view(512, 128).half()
    module = nn.Linear(128, 512, bias=False, device="meta")
    bind(module, MemorySource({"weight": halves}), torch.bfloat16)
    assert torch.equal(module.weight, halves.to(torch.bfloat16))


def test_convolutions_are_channels_last_and_nothing_else_is() -> None:
    module = net()
    bind(module, MemorySource(weights()), torch.bfloat16)
    assert module.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert module.blocks[0].weight.is_contiguous()


def test_a_module_may_say_how_its_weight_lies_in_memory() -> None:
    with torch.device("meta"):
        module = CausalConv3d(4, 8, 3)
    weight, bias = torch.randn(8, 4, 3, 3, 3), torch.randn(8)
    bind(module, MemorySource({"weight": weight, "bias": bias}), torch.bfloat16)
    assert torch.equal(module.weight, weight.bfloat16())
    assert module.weight[:, :, -1].is_contiguous(memory_format=torch.channels_last)
    assert module.weight.to("cpu", copy=True).stride() == module.weight.stride()  # nor do moves change it


def test_what_needs_no_change_is_used_as_it_lies_in_the_file(tmp_path: Path) -> None:
    source = from_file(tmp_path / "x", weights())
    module = net()
    bind(module, source)
    mapped = source.read("blocks.0.weight")
    assert isinstance(mapped, Tensor)
    assert module.blocks[0].weight.data_ptr() == mapped.data_ptr()
    assert module.conv.weight.data_ptr() != source.read("conv.weight").data_ptr()


def test_a_write_to_a_bound_weight_survives_the_release_of_its_neighbours(tmp_path: Path) -> None:
    """Released pages are read again from the file; those with a bound tensor on them must stay."""
    tensors = weights() | {"blocks.0.weight": torch.zeros(64, 32)}
    source = from_file(tmp_path / "x", tensors)
    module = net()
    bind(module, source)
    with torch.no_grad():
        module.blocks[0].weight.fill_(7)
    for name in source.index:
        if name != "blocks.0.weight":
            source.release(name)
    assert (module.blocks[0].weight == 7).all()


def test_packed_tensors_are_decoded(tmp_path: Path) -> None:
    packed = PackedTensor.encode(weights()["blocks.0.weight"], "q8_0")
    module = net()
    bind(module, MemorySource(weights() | {"blocks.0.weight": packed}), torch.bfloat16)
    assert torch.equal(module.blocks[0].weight, packed.decode(torch.bfloat16))


@pytest.mark.parametrize("format", ["q8_0", "q4_0"])
def test_quantized_weights_stay_as_they_lie_in_the_file(format: str) -> None:
    packed = PackedTensor.encode(weights()["blocks.0.weight"], format)
    module = net()
    bind(module, MemorySource(weights() | {"blocks.0.weight": packed}), torch.bfloat16, keep_packed=True)
    stand_in = module.blocks[0]
    assert isinstance(stand_in, PackedLinear)
    assert stand_in.weight.data_ptr() == packed.data.data_ptr()
    assert torch.equal(stand_in.bias, weights()["blocks.0.bias"].to(torch.bfloat16))
    assert "blocks.0.weight" in module.state_dict()


@pytest.mark.parametrize("order", [1, -1], ids=["weight first", "bias first"])
def test_packed_weights_are_bound_again(order: int) -> None:
    packed = PackedTensor.encode(weights()["blocks.0.weight"], "q8_0")
    source = MemorySource(dict(list((weights() | {"blocks.0.weight": packed}).items())[::order]))
    module = net()
    for _ in range(2):
        bind(module, source, keep_packed=True)
        expected = packed.decode(torch.float32).sum(1) + weights()["blocks.0.bias"]
        torch.testing.assert_close(module.blocks[0](torch.ones(32)), expected)


@pytest.mark.parametrize("scale", [None, torch.tensor(0.5)], ids=["plain", "scaled"])
def test_fp8_stays_packed(scale: Tensor | None) -> None:
    eighth = weights()["blocks.0.weight"].to(torch.float8_e4m3fn)
    data = eighth.view(-1).view(torch.uint8)
    stored = eighth if scale is None else PackedTensor(data, "f8_e4m3", (64, 32), scale)
    module = net()
    bind(module, MemorySource(weights() | {"blocks.0.weight": stored}), keep_packed=True)
    assert module.blocks[0].weight.data_ptr() == data.data_ptr()
    expected = eighth.float() * (1 if scale is None else scale)
    assert torch.equal(module.blocks[0].packed.decode(torch.float32), expected)


def test_what_no_module_can_keep_packed_is_decoded() -> None:
    """A convolution, and a table whose rows share a block."""
    conv = PackedTensor.encode(torch.randn(8, 4, 3, 3), "q8_0")
    module = net()
    bind(module, MemorySource(weights() | {"conv.weight": conv}), keep_packed=True)
    assert torch.equal(module.conv.weight, conv.decode(torch.float32))
    table = PackedTensor.encode(torch.randn(4, 24), "q8_0")
    rows = nn.Sequential(nn.Embedding(4, 24, device="meta"))
    bind(rows, MemorySource({"0.weight": table}), keep_packed=True)
    assert torch.equal(rows[0].weight, table.decode(torch.float32))


def test_a_packed_weight_of_another_shape_is_an_error() -> None:
    module = net()
    packed = PackedTensor.encode(torch.randn(64, 32), "q8_0")
    bind(module, MemorySource(weights() | {"blocks.0.weight": packed}), keep_packed=True)
    other = PackedTensor.encode(torch.randn(32, 32), "q8_0")
    with pytest.raises(CheckpointError, match=r"blocks\.0\.weight is \[32, 32\], not \[64, 32\]"):
        bind(module, MemorySource(weights() | {"blocks.0.weight": other}), keep_packed=True)


def test_bytes_are_counted_as_the_file_has_them(tmp_path: Path) -> None:
    halves = {name: t.half() if t.is_floating_point() else t for name, t in weights().items()}
    seen: list[int] = []
    source = from_file(tmp_path / "x", halves)
    bind_weights(net(), source, device=CPU, dtype=torch.float32, subject="unet", on_bytes=seen.append)
    assert sum(seen) == sum(t.nbytes for t in halves.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv.bias": None, "counts": None}, r"unet: .* 2 missing \(counts, conv.bias\)"),
        (
            {"a": 1, "b": 1, "c": 1, "d": 1},
            r"4 unexpected \(a, b, c, ...\); expected exactly the network's 5",
        ),
        ({"conv.bias": 9}, r"1 of another shape \(conv.bias is \[9\], not \[8\]\)"),
        ({"conv.bias": None, "x": 1}, r"1 missing \(conv.bias\), 1 unexpected \(x\)"),
    ],
    ids=["missing", "unexpected", "shape", "both"],
)
def test_a_file_that_does_not_fit_is_one_error_with_counts_and_examples(
    change: dict[str, int | None], message: str
) -> None:
    tensors = weights() | {name: torch.zeros(size or 0) for name, size in change.items()}
    tensors = {name: t for name, t in tensors.items() if change.get(name, 0) is not None}
    module = net()
    with pytest.raises(CheckpointError, match=message):
        bind(module, MemorySource(tensors))
    assert all(t.is_meta for t in module.parameters()), "nothing moves before the check"


@pytest.mark.parametrize(
    "name",
    [
        "text_model.embeddings.position_ids",
        "logit_scale",
        "text_projection.weight",
        "vision_model.encoder.layers.0.mlp.fc1.weight",
        "model_ema.decay",
        "model_ema.diffusion_modelinput_blocks00weight",
        "betas",
        "alphas_cumprod_prev",
        "sqrt_one_minus_alphas_cumprod",
        "posterior_mean_coef1",
        "loss.discriminator.main.0.weight",
    ],
)
def test_tensors_that_belong_to_no_network_are_passed_over(name: str) -> None:
    bind(net(), MemorySource(weights() | {name: torch.ones(3)}))


def test_a_buffer_that_no_checkpoint_can_fill_is_a_mistake_of_ours() -> None:
    module = net()
    with torch.device("meta"):
        module.register_buffer("table", torch.zeros(2), persistent=False)
    with pytest.raises(AssertionError, match="no checkpoint fills"):
        bind(module, MemorySource(weights()))


def test_only_the_tensors_asked_for_are_filled() -> None:
    module, source = net(), MemorySource(weights())
    for names in ({"conv.weight", "conv.bias", "counts"}, {"blocks.0.weight", "blocks.0.bias", "no.such"}):
        bind_weights(module, source, device=CPU, dtype=torch.float32, subject="unet", only=names)
        assert all(not module.get_parameter(name).is_meta for name in names if name.startswith("conv"))
    assert torch.equal(module.blocks[0].weight, weights()["blocks.0.weight"])
    module = net()
    bind_weights(module, source, device=CPU, dtype=torch.float32, subject="unet", only={"conv.bias"})
    assert module.conv.weight.is_meta
    assert not module.conv.bias.is_meta


def test_what_is_not_filled_is_compared_all_the_same() -> None:
    tensors = weights()
    del tensors["conv.weight"]
    with pytest.raises(CheckpointError, match=r"1 missing \(conv.weight\)"):
        bind_weights(
            net(), MemorySource(tensors), device=CPU, dtype=torch.float32, subject="unet", only={"conv.bias"}
        )


@pytest.mark.parametrize("keep_packed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_are_known_before_anything_is_read(dtype: torch.dtype, keep_packed: bool) -> None:
    tensors: dict[str, Tensor | PackedTensor] = {**weights()}
    tensors["blocks.0.weight"] = PackedTensor.encode(weights()["blocks.0.weight"], "q8_0")
    tensors["conv.weight"] = weights()["conv.weight"].to(torch.float8_e4m3fn)  # of no layer that stays packed
    module, source = net(), MemorySource(tensors)
    sizes = bound_bytes(module, source.index, dtype=dtype, keep_packed=keep_packed)
    del sizes["counts"]  # whole numbers stay what they are
    bind(module, source, dtype, keep_packed=keep_packed)
    taken = {name: module.state_dict()[name] for name in sizes}
    assert sizes == {name: tensor.numel() * tensor.itemsize for name, tensor in taken.items()}
    assert sizes["blocks.0.weight"] == (64 * 34 if keep_packed else 64 * 32 * dtype.itemsize)
    again = bound_bytes(module, source.index, dtype=dtype, keep_packed=keep_packed)
    assert {name: again[name] for name in sizes} == sizes


@pytest.mark.skipif(os.name != "posix", reason="pages are given back through madvise")
def test_converting_never_holds_a_second_copy(tmp_path: Path) -> None:
    """192 MB of float16 to bfloat16: memory grows by the result and one tensor, not by the file as well."""
    layers, width, mb = 48, 1448, 1e6
    save_file({f"{i}.weight": torch.ones(width, width).half() for i in range(layers)}, tmp_path / "x")
    with torch.device("meta"):
        module = nn.Sequential(*[nn.Linear(width, width, bias=False) for _ in range(layers)])
    process, peak = psutil.Process(), 0

    def watch(_: int) -> None:
        nonlocal peak
        peak = max(peak, process.memory_info().rss)

    with open_checkpoint(tmp_path / "x") as checkpoint:
        before = process.memory_info().rss
        bind_weights(
            module, open_source(checkpoint), device=CPU, dtype=torch.bfloat16, subject="net", on_bytes=watch
        )
    assert (peak - before) / mb < 192 + 40
    assert module[0].weight.dtype == torch.bfloat16


@pytest.mark.parametrize("keep_packed", [False, True])
@pytest.mark.parametrize("value", [float("nan"), -float("inf")])
def test_scales_that_are_no_numbers_are_reported_by_name(keep_packed: bool, value: float) -> None:
    packed = PackedTensor.encode(weights()["blocks.0.weight"], "q8_0")
    packed.data[34:36] = torch.tensor([value], dtype=torch.float16).view(torch.uint8)  # the second block's
    source = MemorySource(weights() | {"blocks.0.weight": packed})
    with pytest.raises(CheckpointError, match=r"unet: the file is damaged: 1 .*\(blocks\.0\.weight\)"):
        bind(net(), source, keep_packed=keep_packed)
