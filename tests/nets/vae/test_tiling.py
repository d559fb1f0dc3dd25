"""Autoencoders tile by tile against the same ones run at once."""

from __future__ import annotations

import pytest
import torch
from tests.runtime.test_budget import PeakMemory
from torch import Tensor

from darkroom.nets.vae.kl import AutoencoderKL, KLConfig
from darkroom.nets.vae.tiling import decode_tiled, encode_tiled
from darkroom.nets.vae.wan import WanConfig, WanVAE

HALF_A_GREY_LEVEL = 1 / 255
"""Of pixels in [-1, 1]."""

KL = AutoencoderKL(KLConfig(ch=32, ch_mult=(1, 2, 2, 2)))
SHALLOW = AutoencoderKL(KLConfig(ch=32, ch_mult=(1, 2), num_res_blocks=1, z_channels=8, embed_dim=8))
NO_QUANT = AutoencoderKL(
    KLConfig(ch=32, ch_mult=(1, 2, 2), z_channels=16, embed_dim=16, use_quant_conv=False)
)
WAN = WanVAE(WanConfig(dim=16, dim_mult=(1, 2, 2, 2)))
WAN_UNEVEN = WanVAE(WanConfig(dim=8, dim_mult=(1, 2, 4), temporal_downsample=(False, True), time_kernel=1))
NETS = {"kl": KL, "shallow": SHALLOW, "no-quant": NO_QUANT, "wan": WAN, "wan-uneven": WAN_UNEVEN}
EVERY_NET = pytest.mark.parametrize("vae", NETS.values(), ids=NETS)


@pytest.fixture(autouse=True, scope="module")
def weights() -> None:
    torch.manual_seed(0)
    for net in NETS.values():
        net.eval().requires_grad_(False)
        for parameter in net.parameters():  # norms too: with ones and zeros a wrong channel would be right
            parameter.add_(0.05 * torch.randn_like(parameter))


def latent_of(vae: AutoencoderKL | WanVAE, height: int, width: int) -> Tensor:
    channels = vae.config.embed_dim if isinstance(vae, AutoencoderKL) else vae.config.z_dim
    torch.manual_seed(1)
    return torch.randn(1, channels, height, width)


@EVERY_NET
@pytest.mark.parametrize("tile", [(4, 4), (5, 3), (7, 50), (64, 64)])
@torch.inference_mode()
def test_decoding_is_that_of_the_whole_picture(vae: AutoencoderKL | WanVAE, tile: tuple[int, int]) -> None:
    z = latent_of(vae, 11, 13)
    whole = vae.decode(z)
    assert (decode_tiled(vae, z, tile) - whole).abs().max() < 1e-4 * whole.abs().max()


@EVERY_NET
@torch.inference_mode()
def test_encoding_is_that_of_the_whole_picture(vae: AutoencoderKL | WanVAE) -> None:
    x = torch.rand(1, 3, 11 * vae.downscale, 13 * vae.downscale) * 2 - 1
    for got, expected in zip(encode_tiled(vae, x, (5, 4)), vae.encode(x), strict=True):
        assert (got - expected).abs().max() < 1e-4 * expected.abs().max()


@EVERY_NET
@torch.inference_mode()
def test_no_grid_is_seen_at_the_edges_of_tiles(vae: AutoencoderKL | WanVAE) -> None:
    """In bf16, too, whose rounding is all that differs: no more at the edges of tiles than elsewhere."""
    z, side = latent_of(vae, 12, 12).bfloat16(), vae.downscale
    difference = (decode_tiled(vae.bfloat16(), z, (4, 4)) - vae.decode(z)).float().abs()
    vae.float()
    edges = torch.zeros(12 * side, dtype=torch.bool)
    for edge in (4 * side, 8 * side):
        edges[edge - 1 : edge + 1] = True
    at_edges, elsewhere = difference[..., edges].mean(), difference[..., ~edges].mean()
    assert at_edges < 1.3 * elsewhere + 1e-6
    assert difference.mean() < 2 * HALF_A_GREY_LEVEL


@torch.inference_mode()
def test_pictures_in_channels_last_stay_so_and_may_wait_elsewhere() -> None:
    z = latent_of(KL, 9, 6)
    whole = KL.decode(z)
    got = decode_tiled(KL, z.contiguous(memory_format=torch.channels_last), (4, 4), home=torch.device("cpu"))
    assert (got - whole).abs().max() < 1e-4 * whole.abs().max()


@pytest.mark.parametrize("vae", [KL, WAN], ids=["kl", "wan"])
@torch.inference_mode()
def test_tiles_are_counted_before_they_are_done(vae: AutoencoderKL | WanVAE) -> None:
    told: list[tuple[int, int]] = []
    decode_tiled(vae, latent_of(vae, 8, 8), (4, 4), on_tile=lambda done, total: told.append((done, total)))
    total = told[0][1]
    assert told == [(done, total) for done in range(1, total + 1)]
    told.clear()
    x = torch.zeros(1, 3, 8 * vae.downscale, 8 * vae.downscale)
    encode_tiled(vae, x, (4, 4), on_tile=lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == list(range(1, told[0][1] + 1))


@torch.inference_mode()
def test_work_stops_where_the_listener_raises() -> None:
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode_tiled(KL, latent_of(KL, 8, 8), (4, 4), on_tile=stop)


@pytest.mark.parametrize(("kind", "share"), [("kl", 0.35), ("wan", 0.25)])
@torch.inference_mode()
def test_tiles_take_a_fraction_of_the_memory(kind: str, share: float) -> None:
    """At full size, with tensors that have no memory; whole pictures between the blocks are counted."""
    with torch.device("meta"):
        vae = AutoencoderKL(KLConfig()) if kind == "kl" else WanVAE(WanConfig())
        z = torch.empty(1, 4 if kind == "kl" else 16, 256, 256, dtype=torch.bfloat16)
    vae.eval().bfloat16().requires_grad_(False)
    with PeakMemory(vae) as whole:
        vae.decode(z)
    with PeakMemory(vae) as tiled:
        decode_tiled(vae, z, (32, 32))
    assert tiled.peak < share * whole.peak


@torch.inference_mode()
def test_pieces_of_a_segment_have_one_shape() -> None:
    """Each new shape makes cuDNN look for its algorithms anew."""
    shapes: set[torch.Size] = set()
    conv = KL.decoder.conv_out
    handle = conv.register_forward_pre_hook(lambda _, args: shapes.add(args[0].shape))
    decode_tiled(KL, latent_of(KL, 19, 23), (4, 5))
    handle.remove()
    assert len(shapes) == 1
