"""A tiny Z-Image in diffusers, with random weights."""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tests.reference_tokenizers import qwen_tokenizer
from torch import Tensor, nn
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

TEXT_WIDTH = 32

# What Qwen3's tokenizer_config.json makes of one turn of a user.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)


def tokenizer() -> Qwen2Tokenizer:
    made = qwen_tokenizer()
    made.chat_template = TEMPLATE
    return made


def text_encoder() -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=151680,
        hidden_size=TEXT_WIDTH,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        rms_norm_eps=1e-6,
        rope_theta=1e6,
        tie_word_embeddings=True,
    )
    return randomised(Qwen3ForCausalLM(config), 0.1)


def transformer() -> ZImageTransformer2DModel:
    net = ZImageTransformer2DModel(
        dim=48, n_layers=2, n_refiner_layers=1, n_heads=3, n_kv_heads=3, cap_feat_dim=TEXT_WIDTH,
        axes_dims=(4, 6, 6),
    )  # fmt: skip
    return randomised(net, 0.2)


def autoencoder() -> AutoencoderKL:
    torch.manual_seed(2)
    return AutoencoderKL(
        block_out_channels=(32, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=16,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=0.3611,
        shift_factor=0.1159,
    ).eval()


def pipeline() -> ZImagePipeline:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = ZImagePipeline(scheduler, autoencoder(), text_encoder(), tokenizer(), transformer())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def randomised(net: nn.Module, scale: float) -> nn.Module:
    """Vectors too, norms and tokens among them: ones and zeros hide swaps."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.3 if parameter.ndim == 1 else scale)
    return net.eval()


def encoder_state(encoder: Qwen3ForCausalLM) -> dict[str, Tensor]:
    """Its tensors without the head, which is the table of tokens once more."""
    return {name: tensor for name, tensor in encoder.state_dict().items() if name != "lm_head.weight"}
