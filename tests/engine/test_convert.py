from __future__ import annotations

import logging
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.torch import load_file, save_file
from torch import Tensor

from darkroom.api.config import EngineConfig
from darkroom.api.errors import Cancelled, CheckpointError, PlacementError, RequestError
from darkroom.api.names import WeightType
from darkroom.api.result import Phase, Progress
from darkroom.engine import convert as module
from darkroom.engine.convert import convert_model, describe
from darkroom.quant.packed import PackedTensor
from darkroom.weights import requantize
from darkroom.weights.checkpoint import open_checkpoint
from darkroom.weights.save import write_gguf


def weight(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5)) * 0.05


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    tensors = {
        "block.weight": weight(16, 256).half(),
        "block.bias": weight(16),
        "conv.weight": weight(8, 4, 3, 3),
        "embedding.weight": weight(4, 32).bfloat16(),
        "fp8.weight": weight(4, 32).to(torch.float8_e4m3fn),
        "ids": torch.arange(7),
        "scalar": torch.tensor(0.5),
        "model_ema.decay": torch.tensor(0.5),
    }
    save_file(tensors, path, {"modelspec.title": "a model"})
    return path


def converted(model: Path, output: Path, **config: object) -> Path:
    convert_model(EngineConfig(model=model, threads=2, **config), output)  # type: ignore[arg-type]
    return output


@pytest.mark.parametrize("type", [WeightType.Q8_0, WeightType.Q4_K, WeightType.BF16])
def test_the_gguf_package_reads_what_is_written(model: Path, tmp_path: Path, type: WeightType) -> None:
    reader = GGUFReader(converted(model, tmp_path / "x.gguf", type=type))
    theirs = {tensor.name: tensor for tensor in reader.tensors}
    ours = load_file(model)
    assert set(theirs) == set(ours) - {"model_ema.decay"}
    types = {name: tensor.tensor_type.name.lower() for name, tensor in theirs.items()}
    assert types == {
        "block.weight": type.dtype,
        "block.bias": "f32",
        "conv.weight": "bf16" if type is WeightType.BF16 else "f32",
        "embedding.weight": "bf16",
        "fp8.weight": {"q8_0": "q8_0", "q4_k": "f16", "bf16": "bf16"}[type.dtype],
        "ids": "i64",
        "scalar": "bf16" if type is WeightType.BF16 else "f32",
    }
    block = theirs["block.weight"]
    values = dequantize(block.data, block.tensor_type)
    np.testing.assert_allclose(values, ours["block.weight"].numpy(), atol=0.012)


def test_without_a_type_nothing_changes_but_what_gguf_lacks(model: Path, tmp_path: Path) -> None:
    with open_checkpoint(converted(model, tmp_path / "x.gguf")) as ours:
        for name, tensor in load_file(model).items():
            if name != "model_ema.decay":
                read = ours.read(name)
                assert isinstance(read, Tensor)
                assert read.dtype == (torch.float16 if name == "fp8.weight" else tensor.dtype)
                assert torch.equal(read.float(), tensor.float())


def test_to_gguf_and_back(model: Path, tmp_path: Path) -> None:
    there = converted(model, tmp_path / "x.gguf", type=WeightType.Q8_0)
    back = converted(there, tmp_path / "x.safetensors", type=WeightType.F32)
    with open_checkpoint(there) as packed:
        expected = packed.read("block.weight")
        assert isinstance(expected, PackedTensor)
        assert torch.equal(load_file(back)["block.weight"], expected.decode(torch.float32))
    without_type = load_file(converted(there, tmp_path / "y.safetensors"))
    assert without_type["block.weight"].dtype == torch.float16


def test_safetensors_keep_their_metadata_and_fp8(model: Path, tmp_path: Path) -> None:
    output = converted(model, tmp_path / "x.safetensors", tensor_type_rules="conv=f16")
    with open_checkpoint(output) as ours:
        assert ours.index.metadata == {"modelspec.title": "a model", "format": "pt"}
    tensors = load_file(output)
    assert tensors["fp8.weight"].dtype == torch.float8_e4m3fn
    assert tensors["conv.weight"].dtype == torch.float16


def test_scaled_fp8_is_written_with_its_scale(tmp_path: Path) -> None:
    path, data = tmp_path / "scaled.safetensors", weight(4, 32).to(torch.float8_e4m3fn)
    save_file({"a.weight": data, "a.scale_weight": torch.tensor(0.25)}, path)
    for ending in ("gguf", "safetensors"):
        with open_checkpoint(converted(path, tmp_path / f"x.{ending}")) as ours:
            read = ours.read("a.weight")
            assert isinstance(read, Tensor)
            assert torch.equal(read, (data.float() * 0.25).half())


def test_metadata_of_gguf_files_is_kept(tmp_path: Path) -> None:
    metadata = {
        "general.architecture": "qwen3",
        "general.file_type": 7,
        "split.count": 3,
        "qwen3.block_count": 2,
    }
    write_gguf(tmp_path / "in.gguf", {"token_embd.weight": weight(2, 256)}, metadata)
    output = tmp_path / "out.gguf"
    convert_model(EngineConfig(llm=tmp_path / "in.gguf", type=WeightType.Q4_K), output)
    reader = GGUFReader(output)
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert fields == {
        "general.architecture": "qwen3",
        "qwen3.block_count": 2,
        "general.file_type": 14,
        "general.quantization_version": 2,
    }
    convert_model(EngineConfig(model=tmp_path / "in.gguf"), output)
    assert GGUFReader(output).get_field("general.file_type").contents() == 7  # type: ignore[union-attr]
    assert reader.tensors[0].name == "text_encoders.llm.token_embd.weight"


def test_many_small_pieces_are_the_whole(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = converted(model, tmp_path / "whole.gguf", type=WeightType.Q4_K).read_bytes()
    small = requantize.pieces
    monkeypatch.setattr(module, "pieces", lambda tensor: small(tensor, 256))
    assert converted(model, tmp_path / "pieces.gguf", type=WeightType.Q4_K).read_bytes() == whole


def test_progress_counts_all_bytes_and_the_summary_says_them(model: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    config = EngineConfig(model=model, type=WeightType.Q8_0, threads=1)
    done = convert_model(config, tmp_path / "x.gguf", on_progress=seen.append)
    assert {progress.phase for progress in seen} == {Phase.CONVERT}
    assert seen[-1].step == seen[-1].steps == done.bytes_read
    assert done.bytes_written == (tmp_path / "x.gguf").stat().st_size
    assert done.types["q8_0"] == (16 * 256 + 4 * 32) // 32 * 34
    assert describe(done).startswith(f"{tmp_path / 'x.gguf'}: 7 tensors, 0.0 MB -> 0.0 MB (q8_0 0.0 MB, ")


def test_torch_has_its_threads_again_and_no_worker_is_left(model: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    converted(model, tmp_path / "x.gguf")
    assert torch.get_num_threads() == before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("convert")]


def test_cancelled_leaves_nothing(model: Path, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        convert_model(EngineConfig(model=model), tmp_path / "x.gguf", is_cancelled=lambda: True)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_broken_weights_are_named_and_leave_nothing(tmp_path: Path) -> None:
    save_file(
        {"ok.weight": weight(4, 32), "bad.weight": torch.full((4, 32), torch.nan)},
        tmp_path / "in.safetensors",
    )
    with pytest.raises(
        CheckpointError, match=r"tensor 'bad.weight': holds values that are no finite numbers"
    ):
        converted(tmp_path / "in.safetensors", tmp_path / "x.gguf", type=WeightType.Q8_0)
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]


def test_what_f16_cannot_hold_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_file({"big.weight": torch.full((2, 2), 1e6)}, tmp_path / "in.safetensors")
    with caplog.at_level(logging.WARNING):
        converted(tmp_path / "in.safetensors", tmp_path / "x.gguf", type=WeightType.F16)
    assert caplog.messages == [
        "big.weight: holds values that are too large for f16; bf16 and f32 can hold them"
    ]


def test_a_model_may_be_converted_onto_itself(model: Path) -> None:
    before = load_file(model)
    converted(model, model, type=WeightType.BF16)
    assert torch.equal(load_file(model)["block.weight"], before["block.weight"].bfloat16())


@pytest.mark.parametrize("name", ["x.bin", "x", "x.gguf.txt"])
def test_other_endings(model: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match=r"ends in neither \.gguf nor \.safetensors"):
        converted(model, tmp_path / name)


def test_safetensors_holds_no_blocks(model: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"--type: a safetensors file holds no q4_k, q8_0; write a \.gguf"):
        converted(model, tmp_path / "x.safetensors", type=WeightType.Q8_0, tensor_type_rules="a=q4_K")


def test_without_a_model_there_is_nothing_to_do(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no input model"):
        convert_model(EngineConfig(), tmp_path / "x.gguf")


def test_the_backend_is_where_weights_are_quantized(model: Path, tmp_path: Path) -> None:
    plain = converted(model, tmp_path / "x.gguf", type=WeightType.Q4_K).read_bytes()
    assert converted(model, tmp_path / "y.gguf", type=WeightType.Q4_K, backend="cpu").read_bytes() == plain
    with pytest.raises(PlacementError, match="backend 'abacus' was not found"):
        converted(model, tmp_path / "z.gguf", backend="abacus")
    assert not (tmp_path / "z.gguf").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_graphics_card_finds_the_scales_that_the_processor_finds(model: Path, tmp_path: Path) -> None:
    """Sums run in another order there: an error that is a little larger or smaller."""
    for type in WeightType:
        errors = []
        for backend in ("cpu", "cuda0"):
            output = converted(model, tmp_path / f"{backend}.gguf", type=type, backend=backend)
            with open_checkpoint(output) as ours:
                read = ours.read("block.weight")
            values = read.decode(torch.float32) if isinstance(read, PackedTensor) else read.float()
            errors.append(float((values - weight(16, 256)).norm()))
        assert errors[1] == pytest.approx(errors[0], rel=1e-3), type
