"""The spellings that Qwen-Image's files come in.

diffusers, ComfyUI and GGUF files keep the authors' names of the diffusion network; prefixes differ.
"""

from __future__ import annotations

from darkroom.weights.keys import Drop, KeyRules, Rename
from darkroom.weights.llm_names import LLM_NAMES, LLM_VISION_NAMES
from darkroom.weights.wan_vae_names import WAN_VAE

NETWORK = "model.diffusion_model."

ZERO_COND_T = f"{NETWORK}__index_timestep_zero__"
"""The tensor by which ComfyUI's files of Edit-2511 say what they are."""

_NETWORK_FILES = KeyRules(
    (
        Rename(r"^(?:transformer|diffusion_model)\.", NETWORK),
        Rename(
            r"^(?=(?:img_in|txt_norm|txt_in|time_text_embed|transformer_blocks|norm_out|proj_out)\."
            r"|__index_timestep_zero__$)",
            NETWORK,
        ),
        Drop(r"^(?:model\.diffusion_model\.)?scaled_fp8$"),  # ComfyUI's mark
    )
)

RULES = _NETWORK_FILES + LLM_NAMES + LLM_VISION_NAMES + WAN_VAE
