"""What an autoencoder's file is, for errors about one that does not fit."""

from __future__ import annotations

from darkroom.weights.index import TensorIndex

_KL = {4: "Stable Diffusion 1, 2 or SDXL", 16: "SD3 or Flux.1", 32: "Flux.2"}


def describe_autoencoder(index: TensorIndex) -> str:
    """A few words on an autoencoder under native or bare names: `a KL autoencoder with 4 latent channels`."""
    if "decoder.conv_in.weight" in index:
        channels = index["decoder.conv_in.weight"].shape[1]
        known = f" ({_KL[channels]})" if channels in _KL else ""
        return f"a KL autoencoder with {channels} latent channels{known}"
    return f"no autoencoder that is known ({len(index)} tensors)"
