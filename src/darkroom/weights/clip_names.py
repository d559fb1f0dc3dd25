"""CLIP text encoders' spellings as rules: their places in files, open_clip's names, bare Hugging Face names.

`CLIP_L` and `CLIP_G` lead to `text_encoders.clip_l.` and `text_encoders.clip_g.`, for every family with one
or both; Stable Diffusion 1's and 2's, `OPEN_CLIP` and `BARE_CLIP`, to `cond_stage_model.transformer.`. The
network's own names are Hugging Face's: `text_model...` and `text_projection.weight`.
"""

from __future__ import annotations

from collections.abc import Mapping

from darkroom.api.names import Role
from darkroom.weights.keys import Derived, Drop, KeyRules, Rename, Rule, SplitRows, Transpose


def open_clip(old: str, new: str) -> KeyRules:
    """open_clip's names (its model.py), which Stable Diffusion 2 and SDXL files have.

    old, new: what is in front of them, as a pattern, and what comes in front of the native ones.
    """
    block = rf"^{old}transformer\.resblocks\.(\d+)\."
    layer = rf"{new}text_model.encoder.layers.\1."
    return KeyRules(
        (
            Drop(rf"^{old}(?:visual\.|logit_scale$|attn_mask$)"),
            SplitRows(
                rf"{block}attn\.in_proj_(weight|bias)",
                tuple(rf"{layer}self_attn.{part}_proj.\2" for part in "qkv"),
            ),
            Rename(rf"{block}attn\.out_proj\.", rf"{layer}self_attn.out_proj."),
            Rename(rf"{block}ln_([12])\.", rf"{layer}layer_norm\2."),
            Rename(rf"{block}mlp\.c_fc\.", rf"{layer}mlp.fc1."),
            Rename(rf"{block}mlp\.c_proj\.", rf"{layer}mlp.fc2."),
            Rename(rf"^{old}token_embedding\.", f"{new}text_model.embeddings.token_embedding."),
            Rename(rf"^{old}positional_embedding$", f"{new}text_model.embeddings.position_embedding.weight"),
            Rename(rf"^{old}ln_final\.", f"{new}text_model.final_layer_norm."),
            # open_clip multiplies by it from the right; spelled as a layer, it is one.
            Transpose(rf"{old}text_projection", f"{new}text_projection.weight"),
            Rename(rf"^{old}text_projection\.", f"{new}text_projection."),
        )
    )


def bare(prefix: str) -> KeyRules:
    """Hugging Face's names without `text_model.`: transformers 5 saves so, and some merged files are so."""
    pattern = prefix.replace(".", r"\.")
    return KeyRules((Rename(rf"^({pattern})(embeddings|encoder|final_layer_norm)\.", r"\1text_model.\2."),))


def _one_projection(prefix: str) -> KeyRules:
    """ComfyUI saved the projection as a matrix, later as a layer; merges of such files hold both."""
    layers = (f"{prefix}transformer.text_projection.weight", f"{prefix}text_projection.weight")

    def rules(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Rule, ...]:
        own = prefix.replace(".", r"\.")
        return (
            (Drop(rf"^{own}(?:model\.)?text_projection$"),) if any(name in shapes for name in layers) else ()
        )

    return KeyRules((Derived(rules),))


def _role(role: Role, places: str) -> KeyRules:
    """Everything under one of `places` (a pattern) to the role's prefix, in Hugging Face's names."""
    prefix = role.prefix
    own = prefix.replace(".", r"\.")
    return (
        KeyRules((Rename(rf"^(?:{places})\.", prefix),))
        + _one_projection(prefix)
        + open_clip(rf"{own}(?:model\.)?", prefix)
        + KeyRules(
            (
                Rename(rf"^{own}transformer\.", prefix),
                # stable-diffusion.cpp's converter renames open_clip's, but does not turn it.
                Transpose(rf"{own}text_model\.text_projection", f"{prefix}text_projection.weight"),
                # The other half of a whole CLIP.
                Drop(rf"^{own}(?:vision_model\.|visual_projection\.|logit_scale$)"),
            )
        )
        + bare(prefix)
    )


# In diffusers' folders (`te.`, `te2.`), SDXL's files, stable-diffusion.cpp's and ComfyUI's.
CLIP_L = _role(
    Role.CLIP_L,
    r"clip_l|te1?|text_encoder(?!\.2\.)|conditioner\.embedders\.0|cond_stage_model(?=\.(?:transformer|model)\.)",
)
CLIP_G = _role(Role.CLIP_G, r"clip_g|te2|text_encoder[._]2|conditioner\.embedders\.1|cond_stage_model\.1")

# Stable Diffusion 2's files. No prompt needs the projection.
OPEN_CLIP = KeyRules((Drop(r"^cond_stage_model\.model\.text_projection$"),)) + open_clip(
    r"cond_stage_model\.model\.", "cond_stage_model.transformer."
)
BARE_CLIP = bare("cond_stage_model.transformer.")
