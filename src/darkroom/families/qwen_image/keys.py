"""The spellings that Qwen-Image's files come in.

diffusers, ComfyUI and GGUF files keep the authors' names of the diffusion network; prefixes differ.
"""

from __future__ import annotations

from darkroom.weights.dit_names import NET, network_places
from darkroom.weights.llm_names import LLM_NAMES, LLM_VISION_NAMES
from darkroom.weights.wan_vae_names import WAN_VAE

ZERO_COND_T = f"{NET}__index_timestep_zero__"
"""The tensor by which ComfyUI's files of Edit-2511 say what they are."""

_BARE = "img_in|txt_norm|txt_in|time_text_embed|transformer_blocks|norm_out|proj_out|__index_timestep_zero__"

RULES = network_places(_BARE) + LLM_NAMES + LLM_VISION_NAMES + WAN_VAE
