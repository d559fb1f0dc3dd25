"""Spellings of Flux's and Chroma's diffusion network as rules; they lead to their authors' names.

diffusers' names were checked against its conversion (loaders/single_file_utils.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from darkroom.weights.dit_names import NET, network_places, swapped_halves
from darkroom.weights.keys import Derived, Join, KeyRules, Rename, Rule

_NET = re.escape(NET)
_OWN = (
    "img_in|txt_in|time_in|vector_in|guidance_in|distilled_guidance_layer|double_blocks|single_blocks"
    "|final_layer|double_stream_modulation_(?:img|txt)|single_stream_modulation|img_in_patch|nerf_\\w+"
)
_DIFFUSERS = (
    "x_embedder|context_embedder|time_text_embed|transformer_blocks|single_transformer_blocks"
    "|norm_out|proj_out"
)

_ENDS = {
    "x_embedder.": "img_in.",
    "context_embedder.": "txt_in.",
    "time_text_embed.timestep_embedder.": "time_in.",
    "time_text_embed.text_embedder.": "vector_in.",
    "time_text_embed.guidance_embedder.": "guidance_in.",
    "norm_out.linear.": "final_layer.adaLN_modulation.1.",
    "proj_out.": "final_layer.linear.",
}

_DOUBLE = {
    "norm1.linear.": "img_mod.lin.",
    "norm1_context.linear.": "txt_mod.lin.",
    "attn.norm_q.weight": "img_attn.norm.query_norm.scale",
    "attn.norm_k.weight": "img_attn.norm.key_norm.scale",
    "attn.norm_added_q.weight": "txt_attn.norm.query_norm.scale",
    "attn.norm_added_k.weight": "txt_attn.norm.key_norm.scale",
    "attn.to_out.0.": "img_attn.proj.",
    "attn.to_add_out.": "txt_attn.proj.",
    "ff.net.0.proj.": "img_mlp.0.",
    "ff.net.2.": "img_mlp.2.",
    "ff_context.net.0.proj.": "txt_mlp.0.",
    "ff_context.net.2.": "txt_mlp.2.",
}

_SINGLE = {
    "norm.linear.": "modulation.lin.",
    "attn.norm_q.weight": "norm.query_norm.scale",
    "attn.norm_k.weight": "norm.key_norm.scale",
    "proj_out.": "linear2.",
}

_QKV = {"attn.to_{}": "img_attn.qkv", "attn.add_{}_proj": "txt_attn.qkv"}
_LINEAR1 = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")


def _diffusers(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Rule, ...]:
    """diffusers' names; no rules for files without them, in which the like may mean other things."""
    if f"{NET}x_embedder.weight" not in shapes:
        return ()
    double, single = (rf"^({_NET}{kind}_blocks\.\d+\.)" for kind in ("double", "single"))
    return (
        Rename(rf"^{_NET}transformer_blocks\.", f"{NET}double_blocks."),
        Rename(rf"^{_NET}single_transformer_blocks\.", f"{NET}single_blocks."),
        *(Rename(rf"^{_NET}{re.escape(theirs)}", f"{NET}{ours}") for theirs, ours in _ENDS.items()),
        *(Rename(rf"{double}{re.escape(theirs)}", rf"\1{ours}") for theirs, ours in _DOUBLE.items()),
        *(Rename(rf"{single}{re.escape(theirs)}", rf"\1{ours}") for theirs, ours in _SINGLE.items()),
        *(_join(double, [theirs.format(part) for part in "qkv"], ours) for theirs, ours in _QKV.items()),
        _join(single, _LINEAR1, "linear1"),
        Rename(rf"^({_NET}(?:time|vector|guidance)_in\.)linear_1\.", r"\1in_layer."),
        Rename(rf"^({_NET}(?:time|vector|guidance)_in\.)linear_2\.", r"\1out_layer."),
        Rename(rf"^({_NET}distilled_guidance_layer\.layers\.\d+\.)linear_1\.", r"\1in_layer."),
        Rename(rf"^({_NET}distilled_guidance_layer\.layers\.\d+\.)linear_2\.", r"\1out_layer."),
        *swapped_halves(f"{NET}final_layer.adaLN_modulation.1."),
    )


def _join(block: str, parts: Sequence[str], whole: str) -> Join:
    patterns = tuple(rf"{block}{re.escape(part)}\.(weight|bias)" for part in parts)
    return Join(patterns, rf"\1{whole}.\2")


FLUX_NAMES = network_places(f"{_OWN}|{_DIFFUSERS}") + KeyRules(
    (
        Derived(_diffusers),
        # ComfyUI's and diffusers' name of the weight of a norm.
        Rename(rf"^({_NET}.*norm\.(?:query|key)_norm)\.weight$", r"\1.scale"),
        Rename(rf"^({_NET}distilled_guidance_layer\.norms\.\d+)\.weight$", r"\1.scale"),
    )
)
