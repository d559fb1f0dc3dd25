"""Full-size Stable Diffusion checkpoints, SDXL among them, with random weights in the layout of real files.

python benchmarks/random_checkpoint.py sd1 model.safetensors
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from darkroom.families.chroma.model import Chroma, ChromaNetConfig
from darkroom.families.flux.model import Flux, FluxNetConfig
from darkroom.families.sd3.model import MMDiT, MMDiTConfig
from darkroom.nets.flux_blocks import StreamsConfig
from darkroom.nets.te.clip import CLIPTextConfig, CLIPTextModel
from darkroom.nets.te.t5 import T5Config, T5EncoderModel
from darkroom.nets.unet import UNetConfig, UNetModel
from darkroom.nets.vae.kl import AutoencoderKL, KLConfig

CLIP_L = CLIPTextConfig(49408, 77, 768, 3072, 12, 12, "quick_gelu")
OPEN_CLIP_H = CLIPTextConfig(49408, 77, 1024, 4096, 24, 16, "gelu")
OPEN_CLIP_BIGG = CLIPTextConfig(49408, 77, 1280, 5120, 32, 20, "gelu", projection_dim=1280)
T5_XXL_OF_ONE_LAYER = T5Config(32128, 4096, 10240, 4096, 1, 64, 32)

# 64 channels for each layer, as in the real ones; 3.5 is medium's kind.
SD3 = {
    "sd3": MMDiTConfig(hidden_size=128, num_layers=2, num_heads=2, mlp_size=512),
    "sd3.5": MMDiTConfig(
        hidden_size=192,
        num_layers=3,
        num_heads=3,
        mlp_size=768,
        positions=384,
        qk_norm=True,
        dual_blocks=(0, 1),
    ),
}
# As narrow as heads of 128 allow; how many blocks Chroma has is a constant to stable-diffusion.cpp.
FLUX_STREAMS = StreamsConfig(hidden_size=256, mlp_size=1024, depth=2, depth_single=2)
FLUX = {
    "flux": FluxNetConfig(FLUX_STREAMS),
    "flux-schnell": FluxNetConfig(FLUX_STREAMS, has_guidance=False),
    "flux-fill": FluxNetConfig(replace(FLUX_STREAMS, in_channels=384)),
    "chroma": ChromaNetConfig(replace(FLUX_STREAMS, depth=19, depth_single=38)),
}
SDXL = UNetConfig(
    channel_mult=(1, 2, 4),
    num_res_blocks=(2, 2, 2),
    transformer_depth=(0, 2, 10),
    middle_depth=10,
    context_dim=2048,
    linear_proj=True,
    adm_in_channels=2816,
)
UNETS = {
    "sd1": UNetConfig(),
    "sd2": UNetConfig(context_dim=1024, linear_proj=True),
    "sdxl": SDXL,
    "vega": replace(SDXL, transformer_depth=(0, 1, 2), middle_depth=None),
}

# Branches that are added to their input: at half strength the sum stays finite over the whole depth.
RESIDUAL = re.compile(
    r"(to_out\.0|net\.2|proj_out|out_layers\.3|conv2|out_proj|fc2|attn2?\.proj|_mlp\.2|linear2)\.weight$"
)
NORM = re.compile(r"((norm\w*|in_layers\.0|out_layers\.0|^out\.0|ln_[qk])\.weight|\.scale)$")


def main() -> None:
    """Writes the file that the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kind", choices=list(UNETS))
    parser.add_argument("path", type=Path)
    args = parser.parse_args()
    write_checkpoint(args.path, args.kind)


def write_checkpoint(path: Path, kind: str, seed: int = 0) -> None:
    """A float16 safetensors file of all tensors of SD 1.5, SD 2.1, SDXL or Segmind-Vega.

    The same seed gives the same file.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    with torch.device("meta"):
        unet = UNetModel(UNETS[kind])
        vae = AutoencoderKL(KLConfig())
    tensors.update(random_weights(unet, "model.diffusion_model.", generator))
    tensors.update(random_weights(vae, "first_stage_model.", generator))
    match kind:
        case "sd1":
            tensors.update(random_clip(CLIP_L, "cond_stage_model.transformer.", generator))
        case "sd2":
            weights = random_clip(OPEN_CLIP_H, "", generator)
            tensors.update(open_clip_names(weights, "cond_stage_model.model."))
        case _:
            tensors.update(random_clip(CLIP_L, "conditioner.embedders.0.transformer.", generator))
            weights = random_clip(OPEN_CLIP_BIGG, "", generator)
            # stable-diffusion.cpp does not turn open_clip's matrix; one that is symmetric suits everybody.
            projection = weights["text_projection.weight"]
            weights["text_projection.weight"] = ((projection + projection.mT) / 2).contiguous()
            tensors.update(open_clip_names(weights, "conditioner.embedders.1.model."))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)


def random_clip(config: CLIPTextConfig, prefix: str, generator: torch.Generator) -> dict[str, Tensor]:
    """A text encoder's weights."""
    with torch.device("meta"):
        te = CLIPTextModel(config)
    return dict(random_weights(te, prefix, generator))


def write_sd3(folder: Path, kind: str, seed: int = 0) -> dict[str, Path]:
    """The files of a Stable Diffusion 3, by sd-cli's flag, where they are not there yet.

    Its transformer is small and T5 has one layer; CLIP-L, CLIP-G and the autoencoder have full size.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        model = {
            "model.diffusion_model.": MMDiT(SD3[kind]),
            "first_stage_model.": AutoencoderKL(KLConfig(z_channels=16, embed_dim=16, use_quant_conv=False)),
        }
        files: dict[str, tuple[str, dict[str, nn.Module]]] = {
            "-m": (kind, model),
            "--clip_l": ("sd3-clip_l", {"": CLIPTextModel(CLIP_L)}),
            "--clip_g": ("sd3-clip_g", {"": CLIPTextModel(OPEN_CLIP_BIGG)}),
            "--t5xxl": ("sd3-t5xxl", {"": T5EncoderModel(T5_XXL_OF_ONE_LAYER)}),
        }
    return write_files(folder, files, generator)


def write_flux(folder: Path, kind: str, seed: int = 0) -> dict[str, Path]:
    """The files of a Flux.1 or a Chroma, by sd-cli's flag, where they are not there yet.

    Its transformer is narrow and T5 has one layer; CLIP-L and the autoencoder have full size.
    """
    generator = torch.Generator().manual_seed(seed)
    config = FLUX[kind]
    with torch.device("meta"):
        files: dict[str, tuple[str, dict[str, nn.Module]]] = {
            "--vae": (
                "flux-ae",
                {"": AutoencoderKL(KLConfig(z_channels=16, embed_dim=16, use_quant_conv=False))},
            ),
            "--t5xxl": ("flux-t5xxl", {"": T5EncoderModel(T5_XXL_OF_ONE_LAYER)}),
        }
        if isinstance(config, ChromaNetConfig):
            files["--diffusion-model"] = (kind, {"": Chroma(config)})
        else:
            files["--clip_l"] = ("flux-clip_l", {"": CLIPTextModel(CLIP_L)})
            files["--diffusion-model"] = (kind, {"": Flux(config)})
    return write_files(folder, files, generator)


def write_files(
    folder: Path, files: Mapping[str, tuple[str, dict[str, nn.Module]]], generator: torch.Generator
) -> dict[str, Path]:
    """Files of several networks each, where they are not there yet; paths by flag.

    files: flag to the file's stem and its networks, by what comes in front of their names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {flag: folder / f"{stem}.safetensors" for flag, (stem, _) in files.items()}
    for flag, (_, nets) in files.items():
        if not paths[flag].exists():
            weights = (random_weights(net, prefix, generator) for prefix, net in nets.items())
            save_file({name: weight for part in weights for name, weight in part}, paths[flag])
    return paths


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
    (r"^text_projection\.weight", "text_projection"),
)


def open_clip_names(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """CLIP weights as the files of Stable Diffusion 2 and SDXL spell them: open_clip's, q, k and v in one."""
    renamed: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if re.search(r"self_attn\.[kv]_proj", name):
            continue
        if "self_attn.q_proj" in name:
            weight = torch.cat([weights[name.replace("q_proj", f"{part}_proj")] for part in "qkv"])
            name = re.sub(r"self_attn\.q_proj\.(weight|bias)", r"attn.in_proj_\1", name)
        for pattern, replacement in OPEN_CLIP:
            name = re.sub(pattern, replacement, name)
        renamed[prefix + name] = weight
    return renamed


if __name__ == "__main__":
    main()
