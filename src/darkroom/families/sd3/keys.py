"""The spellings that Stable Diffusion 3 files come in, and the rules that lead to Stability's."""

from __future__ import annotations

import re
from collections.abc import Mapping

from darkroom.weights.clip_names import CLIP_G, CLIP_L
from darkroom.weights.dit_names import NET, network_places, swapped_halves
from darkroom.weights.keys import Derived, Join, KeyRules, LeadingAxis, Rename, Rule
from darkroom.weights.spellings import DIFFUSERS_VAE
from darkroom.weights.t5_names import T5_NAMES

_NET = re.escape(NET)
_BARE = (
    "joint_blocks|x_embedder|context_embedder|t_embedder|y_embedder|final_layer|pos_embed"
    "|transformer_blocks|time_text_embed|norm_out|proj_out"  # diffusers'
)

_ENDS = {
    "pos_embed.pos_embed": "pos_embed",
    "pos_embed.proj.": "x_embedder.proj.",
    "time_text_embed.timestep_embedder.linear_1.": "t_embedder.mlp.0.",
    "time_text_embed.timestep_embedder.linear_2.": "t_embedder.mlp.2.",
    "time_text_embed.text_embedder.linear_1.": "y_embedder.mlp.0.",
    "time_text_embed.text_embedder.linear_2.": "y_embedder.mlp.2.",
    "norm_out.linear.": "final_layer.adaLN_modulation.1.",
    "proj_out.": "final_layer.linear.",
}

_PARTS = {
    "attn.to_out.0.": "x_block.attn.proj.",
    "attn.to_add_out.": "context_block.attn.proj.",
    "attn.norm_q.": "x_block.attn.ln_q.",
    "attn.norm_k.": "x_block.attn.ln_k.",
    "attn.norm_added_q.": "context_block.attn.ln_q.",
    "attn.norm_added_k.": "context_block.attn.ln_k.",
    "attn2.to_out.0.": "x_block.attn2.proj.",
    "attn2.norm_q.": "x_block.attn2.ln_q.",
    "attn2.norm_k.": "x_block.attn2.ln_k.",
    "norm1.linear.": "x_block.adaLN_modulation.1.",
    "norm1_context.linear.": "context_block.adaLN_modulation.1.",
    "ff.net.0.proj.": "x_block.mlp.fc1.",
    "ff.net.2.": "x_block.mlp.fc2.",
    "ff_context.net.0.proj.": "context_block.mlp.fc1.",
    "ff_context.net.2.": "context_block.mlp.fc2.",
}

_QKV = {
    r"attn\.to_{}": "x_block.attn.qkv.",
    r"attn\.add_{}_proj": "context_block.attn.qkv.",
    r"attn2\.to_{}": "x_block.attn2.qkv.",
}

_THEIR_BLOCK = re.compile(rf"{_NET}transformer_blocks\.(\d+)\.")
_BLOCK = rf"^({_NET}joint_blocks\.\d+\.)"


def _diffusers(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Rule, ...]:
    """Diffusers' names; no rules for files that are spelled otherwise, whose like names mean other things.

    Where nothing follows a norm, diffusers' has the scale before the shift.
    """
    if f"{NET}pos_embed.proj.weight" not in shapes:
        return ()
    last = max((int(match[1]) for name in shapes if (match := _THEIR_BLOCK.match(name))), default=0)
    modulations = (
        f"{NET}final_layer.adaLN_modulation.1.",
        f"{NET}joint_blocks.{last}.context_block.adaLN_modulation.1.",
    )
    return (
        *(Rename(f"^{_NET}{re.escape(theirs)}", f"{NET}{ours}") for theirs, ours in _ENDS.items()),
        Rename(rf"^{_NET}transformer_blocks\.", f"{NET}joint_blocks."),
        *(Rename(rf"{_BLOCK}{re.escape(theirs)}", rf"\1{ours}") for theirs, ours in _PARTS.items()),
        *(
            Join(tuple(rf"{_BLOCK}{theirs.format(part)}\.(weight|bias)" for part in "qkv"), rf"\1{ours}\2")
            for theirs, ours in _QKV.items()
        ),
        *(rule for name in modulations for rule in swapped_halves(name)),
    )


RULES = (
    CLIP_L
    + CLIP_G
    + T5_NAMES
    + network_places(_BARE)
    + KeyRules((Derived(_diffusers), LeadingAxis(rf"{_NET}pos_embed", axes=3)))
    + DIFFUSERS_VAE
)
