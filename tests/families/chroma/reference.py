"""diffusers' own Chroma, tiny and random, and its weights under native names."""

from __future__ import annotations

from functools import cache

import torch
from diffusers import ChromaPipeline, ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler
from tests.families.reference import T5_WIDTH, autoencoder, by_rules, folders, randomise, t5_encoder
from tests.reference_tokenizers import t5_tokenizer
from torch import Tensor

from darkroom.families.chroma.keys import RULES

FOLDERS = {"te.": "text_encoder", "transformer.": "transformer", "vae.": "vae"}


class Transformer(ChromaTransformer2DModel):
    """Takes a mask of numbers for what it is meant to be: the pipeline's would be added to the scores."""

    def forward(self, *args: object, attention_mask: Tensor | None = None, **kwargs: object) -> object:
        mask = None if attention_mask is None else attention_mask.bool()
        return super().forward(*args, attention_mask=mask, **kwargs)


@cache
def pipeline() -> ChromaPipeline:
    """All parts."""
    torch.manual_seed(1)
    transformer = Transformer(
        in_channels=64,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=T5_WIDTH,
        axes_dims_rope=(4, 6, 6),
        approximator_hidden_dim=48,
        approximator_layers=2,
    )
    randomise(transformer)
    pipe = ChromaPipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=autoencoder().eval(),
        text_encoder=t5_encoder(),
        tokenizer=t5_tokenizer(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def native(pipe: ChromaPipeline) -> dict[str, Tensor]:
    """All weights under native names, by the family's rules."""
    return by_rules(folders(pipe, FOLDERS), RULES)
