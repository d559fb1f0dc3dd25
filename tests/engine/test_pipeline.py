from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from tests.engine.test_plan import DEFAULTS

from darkroom.api.names import RngType
from darkroom.api.request import GenerationRequest
from darkroom.core.rng import make_rng
from darkroom.engine.pipeline import Start, decode, empty_start, encode_start
from darkroom.engine.plan import make_plan
from darkroom.families.latent_rgb import SD1_RGB
from darkroom.families.latents import LatentFormat
from darkroom.families.sd1 import StableDiffusion1
from darkroom.nets.vae.kl import AutoencoderKL, KLConfig

LATENT = LatentFormat(channels=4, downscale=8, scale=0.5, rgb=SD1_RGB, tiny="taesd", shift=0.25)


class Halved(StableDiffusion1):
    """A family whose latents are easily told from the autoencoder's."""

    latent = LATENT


FAMILY = Halved()


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(KLConfig(ch=32)).eval().requires_grad_(False)


def start_from(vae: AutoencoderKL, colour: str, mask: Image.Image | None, *, inpaints: bool) -> Start:
    request = GenerationRequest(
        init_image=Image.new("RGB", (64, 128), colour), mask_image=mask, seed=3, width=64, height=128
    )
    return encode_start(vae, make_plan(request, DEFAULTS), FAMILY, RngType.CUDA, inpaints)


def test_text_to_image_starts_from_nothing() -> None:
    plan = make_plan(GenerationRequest(width=64, height=128), DEFAULTS)
    start = empty_start(plan, FAMILY, inpaints=False)
    assert start.latent.shape == (1, 4, 16, 8)
    assert not start.latent.any()
    assert (start.mask, start.concat) == (None, None)


def test_an_inpainting_network_is_told_that_all_is_to_be_drawn() -> None:
    plan = make_plan(GenerationRequest(width=64, height=128), DEFAULTS)
    concat = empty_start(plan, FAMILY, inpaints=True).concat
    assert concat is not None
    assert concat.shape == (1, 5, 16, 8)
    assert (concat[:, 0] == 1).all()
    assert not concat[:, 1:].any()


def test_the_first_seeds_noise_samples_the_latent(vae: AutoencoderKL) -> None:
    pixels = torch.tensor([1.0, -1.0, -1.0]).reshape(1, 3, 1, 1).expand(1, 3, 128, 64)
    mean, logvar = vae.encode(pixels)
    noise = make_rng(RngType.CUDA, 3).randn((1, 4, 16, 8))
    expected = (mean + (logvar / 2).exp() * noise - 0.25) * 0.5
    torch.testing.assert_close(start_from(vae, "red", None, inpaints=False).latent, expected)


def test_the_mask_covers_every_latent_pixel_it_touches(vae: AutoencoderKL) -> None:
    mask = Image.new("L", (64, 128), 0)
    mask.putpixel((20, 70), 255)
    start = start_from(vae, "red", mask, inpaints=False)
    assert start.mask is not None
    assert start.mask.nonzero().tolist() == [[0, 0, 8, 2]]


def test_what_the_mask_hides_is_hidden(vae: AutoencoderKL) -> None:
    whole = Image.new("L", (64, 128), 255)
    red, blue = (start_from(vae, colour, whole, inpaints=True) for colour in ("red", "blue"))
    assert red.concat is not None
    assert blue.concat is not None
    assert torch.equal(red.concat, blue.concat)
    assert not torch.equal(red.latent, blue.latent)


def test_decoding_undoes_scale_and_shift(vae: AutoencoderKL) -> None:
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    pixels = ((vae.decode(z)[0] + 1) * 127.5 + 0.5).clamp(0, 255).to(torch.uint8)
    picture = decode(vae, (z - 0.25) * 0.5, LATENT)
    assert picture.size == (64, 64)
    drawn = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    assert (drawn.long() - pixels.long()).abs().max() <= 1


def test_a_start_moves_as_one() -> None:
    start = Start(torch.ones(1), torch.ones(1), None).map(lambda tensor: tensor * 2)
    assert (start.latent.item(), start.concat) == (2.0, None)
    assert start.mask is not None
    assert start.mask.item() == 2.0
