"""Quantized text encoders in llama.cpp's files run from packed weights, and give what transformers gives."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLModel, Qwen3Config, Qwen3Model, T5Config, T5EncoderModel

from darkroom.layers.packed_linear import PackedModule
from darkroom.nets.te import qwen, t5
from darkroom.quant.packed import PackedTensor
from darkroom.runtime.component import slots
from darkroom.weights.bind import bind_weights
from darkroom.weights.checkpoint import Checkpoint, open_checkpoint
from darkroom.weights.keys import KeyRules, Rename
from darkroom.weights.llm_names import LLM, LLM_NAMES
from darkroom.weights.source import open_source
from darkroom.weights.t5_names import T5, T5_NAMES

TOKENS = torch.arange(1, 21)[None]
THETA = {"rope_type": "default", "rope_theta": 1e6}
WIDTHS = {"vocab_size": 40, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-6}


def qwen3() -> nn.Module:
    return Qwen3Model(Qwen3Config(**WIDTHS, **HEADS, head_dim=128, rope_parameters=THETA))


def qwen2_5() -> nn.Module:
    text = WIDTHS | HEADS | {"rope_parameters": THETA | {"mrope_section": [16, 24, 24]}}
    vision = {"depth": 1, "hidden_size": 16, "num_heads": 1, "out_hidden_size": 256}
    return Qwen2_5_VLModel(Qwen2_5_VLConfig(text_config=text, vision_config=vision)).language_model


def t5_encoder() -> nn.Module:
    return T5EncoderModel(
        T5Config(
            vocab_size=40,
            d_model=256,
            d_kv=64,
            d_ff=512,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
        )
    )


def llm(shapes: dict[str, tuple[int, ...]]) -> nn.Module:
    return qwen.QwenTextModel(qwen.QwenConfig.from_shapes(shapes))


def t5xxl(shapes: dict[str, tuple[int, ...]]) -> nn.Module:
    return t5.T5EncoderModel(t5.T5Config.from_shapes(shapes))


ENCODERS = {
    "qwen3": (qwen3, MODEL_ARCH.QWEN3, "model.", llm, LLM, LLM_NAMES),
    "qwen2.5": (qwen2_5, MODEL_ARCH.QWEN2VL, "model.", llm, LLM, LLM_NAMES),
    "t5": (t5_encoder, MODEL_ARCH.T5ENCODER, "", t5xxl, T5, T5_NAMES),
}


def q4_k(shape: tuple[int, ...]) -> np.ndarray:
    """Blocks of small random numbers: the gguf package reads Q4_K and cannot write it."""
    blocks = np.random.default_rng(0).integers(0, 256, (shape[0], shape[1] // 256, 144), dtype=np.uint8)
    blocks[..., :4] = np.array([0.0004, 0.003], dtype=np.float16).view(
        np.uint8
    )  # scale of scales, of minimums
    return blocks.reshape(shape[0], -1)


def write(
    path: Path, arch: MODEL_ARCH, prefix: str, reference: nn.Module, format: GGMLQuantizationType
) -> None:
    """The file, matrices as `format`, the table as Q8_0; the reference gets what the numbers then mean."""
    names = gguf.get_tensor_name_map(arch, 2)
    writer = GGUFWriter(path, "text")
    for name, tensor in reference.state_dict().items():
        if name == "encoder.embed_tokens.weight":
            continue
        theirs = names.get_name(prefix + name, try_suffixes=(".weight", ".bias"))
        if tensor.dim() < 2 or "relative" in name:
            writer.add_tensor(theirs, tensor.normal_(std=0.3).numpy())
            continue
        kind = GGMLQuantizationType.Q8_0 if "embed" in name or "shared" in name else format
        if kind == GGMLQuantizationType.Q4_K:
            blocks = q4_k(tuple(tensor.shape))
        else:
            blocks = gguf.quants.quantize(tensor.normal_(std=0.1).numpy(), kind)
        tensor.copy_(torch.from_numpy(gguf.quants.dequantize(blocks, kind)))
        writer.add_tensor(theirs, blocks, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def load(checkpoint: Checkpoint, build: Callable[..., nn.Module], role: str, rules: KeyRules) -> nn.Module:
    source = open_source(checkpoint, KeyRules((Rename("^", role),)) + rules).under(role)
    with torch.device("meta"):
        net = build(source.index.shapes()).eval()
    bind_weights(net, source, device=torch.device("cpu"), dtype=torch.float32, subject="te", keep_packed=True)
    return net


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Tensor]]:
    """Every weight that is unpacked; when the next one is, none of those before it may be left."""
    refs: list[weakref.ref[Tensor]] = []
    decode = PackedTensor.decode

    def watched(self: PackedTensor, dtype: torch.dtype) -> Tensor:
        assert not any(ref() is not None for ref in refs)
        out = decode(self, dtype)
        refs.append(weakref.ref(out))
        return out

    monkeypatch.setattr(PackedTensor, "decode", watched)
    return refs


@pytest.mark.parametrize(
    "format", [GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_K], ids=["q8_0", "q4_k"]
)
@pytest.mark.parametrize("encoder", ENCODERS)
@torch.no_grad()
def test_equals_transformers(
    encoder: str, format: GGMLQuantizationType, tmp_path: Path, unpacked: list[weakref.ref[Tensor]]
) -> None:
    torch.manual_seed(0)
    make, arch, prefix, build, role, rules = ENCODERS[encoder]
    reference = make().eval()
    write(tmp_path / "te.gguf", arch, prefix, reference, format)
    expected = reference(TOKENS).last_hidden_state
    with open_checkpoint(tmp_path / "te.gguf") as checkpoint:
        net = load(checkpoint, build, role, rules)
        assert not unpacked
        assert sum(slot.tensor.nbytes for slot in slots(net)) == checkpoint.nbytes
        actual = net(TOKENS)
        assert sum(slot.tensor.nbytes for slot in slots(net)) == checkpoint.nbytes
    assert ((actual - expected).abs().max() / expected.abs().max()).item() < 1e-4
    assert len(unpacked) == sum(isinstance(module, PackedModule) for module in net.modules())
    assert not any(ref() is not None for ref in unpacked)
