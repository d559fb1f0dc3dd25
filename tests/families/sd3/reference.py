"""diffusers' own Stable Diffusion 3, tiny and random, and its weights under native names."""

from __future__ import annotations

from functools import cache

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from tests.families.reference import by_rules, folders
from tests.reference_tokenizers import clip_tokenizer, t5_tokenizer
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
)

from darkroom.families.sd3.keys import RULES
from darkroom.tokenizers import clip, t5

CLIP_L_WIDTH, CLIP_G_WIDTH, T5_WIDTH = 64, 128, 208
FOLDERS = {
    "te.": "text_encoder",
    "te2.": "text_encoder_2",
    "te3.": "text_encoder_3",
    "transformer.": "transformer",
    "vae.": "vae",
}
"""What tensors of a folder in the diffusers layout get in front, and the pipeline's names for the parts."""


@cache
def pipeline(*, is_3_5: bool = False) -> StableDiffusion3Pipeline:
    """All parts; 3.5 has norms in the attention and, being like medium, blocks of two attentions."""
    torch.manual_seed(1)
    pipe = StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=8,
            num_layers=3,
            attention_head_dim=64,
            num_attention_heads=2,
            joint_attention_dim=T5_WIDTH,
            caption_projection_dim=128,
            pooled_projection_dim=CLIP_L_WIDTH + CLIP_G_WIDTH,
            pos_embed_max_size=12,
            dual_attention_layers=(0, 1) if is_3_5 else (),
            qk_norm="rms_norm" if is_3_5 else None,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=AutoencoderKL(
            block_out_channels=(32, 32, 64, 64),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=16,
            use_quant_conv=False,
            use_post_quant_conv=False,
            scaling_factor=1.5305,
            shift_factor=0.0609,
        ),
        text_encoder=_clip(CLIP_L_WIDTH, "quick_gelu"),
        tokenizer=clip_tokenizer(),
        text_encoder_2=_clip(CLIP_G_WIDTH, "gelu"),
        tokenizer_2=clip_tokenizer(pad_token="!"),
        text_encoder_3=_t5(),
        tokenizer_3=t5_tokenizer(),
    )
    # Stability's vector of CLIP-L is not projected; diffusers' loader puts the identity there.
    nn.init.eye_(pipe.text_encoder.text_projection.weight)
    for name in FOLDERS.values():
        _disturb(getattr(pipe, name).eval().requires_grad_(False))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _clip(width: int, activation: str) -> CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        vocab_size=clip.VOCAB_SIZE,
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=3,
        num_attention_heads=width // 64,
        hidden_act=activation,
        bos_token_id=clip.BOS,
        eos_token_id=clip.EOS,
    )
    return CLIPTextModelWithProjection(config)


def _t5() -> T5EncoderModel:
    config = T5Config(
        vocab_size=t5.VOCAB_SIZE,
        d_model=T5_WIDTH,
        d_kv=16,
        d_ff=96,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config)


def _disturb(net: nn.Module) -> None:
    """Away from ones and zeros, which would hide what is swapped or left out."""
    for name, parameter in net.named_parameters():
        if parameter.ndim == 1:
            parameter.add_(torch.randn_like(parameter) * 0.1)
        elif "relative_attention_bias" in name:
            parameter.normal_()


def native(pipe: StableDiffusion3Pipeline) -> dict[str, Tensor]:
    """All weights under native names, by the family's rules."""
    return by_rules(folders(pipe, FOLDERS), RULES)
