"""The spellings that Z-Image's files come in, and the rules that lead to those of ComfyUI's single files.

The authors publish diffusers' layout; ComfyUI's conversion joins q, k and v, and GGUF files follow it.
"""

from __future__ import annotations

import re

from darkroom.weights.dit_names import NET, network_places
from darkroom.weights.keys import Drop, Join, KeyRules, LeadingAxis, Rename
from darkroom.weights.llm_names import LLM_NAMES
from darkroom.weights.spellings import DIFFUSERS_VAE

_NET = re.escape(NET)
_BARE = (
    "x_embedder|cap_embedder|t_embedder|noise_refiner|context_refiner|layers|final_layer|norm_final"
    "|x_pad_token|cap_pad_token|siglip_embedder|siglip_refiner|siglip_pad_token"
    "|all_x_embedder|all_final_layer"  # diffusers'
)
_ATTENTION = rf"^({_NET}(?:\w+_refiner|layers)\.\d+\.attention\.)"

_DIFFUSERS = KeyRules(
    (
        Rename(rf"^{_NET}all_(x_embedder|final_layer)\.2-1\.", rf"{NET}\1."),
        Join(tuple(rf"{_ATTENTION}to_{part}\.(weight|bias)" for part in "qkv"), r"\1qkv.\2"),
        Rename(rf"{_ATTENTION}norm_([qk])\.", r"\1\2_norm."),
        Rename(rf"{_ATTENTION}to_out\.0\.", r"\1out."),
    )
)

RULES = (
    LLM_NAMES
    + network_places(_BARE)
    + _DIFFUSERS
    + KeyRules(
        (
            # Of Lumina 2, whose code the first files were made with.
            Drop(rf"^{_NET}norm_final\.weight$"),
            LeadingAxis(rf"{_NET}(?:x|cap)_pad_token", axes=2),
        )
    )
    + DIFFUSERS_VAE
)
