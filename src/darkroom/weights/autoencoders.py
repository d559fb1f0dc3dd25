"""What an autoencoder's file is, for errors about one that does not fit."""

from __future__ import annotations

from collections.abc import Mapping

from darkroom.weights.index import TensorIndex
from darkroom.weights.spellings import VAE

_KL = {4: "Stable Diffusion 1, 2 or SDXL", 16: "SD3 or Flux.1", 32: "Flux.2"}
_WAN = {16: "Wan 2.1 or Qwen-Image", 48: "Wan 2.2"}

# The first convolution of TAESD's decoder: in diffusers' names, its author's, and in a file without encoder.
_TINY = ("decoder.layers.0.weight", "decoder.layers.1.weight", "decoder.1.weight", "1.weight")

_PREFIXES = (VAE, "vae.", "tae.")

Shapes = Mapping[str, tuple[int, ...]]


def describe_autoencoder(index: TensorIndex) -> str | None:
    """A few words on an autoencoder, `a KL autoencoder with 16 latent channels (SD3 or Flux.1)`, or None.

    index: under native or diffusers' names, with a prefix or bare.
    """
    shapes = next((part.shapes() for prefix in _PREFIXES if (part := index.under(prefix))), index.shapes())
    return _describe_tiny(shapes) or _describe_wan(shapes) or _describe_other(shapes)


def _describe_tiny(shapes: Shapes) -> str | None:
    name = next((name for name in _TINY if len(shapes.get(name, ())) == 4), None)
    return name and f"a tiny autoencoder (TAESD) with {shapes[name][1]} latent channels, for previews"


def _describe_wan(shapes: Shapes) -> str | None:
    """Its convolutions have five axes, or four where they were folded or cut down to pictures."""
    if "decoder.conv1.weight" in shapes and "conv2.bias" in shapes:
        channels = shapes["conv2.bias"][0]
    elif len(first := shapes.get("decoder.conv_in.weight", ())) == 5:
        channels = first[1]
    else:
        return None
    pixels = shapes.get("encoder.conv1.weight", shapes.get("encoder.conv_in.weight", ()))[1:2]
    known = "Qwen-Image-Layered" if (channels, pixels) == (16, (4,)) else _WAN.get(channels)
    return f"a video autoencoder with {channels} latent channels{f' ({known})' if known else ''}"


def _describe_other(shapes: Shapes) -> str | None:
    if video := shapes.get("decoder.conv_in.conv.weight"):
        return f"a video autoencoder with {video[1]} latent channels (such as LTX-Video's or HunyuanVideo's)"
    if "decoder.conv_in.weight" not in shapes:
        return None
    channels = shapes["decoder.conv_in.weight"][1]
    if any("temporal_res_block" in name or "time_stack" in name for name in shapes):
        return f"a video autoencoder with {channels} latent channels (Stable Video Diffusion)"
    known = _KL.get(channels)
    if known is None or (channels == 32 and "bn.running_mean" not in shapes):
        return f"an autoencoder with {channels} latent channels"
    return f"a KL autoencoder with {channels} latent channels ({known})"
