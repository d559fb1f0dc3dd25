"""diffusers' own Flux, tiny and random, and its weights under native names."""

from __future__ import annotations

from functools import cache

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from tests.families.reference import T5_WIDTH, autoencoder, by_rules, folders, randomise, t5_encoder
from tests.reference_tokenizers import clip_tokenizer, t5_tokenizer
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from darkroom.families.flux.keys import RULES
from darkroom.tokenizers import clip

CLIP_WIDTH = 64
FOLDERS = {"te.": "text_encoder", "te2.": "text_encoder_2", "transformer.": "transformer", "vae.": "vae"}


@cache
def pipeline(*, has_guidance: bool = True, in_channels: int = 64) -> FluxPipeline:
    """All parts; has_guidance: dev, else schnell; in_channels: 384 in Fill."""
    torch.manual_seed(1)
    text = CLIPTextConfig(
        vocab_size=clip.VOCAB_SIZE,
        hidden_size=CLIP_WIDTH,
        intermediate_size=2 * CLIP_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=1,
        bos_token_id=clip.BOS,
        eos_token_id=clip.EOS,
    )
    transformer = FluxTransformer2DModel(
        in_channels=in_channels,
        out_channels=64,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=CLIP_WIDTH,
        guidance_embeds=has_guidance,
        axes_dims_rope=(4, 6, 6),
    )
    randomise(transformer)
    pipe = FluxPipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=3.0 if has_guidance else 1.0, use_dynamic_shifting=has_guidance
        ),
        vae=autoencoder().eval(),
        text_encoder=CLIPTextModel(text).eval(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5_encoder(),
        tokenizer_2=t5_tokenizer(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def native(pipe: FluxPipeline) -> dict[str, Tensor]:
    """All weights under native names, by the family's rules."""
    return by_rules(folders(pipe, FOLDERS), RULES)
