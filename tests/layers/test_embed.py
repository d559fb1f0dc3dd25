"""Timestep embeddings against diffusers'."""

from __future__ import annotations

import torch
from diffusers.models.embeddings import get_timestep_embedding

from darkroom.layers.embed import timestep_embedding


def test_timestep_embedding_equals_diffusers() -> None:
    t = torch.tensor([0.0, 0.25, 1.0, 500.5, 999.0])
    expected = get_timestep_embedding(t, 320, flip_sin_to_cos=True, downscale_freq_shift=0)
    torch.testing.assert_close(timestep_embedding(t, 320), expected, rtol=0, atol=1e-4)  # an ulp of 999
