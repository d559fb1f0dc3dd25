from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from darkroom.nets.te.clip import CLIPTextConfig, CLIPTextModel
from darkroom.nets.unet import UNetConfig, UNetModel
from darkroom.nets.vae.kl import AutoencoderKL, KLConfig


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion 1 file of random weights, narrow enough to draw in no time."""
    torch.manual_seed(0)
    te = CLIPTextConfig(49408, 77, hidden_size=64, intermediate_size=128, num_layers=2, num_heads=1)
    nets = {
        "cond_stage_model.transformer.": CLIPTextModel(te),
        "model.diffusion_model.": UNetModel(UNetConfig(model_channels=32, context_dim=64)),
        "first_stage_model.": AutoencoderKL(KLConfig(ch=32)),
    }
    tensors = {
        prefix + name: tensor.half().contiguous()
        for prefix, net in nets.items()
        for name, tensor in net.state_dict().items()
    }
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_file(tensors, path)
    return path
