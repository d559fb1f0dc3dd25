"""Stable Diffusion's other spellings as rules: prefixes, and diffusers' names for UNet and autoencoder.

They lead to the names of LDM checkpoints: `model.diffusion_model.`, `first_stage_model.`, and for the one
text encoder of Stable Diffusion 1 and 2 `cond_stage_model.`. Text encoders' own are in clip_names.py.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

from darkroom.api.names import Role
from darkroom.weights.keys import Derived, Drop, KeyRules, Rename, Rule, ToConv

UNET = Role.DIFFUSION_MODEL.prefix
VAE = Role.VAE.prefix
TE = "cond_stage_model.transformer."

_ENCODER = "cond_stage_model."
_UNET = "^" + re.escape(UNET)
_VAE = "^" + re.escape(VAE)

VAE_PLACES = Rename(r"^vae\.(?:first_stage_model\.)?", VAE)

# Where merged files, diffusers folders and files of one network keep UNet and autoencoder.
PREFIXES = KeyRules(
    (
        Rename(r"^(?:unet|diffusion_model)\.", UNET),
        Rename(r"^(?=(?:(?:input|middle|output)_blocks?|time_embed|label_emb|out)\.)", UNET),
        Rename(
            r"^(?=(?:(?:down|up)_blocks|mid_block|(?:time|add)_embedding|conv_(?:in|out|norm_out))\.)", UNET
        ),
        VAE_PLACES,
        Rename(
            r"^(?=(?:encoder|decoder)\.(?:conv_in|conv_out|conv_norm_out|norm_out|down|up|mid)|(?:post_)?quant_conv\.)",
            VAE,
        ),
    )
)

# Where they keep the text encoder, if there is one. open_clip calls a part of its own `transformer`, too.
ONE_TEXT_ENCODER = KeyRules(
    (
        Rename(r"^(?:te1?|text_encoder|(?:text_encoders\.)?clip_l|conditioner\.embedders\.0)\.", _ENCODER),
        Rename(
            rf"^{_ENCODER}(?=transformer\.resblocks|positional_emb|token_emb|ln_final)", f"{_ENCODER}model."
        ),
        Rename(rf"^{_ENCODER}(?=text_model|text_projection|embeddings|encoder|final_layer_norm)", TE),
    )
)

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}

_UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}

_PART = re.compile(_UNET + r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.")
_LEVEL = re.compile(_VAE + r"decoder\.up_blocks\.(\d+)\.")


def _unet_blocks(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Rule, ...]:
    """LDM numbers the blocks of all levels through: where a level starts depends on the levels before it."""
    parts = {match.groups() for name in shapes if (match := _PART.match(name))}
    resnets: dict[tuple[str, int], int] = defaultdict(int)  # (direction, level) -> residual blocks
    for direction, level, kind, _ in parts:
        resnets[direction, int(level)] += kind == "resnets"

    def native(match: re.Match[str]) -> str:
        direction, level, kind, number = match[1], int(match[2]), match[3], int(match[4])
        before = sum(count for (way, other), count in resnets.items() if way == direction and other < level)
        if direction == "down":
            index = 1 + before + level + number  # a downsampler counts as a block
            if kind == "downsamplers":
                return f"{UNET}input_blocks.{index + resnets[direction, level]}.0.op."
            return f"{UNET}input_blocks.{index}.{int(kind == 'attentions')}."
        if kind == "upsamplers":
            has_attention = (direction, match[2], "attentions", "0") in parts
            last = before + resnets[direction, level] - 1
            return f"{UNET}output_blocks.{last}.{2 if has_attention else 1}."
        return f"{UNET}output_blocks.{before + number}.{int(kind == 'attentions')}."

    # The convolution of a downsampler is `op` itself; of an upsampler, `conv` within its block.
    return (
        Rename(rf"({_UNET}down_blocks\.\d+\.downsamplers\.\d+\.)conv\.", r"\1"),
        Rename(_PART.pattern, native),
    )


def _decoder_levels(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Rule, ...]:
    """Diffusers counts the decoder's levels up from the latent, LDM down to it."""
    levels = 1 + max((int(match[1]) for name in shapes if (match := _LEVEL.match(name))), default=-1)
    return (Rename(_LEVEL.pattern, lambda match: f"{VAE}decoder.up.{levels - 1 - int(match[1])}."),)


DIFFUSERS_UNET = KeyRules(
    (
        Drop(rf"{_UNET}time_embedding\.cond_proj\."),  # LCM's, of how strong guidance is
        *(Rename(rf"{_UNET}{re.escape(theirs)}\.", f"{UNET}{ours}.") for theirs, ours in _UNET_ENDS.items()),
        Derived(_unet_blocks),
        *(
            Rename(rf"({_UNET}(?:input_blocks|middle_block|output_blocks)\.[\d.]+){theirs}\.", rf"\1{ours}.")
            for theirs, ours in _RESNET.items()
        ),
    )
)

_ATTENTION = r"first_stage_model\.(encoder|decoder)\.mid\.attn_1\."

DIFFUSERS_VAE = KeyRules(
    (
        VAE_PLACES,
        Rename(rf"({_VAE}encoder\.)down_blocks\.", r"\1down."),
        Derived(_decoder_levels),
        Rename(rf"({_VAE}(?:en|de)coder\.(?:down|up)\.\d+\.)resnets\.", r"\1block."),
        Rename(rf"({_VAE}(?:en|de)coder\.(?:down|up)\.\d+\.)(down|up)samplers\.0\.", r"\1\2sample."),
        Rename(
            rf"({_VAE}(?:en|de)coder\.)mid_block\.resnets\.([01])\.",
            lambda match: f"{match[1]}mid.block_{1 + int(match[2])}.",
        ),
        Rename(rf"({_VAE}(?:en|de)coder\.)mid_block\.attentions\.0\.", r"\1mid.attn_1."),
        Rename(rf"({_VAE}(?:en|de)coder\.)conv_norm_out\.", r"\1norm_out."),
        Rename(rf"({_VAE}.+\.)conv_shortcut\.", r"\1nin_shortcut."),
        Rename(rf"^({_ATTENTION})group_norm\.", r"\1norm."),
        # to_q ... of today's diffusers, query ... of its files from before 2023.
        Rename(rf"^({_ATTENTION})(?:to_q|query)\.", r"\1q."),
        Rename(rf"^({_ATTENTION})(?:to_k|key)\.", r"\1k."),
        Rename(rf"^({_ATTENTION})(?:to_v|value)\.", r"\1v."),
        Rename(rf"^({_ATTENTION})(?:to_out\.0|proj_attn)\.", r"\1proj_out."),
        ToConv(rf"{_ATTENTION}(?:q|k|v|proj_out)\.weight"),
    )
)

LATENT_DIFFUSION = PREFIXES + ONE_TEXT_ENCODER + DIFFUSERS_UNET + DIFFUSERS_VAE


def published(name: str) -> str:
    """A native name as it is written to files: text encoders' as ComfyUI and stable-diffusion.cpp have it."""
    name = re.sub(r"^(text_encoders\.(?:clip_l|clip_g|t5xxl)\.)(?!transformer\.)", r"\1transformer.", name)
    return re.sub(r"^text_encoders\.llm_vision\.", "text_encoders.llm.visual.", name)
