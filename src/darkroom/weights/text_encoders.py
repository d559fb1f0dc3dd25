"""What a text encoder's file is, for errors about one that does not fit."""

from __future__ import annotations

from darkroom.weights.index import TensorIndex

_CLIP_TOKENS = "text_model.embeddings.token_embedding.weight"
_T5_TOKENS = "shared.weight"
_LLM_TOKENS = "model.embed_tokens.weight"

_CLIP = {768: "CLIP-L", 1024: "OpenCLIP-H", 1280: "OpenCLIP-bigG (CLIP-G)"}
_UMT5_VOCABULARY = 256384
_T5 = {512: "small", 768: "base", 1024: "large", 2048: "XL", 4096: "XXL"}
_QWEN2 = {896: "0.5B", 1536: "1.5B", 2048: "3B", 3584: "7B", 5120: "14B or 32B", 8192: "72B"}
_QWEN3 = {1024: "0.6B", 2048: "1.7B", 2560: "4B", 4096: "8B", 5120: "14B or 32B"}


def describe_text_encoder(index: TensorIndex) -> str:
    """A few words on an encoder under its network's own names: `umT5-XXL, a text encoder of width 4096`."""
    if _CLIP_TOKENS in index:
        width = index[_CLIP_TOKENS].shape[1]
        return f"{_CLIP.get(width, 'a CLIP')}, a text encoder of width {width}"
    if _T5_TOKENS in index:
        vocabulary, width = index[_T5_TOKENS].shape
        kind = "umT5" if vocabulary == _UMT5_VOCABULARY else "T5"
        return f"{kind}-{_T5.get(width, 'like')}, a text encoder of width {width} with {vocabulary} tokens"
    if _LLM_TOKENS in index:
        return _describe_llm(index)
    if any(name.startswith(("patch_embed.", "vision_model.", "v.")) for name in index):
        return "a vision tower without a language model (an mmproj file)"
    if any(name.startswith(("double_blocks.", "joint_blocks.", "transformer_blocks.")) for name in index):
        return "a diffusion transformer"
    if "decoder.conv_in.weight" in index:
        return "an autoencoder"
    names = ", ".join(list(index)[:3])
    return f"no text encoder that is known ({len(index)} tensors: {names}...)"


def _describe_llm(index: TensorIndex) -> str:
    width = index[_LLM_TOKENS].shape[1]
    if "model.layers.0.self_attn.q_norm.weight" in index:
        kind = f"Qwen3 {_QWEN3.get(width, '')}"
    elif "model.layers.0.self_attn.q_proj.bias" in index:
        kind = f"Qwen2.5 {_QWEN2.get(width, '')}"
    else:
        kind = "a language model"
    return f"{kind.strip()}, a language model of width {width}"
