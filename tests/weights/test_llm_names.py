"""Qwen's spellings: tiny models under every one of them give the same tensors."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import torch
from gguf import GGUFWriter
from safetensors.torch import save_file
from torch import Tensor

from darkroom.nets.te.qwen import QwenConfig, QwenTextModel
from darkroom.nets.te.qwen_vision import QwenVisionConfig, QwenVisionModel
from darkroom.weights.checkpoint import open_checkpoint
from darkroom.weights.keys import KeyRules, Rename
from darkroom.weights.llm_names import LLM, LLM_NAMES, LLM_VISION, LLM_VISION_NAMES
from darkroom.weights.source import TensorView, open_source

RULES = LLM_NAMES + LLM_VISION_NAMES
HEAD = {"lm_head.weight": torch.zeros(10, 32)}


def decoder(has_bias: bool) -> dict[str, Tensor]:
    """Of Qwen2.5, with biases, or Qwen3, with norms in the heads."""
    torch.manual_seed(0)
    config = QwenConfig(10, 32, 48, 2, 2, 1, 16, has_bias=has_bias, has_qk_norm=not has_bias)
    return QwenTextModel(config).state_dict()


def tower() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return QwenVisionModel(QwenVisionConfig(16, 24, 2, 1, 32, 14, 2)).state_dict()


@pytest.fixture(params=[True, False], ids=["qwen2.5", "qwen3"])
def state(request: pytest.FixtureRequest) -> dict[str, Tensor]:
    return decoder(request.param)


def companion(path: Path, role: str) -> TensorView:
    """A file that was given as the language model, or as its eyes."""
    return open_source(open_checkpoint(path), KeyRules((Rename("^", role),)) + RULES)


def assert_same(view: TensorView, expected: dict[str, Tensor]) -> None:
    assert view.index.shapes() == {name: tuple(tensor.shape) for name, tensor in expected.items()}
    for name, tensor in expected.items():
        assert torch.equal(view.read(name), tensor), name  # type: ignore[arg-type]


def write_gguf(path: Path, arch: str, tensors: dict[str, Tensor]) -> None:
    writer = GGUFWriter(path, arch)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama_cpp_names(arch: gguf.MODEL_ARCH, state: dict[str, Tensor]) -> dict[str, Tensor]:
    names = gguf.get_tensor_name_map(arch, 3)  # mm.2 counts as a block
    renamed = {names.get_name(name, try_suffixes=(".weight", ".bias")): t for name, t in state.items()}
    assert None not in renamed
    return renamed


def test_llama_cpp(tmp_path: Path, state: dict[str, Tensor]) -> None:
    arch = (
        gguf.MODEL_ARCH.QWEN3
        if "model.layers.0.self_attn.q_norm.weight" in state
        else gguf.MODEL_ARCH.QWEN2VL
    )
    write_gguf(tmp_path / "llm.gguf", "qwen", llama_cpp_names(arch, state | HEAD))
    assert_same(companion(tmp_path / "llm.gguf", LLM).under(LLM), state)


@pytest.mark.parametrize("fused", [False, True], ids=["q, k and v apart", "fused"])
def test_llama_cpps_mmproj(fused: bool, tmp_path: Path) -> None:
    """Split as convert_hf_to_gguf.py does: qkv in three, the patches' convolution in one for each frame."""
    state = tower()
    split: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if ".qkv." in name and not fused:
            parts = dict(zip("qkv", tensor.chunk(3), strict=True))
            split |= {f"visual.{name.replace('qkv', part)}": part_of for part, part_of in parts.items()}
        elif name != "patch_embed.proj.weight":
            split[f"visual.{name}"] = tensor
    tensors = llama_cpp_names(gguf.MODEL_ARCH.MMPROJ, split)
    for frame, last in enumerate(("", ".1")):
        tensors[f"v.patch_embd.weight{last}"] = state["patch_embed.proj.weight"][:, :, frame].contiguous()
    write_gguf(tmp_path / "mmproj.gguf", "clip", tensors)
    assert_same(companion(tmp_path / "mmproj.gguf", LLM_VISION).under(LLM_VISION), state)


SPELLINGS = {
    "first": ("model.", "visual."),
    "transformers 4.52": ("model.language_model.", "model.visual."),
    "vision first": ("language_model.model.", "visual."),
    "without a head": ("language_model.", "visual."),
    "decoder alone": ("", None),
    "comfy": ("transformer.model.", "transformer.visual."),
    "comfy's encoder alone": ("qwen25_7b.transformer.model.", "qwen25_7b.transformer.visual."),
}


def spelled(spelling: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    text, vision = SPELLINGS[spelling]
    tensors = {text + name.removeprefix("model."): tensor for name, tensor in state.items()}
    if vision is not None:
        tensors |= {vision + name: tensor for name, tensor in tower().items()}
    return tensors


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_hugging_face_and_comfy(spelling: str, tmp_path: Path, state: dict[str, Tensor]) -> None:
    extras = HEAD | {
        "language_model.lm_head.weight": torch.zeros(1),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(1),
        "logit_scale": torch.zeros(1),
    }
    save_file(spelled(spelling, state) | extras, tmp_path / "llm.safetensors")
    view = companion(tmp_path / "llm.safetensors", LLM)
    eyes = tower() if SPELLINGS[spelling][1] is not None else {}
    both = {LLM + name: t for name, t in state.items()} | {LLM_VISION + name: t for name, t in eyes.items()}
    assert_same(view, both)


@pytest.mark.parametrize("spelling", ["first", "transformers 4.52"])
def test_a_whole_file_given_as_eyes(spelling: str, tmp_path: Path) -> None:
    save_file(spelled(spelling, decoder(True)) | HEAD, tmp_path / "llm.safetensors")
    assert_same(
        companion(tmp_path / "llm.safetensors", LLM_VISION), {LLM_VISION + n: t for n, t in tower().items()}
    )


@pytest.mark.parametrize(
    "prefix",
    ["te.", "text_encoder.", "text_encoders.qwen25_7b.transformer.", "text_encoders.qwen3_4b.transformer."],
)
def test_inside_a_larger_model(prefix: str, tmp_path: Path, state: dict[str, Tensor]) -> None:
    others = {
        "model.diffusion_model.layers.0.attention.qkv.weight": torch.zeros(4),
        "transformer.layers.0.attention.to_q.weight": torch.zeros(4),
        "vae.decoder.conv_in.weight": torch.zeros(4),
    }
    save_file({prefix + n: t for n, t in (state | HEAD).items()} | others, tmp_path / "model.safetensors")
    view = open_source(open_checkpoint(tmp_path / "model.safetensors"), RULES)
    assert_same(view, {LLM + name: tensor for name, tensor in state.items()} | others)


def test_native_names_stay(state: dict[str, Tensor], tmp_path: Path) -> None:
    native = {LLM + name: t for name, t in state.items()} | {LLM_VISION + n: t for n, t in tower().items()}
    save_file(native, tmp_path / "x.safetensors")
    assert_same(open_source(open_checkpoint(tmp_path / "x.safetensors"), RULES), native)
