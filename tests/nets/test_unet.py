"""The UNet against diffusers' on the same random checkpoint, and its configuration read from shapes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from torch import Tensor

from darkroom.api.names import PredictionType, Scheduler
from darkroom.layers.embed import timestep_embedding
from darkroom.nets.unet import UNetConfig, UNetModel
from darkroom.sampling.prediction import make_prediction
from darkroom.sampling.schedules import get_sigmas

SD1 = UNetConfig(model_channels=32, channel_mult=(1, 2, 4, 4), context_dim=24)
SD2 = UNetConfig(model_channels=64, channel_mult=(1, 2), num_res_blocks=(2, 2), transformer_depth=(1, 0),
                 context_dim=32, linear_proj=True)  # fmt: skip
INPAINT = UNetConfig(in_channels=9, model_channels=32, channel_mult=(1, 2), num_res_blocks=(1, 1),
                     transformer_depth=(1, 1), context_dim=16)  # fmt: skip
DEEP = UNetConfig(model_channels=64, channel_mult=(1, 2), num_res_blocks=(1, 1), transformer_depth=(0, 2),
                  middle_depth=2, context_dim=16, linear_proj=True)  # fmt: skip
SDXL = UNetConfig(model_channels=64, channel_mult=(1, 2, 4), num_res_blocks=(2, 2, 2),
                  transformer_depth=(0, 2, 3), middle_depth=3, context_dim=48, linear_proj=True,
                  adm_in_channels=80)  # fmt: skip
SDXL_INPAINT = replace(SDXL, in_channels=9, transformer_depth=(0, 1, 1), middle_depth=1)
# Segmind's distillations: the middle is one residual block, and the way up has depths of its own.
SSD_1B = replace(SDXL, transformer_depth=(0, 2, 3), output_depth=((3, 3, 5), (2, 1, 1), (0, 0, 0)),
                 middle_depth=None)  # fmt: skip
VEGA = replace(SDXL, transformer_depth=(0, 1, 2), middle_depth=None)
ALL = {"sd1": SD1, "sd2": SD2, "inpaint": INPAINT, "deep": DEEP, "sdxl": SDXL, "sdxl-inpaint": SDXL_INPAINT,
       "ssd-1b": SSD_1B, "vega": VEGA}  # fmt: skip
CONFIGS = pytest.mark.parametrize("config", ALL.values(), ids=ALL.keys())

SDXL_1_0 = UNetConfig(channel_mult=(1, 2, 4), num_res_blocks=(2, 2, 2), transformer_depth=(0, 2, 10),
                      middle_depth=10, context_dim=2048, linear_proj=True, adm_in_channels=2816)  # fmt: skip

SIZES = 8  # of diffusers' embedding of a number, of which SDXL has six


def random_unet(config: UNetConfig) -> UNetModel:
    torch.manual_seed(0)
    net = UNetModel(config).eval()
    with torch.no_grad():
        for parameter in net.parameters():  # norms too: ones and zeros would hide swapped weights
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return net


def diffusers_unet(config: UNetConfig, state: dict[str, Tensor]) -> UNet2DConditionModel:
    widths = tuple(mult * config.model_channels for mult in config.channel_mult)
    reference = UNet2DConditionModel(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        block_out_channels=widths,
        layers_per_block=config.num_res_blocks[0],
        down_block_types=tuple(
            "CrossAttnDownBlock2D" if d else "DownBlock2D" for d in config.transformer_depth
        ),
        up_block_types=tuple(
            "CrossAttnUpBlock2D" if d else "UpBlock2D" for d in config.transformer_depth[::-1]
        ),
        transformer_layers_per_block=tuple(max(d, 1) for d in config.transformer_depth),
        reverse_transformer_layers_per_block=None
        if config.output_depth is None
        else tuple(tuple(max(d, 1) for d in depths) for depths in config.output_depth),
        mid_block_type="UNetMidBlock2D" if config.middle_depth is None else "UNetMidBlock2DCrossAttn",
        cross_attention_dim=config.context_dim,
        attention_head_dim=tuple(config.heads(width) for width in widths),  # diffusers' name for heads
        use_linear_projection=config.linear_proj,
        addition_embed_type=None if config.adm_in_channels is None else "text_time",
        addition_time_embed_dim=SIZES,
        projection_class_embeddings_input_dim=config.adm_in_channels,
    )
    native = {f"model.diffusion_model.{name}": tensor for name, tensor in state.items()}
    converted = convert_ldm_unet_checkpoint(native, {**reference.config}, extract_ema=False)
    reference.load_state_dict(converted, strict=True)
    return reference.eval()


def random_vector(config: UNetConfig) -> tuple[Tensor | None, dict[str, Tensor] | None]:
    """SDXL's vector (2, D) of text and sizes, as it is and as diffusers takes it; None for other UNets."""
    if config.adm_in_channels is None:
        return None, None
    pooled = torch.randn(2, config.adm_in_channels - 6 * SIZES)
    sizes = torch.tensor([[64.0, 96, 0, 0, 64, 96], [64, 96, 8, 4, 32, 32]])
    y = torch.cat((pooled, timestep_embedding(sizes.flatten(), SIZES).view(2, -1)), dim=1)
    return y, {"text_embeds": pooled, "time_ids": sizes}


@CONFIGS
@torch.inference_mode()
def test_output_equals_diffusers(config: UNetConfig) -> None:
    net = random_unet(config)
    reference = diffusers_unet(config, net.state_dict())
    x = torch.randn(2, config.in_channels, 16, 24)
    t = torch.tensor([999.0, 3.5])
    context = torch.randn(2, 77, config.context_dim)
    y, added = random_vector(config)

    expected = reference(x, t, context, added_cond_kwargs=added).sample
    got = net(x.contiguous(memory_format=torch.channels_last), t, context, y)

    assert (got - expected).abs().max() / expected.abs().max() < 1e-4


@pytest.mark.parametrize("config", [SDXL, SSD_1B, VEGA], ids=("sdxl", "ssd-1b", "vega"))
@torch.inference_mode()
def test_a_short_run_in_bfloat16_stays_near_diffusers(config: UNetConfig) -> None:
    net = random_unet(config)
    reference = diffusers_unet(config, net.state_dict())
    net.bfloat16()
    context = torch.randn(2, 77, config.context_dim)
    y, added = random_vector(config)
    assert y is not None
    start = torch.randn(2, 4, 16, 16)
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="linspace"
    )
    scheduler.set_timesteps(5)
    exact = start * scheduler.sigmas[0]
    for t in scheduler.timesteps:
        eps = reference(scheduler.scale_model_input(exact, t), t, context, added_cond_kwargs=added).sample
        exact = scheduler.step(eps, t, exact).prev_sample

    prediction = make_prediction(PredictionType.EPS)
    sigmas = get_sigmas(Scheduler.DISCRETE, 5, prediction).tolist()
    x = start * sigmas[0]
    for sigma, following in pairwise(sigmas):
        timesteps = torch.full((2,), prediction.timestep(sigma))
        inputs = (prediction.scale_input(x, sigma).bfloat16(), timesteps, context.bfloat16(), y.bfloat16())
        denoised = prediction.denoised(net(*inputs), x, sigma)
        x = x + (x - denoised) / sigma * (following - sigma)
    assert (x - exact).norm() / exact.norm() < 2e-2


@CONFIGS
def test_config_is_read_from_shapes(config: UNetConfig) -> None:
    with torch.device("meta"):
        net = UNetModel(config)
    assert UNetConfig.from_shapes({name: tuple(p.shape) for name, p in net.state_dict().items()}) == config


def test_full_size_has_the_published_parameter_counts() -> None:
    with torch.device("meta"):
        sd1 = UNetModel(UNetConfig())
        sd2 = UNetModel(UNetConfig(context_dim=1024, linear_proj=True))
        sdxl = UNetModel(SDXL_1_0)
        ssd_1b = UNetModel(
            replace(
                SDXL_1_0,
                transformer_depth=(0, 2, 4),
                output_depth=((4, 4, 10), (2, 1, 1), (0, 0, 0)),
                middle_depth=None,
            )
        )
        vega = UNetModel(replace(SDXL_1_0, transformer_depth=(0, 1, 2), middle_depth=None))
    assert sum(p.numel() for p in sd1.parameters()) == 859_520_964
    assert sum(p.numel() for p in sd2.parameters()) == 865_910_724
    assert sum(p.numel() for p in sdxl.parameters()) == 2_567_463_684
    assert sum(p.numel() for p in ssd_1b.parameters()) == pytest.approx(1.33e9, rel=0.01)
    assert sum(p.numel() for p in vega.parameters()) == pytest.approx(0.745e9, rel=0.01)


def test_a_file_without_a_block_is_no_unet() -> None:
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in UNetModel(SDXL).state_dict().items()}
    for lost in ("middle_block.0.in_layers.2.weight", "output_blocks.8.0.in_layers.2.weight", "out.2.weight"):
        with pytest.raises(KeyError, match=lost.replace(".", r"\.")):
            UNetConfig.from_shapes({name: shape for name, shape in shapes.items() if name != lost})


def test_gradients_reach_every_parameter() -> None:
    net = random_unet(INPAINT)
    net(torch.randn(1, 9, 8, 8), torch.tensor([7.0]), torch.randn(1, 5, 16)).square().mean().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []
