"""What to say about a file that no model family knows, or that is not what it was given as."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from darkroom.weights.autoencoders import describe_autoencoder
from darkroom.weights.index import TensorIndex
from darkroom.weights.text_encoders import describe_text_encoder

# Parts of names, as their authors chose them, that tell of what is not drawn with here.
_STRANGERS = {
    "a LoRA, which changes a model and is none": ("lora_down.", ".lora_A.", ".lora_up."),
    "a ControlNet, which guides a model and is none": ("control_model.", "controlnet_", "input_hint_block."),
    "Flux.2, which is not supported": ("double_stream_modulation_img.",),
    "Wan, which draws videos and is not supported": ("head.modulation", "blocks.0.cross_attn.norm_k."),
    "HunyuanVideo or its kin, which is not supported": ("individual_token_refiner.",),
    "LTX-Video or PixArt, which are not supported": ("adaln_single.",),
    "AuraFlow, which is not supported": ("double_layers.0.",),
    "HiDream, which is not supported": ("double_stream_blocks.0.",),
    "Stable Cascade, which is not supported": ("clip_txt_mapper.", "clip_mapper."),
    "Stable Video Diffusion, which is not supported": (".time_stack.",),
}

# How names begin in files with a diffusion network, whatever else they hold.
_NETWORKS = (
    "model.diffusion_model.",
    "unet.",
    "transformer.",
    "input_blocks.",
    "down_blocks.",
    "double_blocks.",
    "joint_blocks.",
    "transformer_blocks.",
    "noise_refiner.",
)


def describe_part(index: TensorIndex) -> str | None:
    """A few words on what one part of a model is, or was given as; None where it is nothing that is known.

    index: without prefix, under its authors' names, or llama.cpp's.
    """
    if any(name.startswith(_NETWORKS) for name in index):
        return "a diffusion network or a whole model"
    return describe_text_encoder(index) or describe_autoencoder(index)


def describe_stranger(index: TensorIndex) -> str | None:
    """What a main file is that no family knows, where that can be told.

    index: the file's own names.
    """
    for what, parts in _STRANGERS.items():
        if any(part in name for name in index for part in parts):
            return what
    if any(name.startswith(_NETWORKS) for name in index):
        return None
    part = describe_part(index)
    return part and (
        f"{part}; -m takes a whole model and --diffusion-model a diffusion network, and the other parts "
        "have options of their own: --clip_l, --clip_g, --t5xxl, --llm, --llm_vision, --vae"
    )


def describe_unknown(index: TensorIndex, families: Mapping[str, Collection[str]]) -> str:
    """One sentence: the closest family, what of it is missing, what is there instead.

    index: the file under native names. families: title to tensor names that its files must have.
    """
    if not index:
        return f"holds no tensors; known families: {', '.join(families)}"
    groups = Counter(_group(name) for name in index)
    holds = ", ".join(f"{group} ({count})" for group, count in groups.most_common(4))
    found = {title: [name for name in names if name in index] for title, names in families.items() if names}
    closest = max(found, key=lambda title: len(found[title]) / len(families[title]), default=None)
    if closest is None or not found[closest]:
        return f"unknown model: {len(index)} tensors, mostly {holds}; known families: {', '.join(families)}"
    wanted = families[closest]
    missing = [name for name in wanted if name not in index]
    unexpected = [name for name in index if _group(name) not in {_group(known) for known in wanted}]
    return (
        f"unknown model: closest is {closest}, with {len(found[closest])} of {len(wanted)} tensors it needs; "
        f"{_few(missing)} missing, {_few(unexpected)} unexpected; the file holds mostly {holds}"
    )


def _group(name: str) -> str:
    """The first two parts of a name: `model.diffusion_model`, `double_blocks.0`."""
    return ".".join(name.split(".")[:2])


def _few(names: Collection[str]) -> str:
    examples = ", ".join(list(names)[:3])
    return f"{len(names)} ({examples}{', ...' if len(names) > 3 else ''})" if names else "0"
