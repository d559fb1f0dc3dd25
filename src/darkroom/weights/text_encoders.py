"""What a text encoder's file is, for errors about one that does not fit."""

from __future__ import annotations

from darkroom.weights.index import TensorIndex

_CLIP_TOKENS = "text_model.embeddings.token_embedding.weight"
_T5_TOKENS = "shared.weight"
_LLM_TOKENS = "model.embed_tokens.weight"
_GGUF_TOKENS, _GGUF_T5 = "token_embd.weight", "enc.blk.0.attn_q.weight"

_CLIP = {768: "CLIP-L", 1024: "OpenCLIP-H", 1280: "OpenCLIP-bigG (CLIP-G)"}
_UMT5_VOCABULARY = 256384
_T5 = {512: "small", 768: "base", 1024: "large", 2048: "XL", 4096: "XXL"}
_QWEN2 = {896: "0.5B", 1536: "1.5B", 2048: "3B", 3584: "7B", 5120: "14B or 32B", 8192: "72B"}
_QWEN3 = {1024: "0.6B", 2048: "1.7B", 2560: "4B", 4096: "8B", 5120: "14B or 32B"}


def describe_text_encoder(index: TensorIndex) -> str | None:
    """A few words on an encoder under its network's own names, or llama.cpp's; None where it is none.

    `umT5-XXL, a text encoder of width 4096 with 256384 tokens`
    """
    if _CLIP_TOKENS in index:
        width = index[_CLIP_TOKENS].shape[1]
        return f"{_CLIP.get(width, 'a CLIP')}, a text encoder of width {width}"
    if tokens := index.get(_T5_TOKENS) or (index.get(_GGUF_TOKENS) if _GGUF_T5 in index else None):
        vocabulary, width = tokens.shape
        kind = "umT5" if vocabulary == _UMT5_VOCABULARY else "T5"
        return f"{kind}-{_T5.get(width, 'like')}, a text encoder of width {width} with {vocabulary} tokens"
    if tokens := index.get(_LLM_TOKENS) or index.get(_GGUF_TOKENS):
        width = tokens.shape[1]
        return f"{_describe_llm(index, width)}, a language model of width {width}"
    if any(name.startswith(("patch_embed.", "vision_model.", "v.")) for name in index):
        return "a vision tower without a language model (an mmproj file)"
    return None


def _describe_llm(index: TensorIndex, width: int) -> str:
    if any(name in index for name in ("model.layers.0.self_attn.q_norm.weight", "blk.0.attn_q_norm.weight")):
        return f"Qwen3 {_QWEN3.get(width, '')}".strip()
    if any(name in index for name in ("model.layers.0.self_attn.q_proj.bias", "blk.0.attn_q.bias")):
        return f"Qwen2.5 {_QWEN2.get(width, '')}".strip()
    return "an LLM"
