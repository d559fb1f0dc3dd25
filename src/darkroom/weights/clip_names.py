"""CLIP text encoders' other spellings as rules: open_clip's names, and Hugging Face's without `text_model.`.

They expect the text encoder under `cond_stage_model.` (SDXL's second under `cond_stage_model.1.`) and lead to
`cond_stage_model.transformer.text_model.`, the names of Stable Diffusion 1's files.
"""

from __future__ import annotations

from darkroom.weights.keys import Drop, KeyRules, Rename, SplitRows

_OPEN_CLIP = r"(cond_stage_model\.(?:1\.)?)model\."
_BLOCK = _OPEN_CLIP + r"transformer\.resblocks\.(\d+)\."
_LAYER = r"\1transformer.text_model.encoder.layers.\2."

# Stable Diffusion 2's files, named by open_clip's model.py. No prompt needs the projection.
OPEN_CLIP = KeyRules(
    (
        Drop(rf"^{_OPEN_CLIP}(text_projection|logit_scale|attn_mask)$"),
        SplitRows(
            rf"{_BLOCK}attn\.in_proj_(weight|bias)",
            tuple(rf"{_LAYER}self_attn.{part}_proj.\3" for part in "qkv"),
        ),
        Rename(rf"^{_BLOCK}attn\.out_proj\.", rf"{_LAYER}self_attn.out_proj."),
        Rename(rf"^{_BLOCK}ln_([12])\.", rf"{_LAYER}layer_norm\3."),
        Rename(rf"^{_BLOCK}mlp\.c_fc\.", rf"{_LAYER}mlp.fc1."),
        Rename(rf"^{_BLOCK}mlp\.c_proj\.", rf"{_LAYER}mlp.fc2."),
        Rename(rf"^{_OPEN_CLIP}token_embedding\.", r"\1transformer.text_model.embeddings.token_embedding."),
        Rename(
            rf"^{_OPEN_CLIP}positional_embedding$",
            r"\1transformer.text_model.embeddings.position_embedding.weight",
        ),
        Rename(rf"^{_OPEN_CLIP}ln_final\.", r"\1transformer.text_model.final_layer_norm."),
    )
)

# transformers 5 saves text encoders so; some merged Stable Diffusion 1 files, too.
BARE_CLIP = KeyRules(
    (
        Rename(
            r"^(cond_stage_model\.(?:1\.)?transformer\.)(embeddings|encoder|final_layer_norm)\.",
            r"\1text_model.\2.",
        ),
    )
)
