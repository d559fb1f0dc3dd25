"""Every family's networks at full size with random weights, ours and their peers', on one CUDA GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import diffusers
import torch
import transformers
from torch import Tensor, nn

from darkroom.families.chroma.model import Chroma, ChromaNetConfig
from darkroom.families.flux.model import Flux, FluxNetConfig
from darkroom.families.qwen_image.model import QwenImageTransformer, QwenImageTransformerConfig
from darkroom.families.sd3.model import MMDiT, MMDiTConfig
from darkroom.families.z_image.model import ZImageTransformer, ZImageTransformerConfig
from darkroom.nets.flux_blocks import StreamsConfig
from darkroom.nets.te.clip import CLIPTextConfig, CLIPTextModel
from darkroom.nets.te.qwen import QwenConfig, QwenTextModel
from darkroom.nets.te.t5 import T5Config, T5EncoderModel
from darkroom.nets.unet import UNetConfig, UNetModel
from darkroom.nets.vae.kl import AutoencoderKL, KLConfig
from darkroom.nets.vae.wan import WanConfig, WanVAE
from darkroom.weights.bind import bind_weights
from darkroom.weights.source import MemorySource

DTYPE = torch.bfloat16
LATENT = 128
"""Latent pixels on a side of 1024x1024."""

Call = Callable[[nn.Module], Tensor]


@dataclass(frozen=True)
class Work:
    """One network's share of a picture: how both sides build it and what one call of it is.

    compiled: how diffusers compiles the peer: by its repeated blocks, as a whole, or not at all.
    """

    name: str
    build: Callable[[], nn.Module]
    call: Call
    build_peer: Callable[[], nn.Module]
    call_peer: Call
    compiled: str = ""


@dataclass(frozen=True)
class FamilyWork:
    """What a picture of 1024x1024 takes: steps, text, decoding."""

    step: Work
    text: tuple[Work, ...]
    decode: Work


def noise(*shape: int) -> Tensor:
    """Activations of unit variance on the card."""
    return torch.randn(*shape, device="cuda", dtype=DTYPE)


def times(batch: int, value: float) -> Tensor:
    """A timestep for each of a batch."""
    return torch.full((batch,), value, device="cuda")


def ids(length: int, vocabulary: int) -> Tensor:
    """Tokens of a prompt."""
    return torch.randint(0, vocabulary, (1, length), device="cuda")


def random_network(build: Callable[[], nn.Module]) -> nn.Module:
    """A network in bf16 with random weights of a sensible scale, on the card; norms as they start."""
    with torch.device("meta"):
        net = build().eval().requires_grad_(False)
    net = net.to(DTYPE).to_empty(device="cuda")
    generator = torch.Generator("cuda").manual_seed(0)
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        if not tensor.is_floating_point():  # the numbers of positions
            tensor.copy_(torch.arange(tensor.numel()).view_as(tensor))
        elif tensor.ndim > 1:
            tensor.normal_(0, 0.02, generator=generator)
        else:
            tensor.fill_(float(name.endswith(("weight", "scale", "gamma"))))
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
    return net


def bound_network(build: Callable[[], nn.Module]) -> nn.Module:
    """The same, its weights bound as those of a file are."""
    net = random_network(build)
    weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    device = torch.device("cuda")
    bind_weights(net, MemorySource(weights), device=device, dtype=DTYPE, subject="random weights")
    return net


# Flux.1 dev and Chroma1: 512 tokens of text.
_X, _CONTEXT = (1, 16, LATENT, LATENT), (1, 512, 4096)


def flux() -> FamilyWork:
    """Flux.1 dev."""
    x, t, context, vector, guidance = (
        noise(*_X),
        times(1, 0.5),
        noise(*_CONTEXT),
        noise(1, 768),
        times(1, 3.5),
    )
    tokens, image, text = noise(1, LATENT**2 // 4, 64), _flux_ids(), torch.zeros(512, 3, device="cuda")
    step = Work(
        "flux",
        lambda: Flux(FluxNetConfig(StreamsConfig())),
        lambda net: net(x, t, context, vector, guidance),
        lambda: diffusers.FluxTransformer2DModel(guidance_embeds=True),
        lambda net: net(
            hidden_states=tokens,
            timestep=t.to(DTYPE),
            guidance=guidance,
            pooled_projections=vector,
            encoder_hidden_states=context,
            txt_ids=text,
            img_ids=image,
            return_dict=False,
        )[0],
        compiled="blocks",
    )
    return FamilyWork(step, (t5(512), clip_l()), kl(16))


def chroma() -> FamilyWork:
    """Chroma1: guidance as a batch of two, the text masked."""
    x, t, context = noise(2, *_X[1:]), times(2, 0.5), noise(2, *_CONTEXT[1:])
    tokens, image, text = noise(2, LATENT**2 // 4, 64), _flux_ids(), torch.zeros(512, 3, device="cuda")
    mask = torch.ones(2, 512 + LATENT**2 // 4, device="cuda", dtype=torch.bool)
    step = Work(
        "chroma",
        lambda: Chroma(ChromaNetConfig(StreamsConfig())),
        lambda net: net(x, t, context),
        lambda: diffusers.ChromaTransformer2DModel(),
        lambda net: net(
            hidden_states=tokens,
            timestep=t.to(DTYPE),
            encoder_hidden_states=context,
            txt_ids=text,
            img_ids=image,
            attention_mask=mask,
            return_dict=False,
        )[0],
        compiled="blocks",
    )
    return FamilyWork(step, (t5(512),), kl(16))


def _flux_ids() -> Tensor:
    side = LATENT // 2
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.stack((torch.zeros(side, side), rows, columns), dim=-1).flatten(0, 1).to("cuda")


def sd3() -> FamilyWork:
    """Stable Diffusion 3.5 large: guidance as a batch of two, 77 + 256 tokens of text."""
    x, t, context, vector = noise(2, *_X[1:]), times(2, 500.0), noise(2, 333, 4096), noise(2, 2048)
    step = Work(
        "sd3",
        lambda: MMDiT(MMDiTConfig(2432, 38, 38, 4 * 2432, qk_norm=True)),
        lambda net: net(x, t, context, vector),
        lambda: diffusers.SD3Transformer2DModel(
            num_layers=38,
            num_attention_heads=38,
            caption_projection_dim=2432,
            pos_embed_max_size=192,
            qk_norm="rms_norm",
        ),
        lambda net: net(
            hidden_states=x,
            timestep=t,
            encoder_hidden_states=context,
            pooled_projections=vector,
            return_dict=False,
        )[0],
        compiled="whole",
    )
    return FamilyWork(step, (t5(256), clip_l(), clip_g()), kl(16))


def sdxl() -> FamilyWork:
    """SDXL base: guidance as a batch of two."""
    x, t, context = noise(2, 4, LATENT, LATENT), times(2, 500.0), noise(2, 77, 2048)
    x = x.to(memory_format=torch.channels_last)
    vector, pooled, sizes = noise(2, 2816), noise(2, 1280), noise(2, 6)
    config = UNetConfig(
        channel_mult=(1, 2, 4),
        num_res_blocks=(2, 2, 2),
        transformer_depth=(0, 2, 10),
        middle_depth=10,
        context_dim=2048,
        linear_proj=True,
        adm_in_channels=2816,
    )
    step = Work(
        "sdxl",
        lambda: UNetModel(config),
        lambda net: net(x, t, context, vector),
        _peer_sdxl,
        lambda net: net(
            x, t, context, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}, return_dict=False
        )[0],
        compiled="whole",
    )
    return FamilyWork(step, (clip_l(), clip_g()), kl(4))


def _peer_sdxl() -> nn.Module:
    return diffusers.UNet2DConditionModel(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(320, 640, 1280),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def qwen_image() -> FamilyWork:
    """Qwen-Image: guidance as a batch of two, 256 tokens of text."""
    x, t, context = noise(2, *_X[1:]), times(2, 500.0), noise(2, 256, 3584)
    tokens, sizes = noise(2, LATENT**2 // 4, 64), [[(1, LATENT // 2, LATENT // 2)]] * 2
    step = Work(
        "qwen_image",
        lambda: QwenImageTransformer(QwenImageTransformerConfig()),
        lambda net: net(x, t, context),
        _peer_qwen_image,
        lambda net: net(
            hidden_states=tokens,
            timestep=t.to(DTYPE) / 1000,
            encoder_hidden_states=context,
            encoder_hidden_states_mask=None,
            img_shapes=sizes,
            return_dict=False,
        )[0],
        compiled="blocks",
    )
    return FamilyWork(step, (qwen25(256),), wan())


def _peer_qwen_image() -> nn.Module:
    net = diffusers.QwenImageTransformer2DModel()
    with torch.device("cpu"):  # its table of angles is no buffer and would stay without numbers
        net.pos_embed = type(net.pos_embed)(theta=10000, axes_dim=[16, 56, 56], scale_rope=True)
    return net


def z_image() -> FamilyWork:
    """Z-Image Turbo, 128 tokens of text."""
    x, t, context = noise(*_X), times(1, 500.0), noise(1, 128, 2560)
    step = Work(
        "z_image",
        lambda: ZImageTransformer(ZImageTransformerConfig()),
        lambda net: net(x, t, context),
        lambda: diffusers.ZImageTransformer2DModel(),
        lambda net: net([x[0][:, None]], t / 1000, [context[0]], return_dict=False)[0][0],
        compiled="blocks",
    )
    return FamilyWork(step, (qwen3(128),), kl(16))


def kl(channels: int) -> Work:
    """The autoencoder of SDXL (4 channels), or of SD3, Flux, Chroma and Z-Image (16)."""
    z = noise(1, channels, LATENT, LATENT).to(memory_format=torch.channels_last)
    has_quant = channels == 4
    config = KLConfig(z_channels=channels, embed_dim=channels, use_quant_conv=has_quant)
    return Work(
        f"KL decoder, {channels} channels",
        lambda: AutoencoderKL(config),
        lambda net: net.decode(z),  # type: ignore[operator]
        lambda: diffusers.AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            use_quant_conv=has_quant,
            use_post_quant_conv=has_quant,
        ),
        lambda net: net.decode(z, return_dict=False)[0],  # type: ignore[operator]
    )


def wan() -> Work:
    """The autoencoder of Qwen-Image."""
    z = noise(1, 16, LATENT, LATENT)
    return Work(
        "Wan decoder",
        lambda: WanVAE(WanConfig()),
        lambda net: net.decode(z),  # type: ignore[operator]
        lambda: diffusers.AutoencoderKLQwenImage(),
        lambda net: net.decode(z[:, :, None], return_dict=False)[0],  # type: ignore[operator]
    )


def t5(length: int) -> Work:
    """T5-XXL's encoder."""
    tokens = ids(length, 32000)
    return Work(
        f"T5-XXL, {length} tokens",
        lambda: T5EncoderModel(T5Config(32128, 4096, 10240, 4096, 24, 64, 32)),
        lambda net: net(tokens),
        lambda: transformers.T5EncoderModel(
            transformers.T5Config(
                d_model=4096,
                d_ff=10240,
                num_layers=24,
                num_heads=64,
                feed_forward_proj="gated-gelu",
                vocab_size=32128,
            )
        ),
        lambda net: net(tokens)[0],
    )


def clip_l() -> Work:
    """CLIP-L's text encoder."""
    return _clip("CLIP-L", 768, 12, 12, "quick_gelu")


def clip_g() -> Work:
    """OpenCLIP-bigG's text encoder."""
    return _clip("CLIP-G", 1280, 32, 20, "gelu")


def _clip(name: str, width: int, layers: int, heads: int, activation: str) -> Work:
    tokens = ids(77, 49000)
    tokens[:, -1] = 49407
    return Work(
        name,
        lambda: CLIPTextModel(CLIPTextConfig(49408, 77, width, 4 * width, layers, heads, activation)),  # type: ignore[arg-type]
        lambda net: net(tokens),
        lambda: transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                hidden_act=activation,
                eos_token_id=49407,
            )
        ),
        lambda net: net(tokens)[0],
    )


def qwen25(length: int) -> Work:
    """Qwen2.5-VL-7B, the part that reads text."""
    tokens = ids(length, 150000)
    return Work(
        f"Qwen2.5-VL-7B, {length} tokens",
        lambda: QwenTextModel(QwenConfig(152064, 3584, 18944, 28, 28, 4, 128, True, False)),
        lambda net: net(tokens),
        lambda: transformers.Qwen2Model(
            transformers.Qwen2Config(
                vocab_size=152064,
                hidden_size=3584,
                intermediate_size=18944,
                num_hidden_layers=28,
                num_attention_heads=28,
                num_key_value_heads=4,
            )
        ),
        lambda net: net(tokens, use_cache=False)[0],
    )


def qwen3(length: int) -> Work:
    """Qwen3-4B."""
    tokens = ids(length, 150000)
    return Work(
        f"Qwen3-4B, {length} tokens",
        lambda: QwenTextModel(QwenConfig(151936, 2560, 9728, 36, 32, 8, 128, False, True)),
        lambda net: net(tokens),
        lambda: transformers.Qwen3Model(
            transformers.Qwen3Config(
                vocab_size=151936,
                hidden_size=2560,
                intermediate_size=9728,
                num_hidden_layers=36,
                num_attention_heads=32,
                num_key_value_heads=8,
                head_dim=128,
            )
        ),
        lambda net: net(tokens, use_cache=False)[0],
    )


FAMILIES: dict[str, Callable[[], FamilyWork]] = {
    "sdxl": sdxl,
    "sd3": sd3,
    "flux": flux,
    "chroma": chroma,
    "qwen_image": qwen_image,
    "z_image": z_image,
}
