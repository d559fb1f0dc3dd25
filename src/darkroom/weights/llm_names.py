"""Qwen's other spellings as rules: those of transformers' versions, ComfyUI's and llama.cpp's.

They lead to `text_encoders.llm.` and the names that Hugging Face gave the decoder first, `model.layers.0...`,
and to `text_encoders.llm_vision.` and those of the vision tower, `blocks.0...`.
"""

from __future__ import annotations

import re

from darkroom.api.names import Role
from darkroom.weights.keys import Drop, Join, KeyRules, Rename

LLM = Role.LLM.prefix
LLM_VISION = Role.LLM_VISION.prefix

_LLM = "^" + re.escape(LLM)
_VISION = "^" + re.escape(LLM_VISION)
_LAYER = rf"({_LLM}model\.layers\.\d+\.)"
_BLOCK = rf"({_VISION}blocks\.\d+\.)"

# From llama.cpp's name of a part of a block to the original (gguf-py's tensor_mapping.py).
_LLAMA_CPP = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

# The same for the vision tower's (llama.cpp's convert_hf_to_gguf.py, Qwen2VLVisionModel).
_MMPROJ = {
    "ln1": "norm1",
    "ln2": "norm2",
    "attn_qkv": "attn.qkv",
    "attn_out": "attn.proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

LLM_NAMES = KeyRules(
    (
        # ComfyUI's models in one file, its files of an encoder alone, and folders of the diffusers layout.
        Rename(r"^text_encoders\.(?:llm\.)?qwen\w+\.", LLM),
        Rename(
            r"^(?:te|text_encoder)\.(?=(?:model|visual|language_model|embed_tokens|layers|norm|lm_head)\.)",
            LLM,
        ),
        Rename(rf"{_LLM}transformer\.", LLM),
        Drop(
            rf"{_LLM}(?:"
            r"lm_head\.|language_model\.lm_head\.|output\.weight$"  # to write text
            r"|.*rotary_emb\.inv_freq$|rope_freqs\.weight$"  # computed here
            r"|logit_scale$"  # ComfyUI's mark
            r")"
        ),
        Rename(rf"{_LLM}(?:model\.)?visual\.", LLM_VISION),
        # transformers since 4.52: model.language_model; its models without a head: language_model or nothing.
        Rename(rf"{_LLM}(?:model\.language_model|language_model(?:\.model)?)\.", f"{LLM}model."),
        Rename(rf"{_LLM}(?=(?:embed_tokens|layers|norm)\.)", f"{LLM}model."),
        Rename(rf"{_LLM}token_embd\.", f"{LLM}model.embed_tokens."),
        Rename(rf"{_LLM}blk\.", f"{LLM}model.layers."),
        Rename(rf"{_LLM}output_norm\.", f"{LLM}model.norm."),
        *(Rename(rf"{_LAYER}{theirs}\.", rf"\1{ours}.") for theirs, ours in _LLAMA_CPP.items()),
    )
)

LLM_VISION_NAMES = KeyRules(
    (
        Rename(rf"{_VISION}transformer\.", LLM_VISION),
        Rename(rf"{_VISION}(?:model\.)?visual\.", LLM_VISION),
        Drop(rf"{_VISION}(?:model|language_model|lm_head)\."),  # of a file that has both
        # llama.cpp's mmproj: a convolution for each of two frames; q, k and v apart.
        Join(
            (rf"{_VISION}v\.patch_embd\.weight", rf"{_VISION}v\.patch_embd\.weight\.1"),
            f"{LLM_VISION}patch_embed.proj.weight",
            axis=2,
            stack=True,
        ),
        Rename(rf"{_VISION}v\.blk\.", f"{LLM_VISION}blocks."),
        Join(
            tuple(rf"{_BLOCK}attn_{part}\.(weight|bias)" for part in "qkv"),
            r"\1attn.qkv.\2",
        ),
        *(Rename(rf"{_BLOCK}{theirs}\.", rf"\1{ours}.") for theirs, ours in _MMPROJ.items()),
        Rename(rf"{_VISION}v\.post_ln\.", f"{LLM_VISION}merger.ln_q."),
        Rename(rf"{_VISION}mm\.(?=[02]\.)", f"{LLM_VISION}merger.mlp."),
    )
)
