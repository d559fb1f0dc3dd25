"""Full-size Stable Diffusion checkpoints with random weights, in the names and shapes of the real files.

python benchmarks/random_checkpoint.py sd1 model.safetensors
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from darkroom.nets.te.clip import CLIPTextConfig, CLIPTextModel
from darkroom.nets.unet import UNetConfig, UNetModel
from darkroom.nets.vae.kl import AutoencoderKL, KLConfig

CLIP_L = CLIPTextConfig(49408, 77, 768, 3072, 12, 12, "quick_gelu")
OPEN_CLIP_H = CLIPTextConfig(49408, 77, 1024, 4096, 24, 16, "gelu")

# Branches that are added to their input: at half strength the sum stays finite over the whole depth.
RESIDUAL = re.compile(r"(to_out\.0|net\.2|proj_out|out_layers\.3|conv2|out_proj|fc2)\.weight$")
NORM = re.compile(r"(norm\w*|in_layers\.0|out_layers\.0|^out\.0)\.weight$")


def main() -> None:
    """Writes the file that the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kind", choices=["sd1", "sd2"])
    parser.add_argument("path", type=Path)
    args = parser.parse_args()
    write_checkpoint(args.path, args.kind)


def write_checkpoint(path: Path, kind: str, seed: int = 0) -> None:
    """A float16 safetensors file of all tensors of SD 1.5 or SD 2.1. The same seed gives the same file."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    with torch.device("meta"):
        unet = UNetModel(UNetConfig() if kind == "sd1" else UNetConfig(context_dim=1024, linear_proj=True))
        vae = AutoencoderKL(KLConfig())
        te = CLIPTextModel(CLIP_L if kind == "sd1" else OPEN_CLIP_H)
    tensors.update(random_weights(unet, "model.diffusion_model.", generator))
    tensors.update(random_weights(vae, "first_stage_model.", generator))
    weights = dict(random_weights(te, "", generator))
    if kind == "sd1":
        tensors.update({f"cond_stage_model.transformer.{name}": weight for name, weight in weights.items()})
    else:
        tensors.update(open_clip_names(weights))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)


def random_weights(net: nn.Module, prefix: str, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    """Weights of a plausible scale for every tensor of `net`, float16."""
    for name, like in net.state_dict().items():
        weight = torch.randn(like.shape, generator=generator)
        if like.ndim >= 2:
            weight /= 50 if "embedding" in name else like[0].numel() ** 0.5
            weight *= 0.5 if RESIDUAL.search(name) else 1
        else:
            weight = 1 + 0.1 * weight if NORM.search(name) else 0.02 * weight
        yield prefix + name, weight.half()


OPEN_CLIP: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"self_attn\.out_proj", "attn.out_proj"),
    (r"layer_norm([12])", r"ln_\1"),
    (r"mlp\.fc1", "mlp.c_fc"),
    (r"mlp\.fc2", "mlp.c_proj"),
    (r"^text_model\.embeddings\.token_embedding", "token_embedding"),
    (r"^text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^text_model\.final_layer_norm", "ln_final"),
)


def open_clip_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """CLIP weights as Stable Diffusion 2's files spell them: open_clip's names, q, k and v in one matrix."""
    renamed: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if re.search(r"self_attn\.[kv]_proj", name):
            continue
        if "self_attn.q_proj" in name:
            weight = torch.cat([weights[name.replace("q_proj", f"{part}_proj")] for part in "qkv"])
            name = re.sub(r"self_attn\.q_proj\.(weight|bias)", r"attn.in_proj_\1", name)
        for pattern, replacement in OPEN_CLIP:
            name = re.sub(pattern, replacement, name)
        renamed[f"cond_stage_model.model.{name}"] = weight
    return renamed


if __name__ == "__main__":
    main()
