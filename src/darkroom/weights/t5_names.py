"""T5's other spellings as rules: ComfyUI's and llama.cpp's, and what files hold besides the encoder.

They lead to `text_encoders.t5xxl.` and the names that Hugging Face gives the encoder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from darkroom.api.names import Role
from darkroom.weights.keys import Derived, Drop, KeyRules, Rename, Rule

T5 = Role.T5XXL.prefix

_T5 = "^" + re.escape(T5)
_BLOCK = rf"({_T5}encoder\.block\.\d+\.)"

# From llama.cpp's name of a part of a block to the original (gguf-py's tensor_mapping.py).
_LLAMA_CPP = {
    "attn_norm": "layer.0.layer_norm",
    "attn_q": "layer.0.SelfAttention.q",
    "attn_k": "layer.0.SelfAttention.k",
    "attn_v": "layer.0.SelfAttention.v",
    "attn_o": "layer.0.SelfAttention.o",
    "attn_rel_b": "layer.0.SelfAttention.relative_attention_bias",
    "ffn_norm": "layer.1.layer_norm",
    "ffn_gate": "layer.1.DenseReluDense.wi_0",
    "ffn_up": "layer.1.DenseReluDense.wi_1",
    "ffn_down": "layer.1.DenseReluDense.wo",
}


def _one_table(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Rule, ...]:
    """Hugging Face's files hold the table of tokens under one of two names, or under both."""
    table, same = f"{T5}shared.weight", rf"{_T5}encoder\.embed_tokens\.weight$"
    return (Drop(same) if table in shapes else Rename(same, table),)


T5_NAMES = KeyRules(
    (
        # Folders of the diffusers layout number the encoders as each model has them.
        Rename(
            r"^(?:te[23]?|text_encoder(?:_[23])?)\."
            r"(?=shared\.|encoder\.(?:block|final_layer_norm|embed_tokens)\.)",
            T5,
        ),
        Rename(r"^t5xxl\.", T5),  # ComfyUI's files of an encoder alone
        Rename(rf"{_T5}transformer\.", T5),
        Drop(
            rf"{_T5}(?:"
            r"decoder\.|lm_head\.|dec\.|output\.weight$"  # the other half, to write text
            r"|spiece_model$|logit_scale$"  # ComfyUI's: the tokenizer, a mark
            r")"
        ),
        Rename(rf"{_T5}token_embd\.", f"{T5}shared."),
        Rename(rf"{_T5}enc\.output_norm\.", f"{T5}encoder.final_layer_norm."),
        Rename(rf"{_T5}enc\.blk\.", f"{T5}encoder.block."),
        *(Rename(rf"{_BLOCK}{theirs}\.", rf"\1{ours}.") for theirs, ours in _LLAMA_CPP.items()),
        Derived(_one_table),
    )
)
