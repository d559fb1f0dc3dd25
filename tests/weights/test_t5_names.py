"""T5's spellings: a tiny encoder under every one of them gives the same tensors, and the same output."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from safetensors.torch import save_file
from torch import Tensor
from transformers import T5Config as ReferenceConfig
from transformers import T5EncoderModel as ReferenceModel
from transformers import T5ForConditionalGeneration

from darkroom.nets.te.t5 import T5Config, T5EncoderModel
from darkroom.weights.bind import bind_weights
from darkroom.weights.checkpoint import open_checkpoint
from darkroom.weights.keys import KeyRules, Rename
from darkroom.weights.source import TensorView, open_source
from darkroom.weights.t5_names import T5, T5_NAMES

CONFIG = ReferenceConfig(
    vocab_size=40, d_model=32, d_kv=64, d_ff=64, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
)
TOKENS = torch.arange(1, 21)[None]


@pytest.fixture(scope="module")
def reference() -> ReferenceModel:
    torch.manual_seed(0)
    return ReferenceModel(CONFIG).eval()


@pytest.fixture(scope="module")
def state(reference: ReferenceModel) -> dict[str, Tensor]:
    """The encoder as transformers saves it: each tensor once."""
    return {n: t.clone() for n, t in reference.state_dict().items() if n != "encoder.embed_tokens.weight"}


def companion(path: Path) -> TensorView:
    """A file that was given as the T5 of a model."""
    return open_source(open_checkpoint(path), KeyRules((Rename("^", T5),)) + T5_NAMES).under(T5)


@torch.no_grad()
def output(view: TensorView, *, keep_packed: bool = False) -> Tensor:
    with torch.device("meta"):
        net = T5EncoderModel(T5Config.from_shapes(view.index.shapes()))
    cpu = torch.device("cpu")
    bind_weights(net, view, device=cpu, dtype=torch.float32, subject="t5", keep_packed=keep_packed)
    out: Tensor = net(TOKENS)
    return out


def save_gguf(state: dict[str, Tensor], path: Path, kind: GGMLQuantizationType) -> None:
    """As llama.cpp's converter does: its names, matrices of the type asked for."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, CONFIG.num_layers)
    writer = GGUFWriter(path, "t5encoder")
    for name, tensor in state.items():
        llama_cpp = names.get_name(name, try_suffixes=(".weight",))
        assert llama_cpp is not None
        is_matrix = tensor.dim() == 2 and "relative_attention_bias" not in name
        stored = kind if is_matrix else GGMLQuantizationType.F32
        writer.add_tensor(llama_cpp, quantize(tensor.numpy(), stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@torch.no_grad()
def test_llama_cpp(tmp_path: Path, reference: ReferenceModel, state: dict[str, Tensor]) -> None:
    save_gguf(state, tmp_path / "t5.gguf", GGMLQuantizationType.F32)
    expected = reference(TOKENS).last_hidden_state
    torch.testing.assert_close(output(companion(tmp_path / "t5.gguf")), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("keep_packed", [False, True])
@torch.no_grad()
def test_quantized(
    keep_packed: bool, tmp_path: Path, reference: ReferenceModel, state: dict[str, Tensor]
) -> None:
    save_gguf(state, tmp_path / "t5.gguf", GGMLQuantizationType.Q8_0)
    out = output(companion(tmp_path / "t5.gguf"), keep_packed=keep_packed)
    expected = reference(TOKENS).last_hidden_state
    assert (out - expected).square().mean() < 4e-4 * expected.square().mean()


EXTRAS = {
    "none": (),
    "both names of the table": ("encoder.embed_tokens.weight",),
    "comfy": ("spiece_model", "logit_scale"),
}


@pytest.mark.parametrize("prefix", ["", "transformer."])
@pytest.mark.parametrize("extras", EXTRAS.values(), ids=EXTRAS)
def test_hugging_face_and_comfy(
    prefix: str, extras: tuple[str, ...], tmp_path: Path, state: dict[str, Tensor]
) -> None:
    tensors = {prefix + name: tensor for name, tensor in state.items()}
    for name in extras:
        tensors[prefix + name if "." in name else name] = torch.zeros(40, 32)
    save_file(tensors, tmp_path / "t5.safetensors")
    view = companion(tmp_path / "t5.safetensors")
    assert view.index.keys() == state.keys()
    assert all(torch.equal(tensor, view.read(name)) for name, tensor in state.items())  # type: ignore[arg-type]


def test_whole_t5_with_its_decoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = T5ForConditionalGeneration(CONFIG).state_dict()
    save_file({name: tensor.clone() for name, tensor in whole.items()}, tmp_path / "t5.safetensors")
    assert output(companion(tmp_path / "t5.safetensors")).isfinite().all()


def test_only_the_encoders_name_of_the_table(tmp_path: Path, state: dict[str, Tensor]) -> None:
    renamed = {name.replace("shared.", "encoder.embed_tokens."): tensor for name, tensor in state.items()}
    save_file(renamed, tmp_path / "t5.safetensors")
    assert companion(tmp_path / "t5.safetensors").index.keys() == state.keys()


@pytest.mark.parametrize(
    "prefix",
    [
        "te.",
        "te2.",
        "te3.",
        "text_encoder_2.",
        "text_encoder_3.",
        "text_encoders.t5xxl.transformer.",
        "t5xxl.transformer.",
    ],
)
def test_inside_a_larger_model(prefix: str, tmp_path: Path, state: dict[str, Tensor]) -> None:
    others = {
        "te.text_model.encoder.layers.0.layer_norm1.bias": torch.zeros(4),
        "te2.final_layer_norm.bias": torch.zeros(4),
        "transformer.encoder.block.0.weight": torch.zeros(4),
        "decoder.conv_in.weight": torch.zeros(4),
    }
    save_file({prefix + n: t for n, t in state.items()} | others, tmp_path / "model.safetensors")
    view = open_source(open_checkpoint(tmp_path / "model.safetensors"), T5_NAMES)
    assert view.index.keys() == {T5 + name for name in state} | others.keys()
