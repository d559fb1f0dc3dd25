"""From a header to what the file is: its networks, its family, or what else it is."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

from darkroom.manager.library.companion_parts import identify_companions
from darkroom.manager.library.networks import Network, identify_network
from darkroom.manager.library.parts import Identity, Part, PartKind
from darkroom.manager.library.strangers import identify_stranger
from darkroom.manager.library.tensors import Header, TensorHead, Tensors
from darkroom.manager.library.unets import identify_unet

# Where files with several networks, diffusers folders and ComfyUI's files of one network keep each of them.
_NETWORK = re.compile(
    r"(?:(?:model\.)?diffusion_model|unet|transformer"
    r"(?!\.(?:resblocks|text_model|text_projection|shared|encoder\.block|model|visual)\b))\."
)
_AUTOENCODER = re.compile(r"(?:vae\.)?first_stage_model\.|vae\.")
_ENCODER = re.compile(
    r"(conditioner\.embedders\.\d|cond_stage_model(?:\.1)?|text_encoders\.\w+"
    r"|clip_[lg]|t5xxl|te[123]?|text_encoder(?:[_.][23])?)\."
    r"(?:transformer\.(?!resblocks)|model\.(?=transformer\.resblocks|token_emb|positional_emb|text_projection|ln_final))?"
)

_HEADS = frozenset(
    {
        *("model", "diffusion_model", "unet", "transformer", "first_stage_model", "vae", "conditioner"),
        *("cond_stage_model", "text_encoders", "clip_l", "clip_g", "t5xxl", "te", "te1", "te2", "te3"),
        *("text_encoder", "text_encoder_2", "text_encoder_3"),
    }
)
"""What the names of such files begin with; only these are looked at closely."""

MARKS = frozenset({"v_pred", "ztsnr", "edm_vpred.sigma_max", "edm_vpred.sigma_min", "edm_mean", "edm_std"})

_NAMED_CLIPS = {
    "conditioner.embedders.0": PartKind.CLIP_L,
    "conditioner.embedders.1": PartKind.CLIP_G,
    "cond_stage_model.1": PartKind.CLIP_G,
    "text_encoders.clip_g": PartKind.CLIP_G,
    "text_encoders.clip_l": PartKind.CLIP_L,
    "clip_g": PartKind.CLIP_G,
    "clip_l": PartKind.CLIP_L,
    "te": PartKind.CLIP_L,
    "te2": PartKind.CLIP_G,
    "text_encoder": PartKind.CLIP_L,
    "text_encoder_2": PartKind.CLIP_G,
}

NETWORK, AUTOENCODER, BARE = "diffusion", "vae", ""


def identify(header: Header) -> Identity:
    """What the file is. Never raises for a header that could be read."""
    groups = _groups(header)
    marks = frozenset(
        mark for mark in MARKS if mark in header.tensors or f"model.diffusion_model.{mark}" in header.tensors
    )
    network, parts = None, []
    for place, tensors in groups.items():
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        nbytes = sum(tensor.nbytes for tensor in tensors.values())
        found = None
        if place in (NETWORK, BARE):
            found = identify_network(shapes, marks) or identify_unet(shapes, marks)
        if found is not None:
            network = network or found
            parts.append(_network_part(found, nbytes))
        else:
            parts += _companions(place, identify_companions(shapes, header.metadata), tensors)
    types = header.types()
    if network is not None:
        return Identity(tuple(parts), network.family, network.variant, types, network.problem)
    stranger = identify_stranger(header)
    if stranger is not None and (not parts or stranger.decides):
        return Identity(stranger.parts, None, stranger.variant, types, stranger.problem)
    if parts:
        return Identity(tuple(parts), None, "", types)
    return Identity((), None, "", types, _unknown(header))


def _groups(header: Header) -> dict[str, dict[str, TensorHead]]:
    """The tensors by where they are in the file, without what says so; those without a place under ''."""
    groups: dict[str, dict[str, TensorHead]] = defaultdict(dict)
    for name, tensor in header.tensors.items():
        place, local = _place(name)
        groups[place][local] = tensor
    return groups


def _place(name: str) -> tuple[str, str]:
    if name.partition(".")[0] not in _HEADS:
        return BARE, name
    if match := _NETWORK.match(name):
        return NETWORK, name[match.end() :]
    if match := _AUTOENCODER.match(name):
        return AUTOENCODER, name[match.end() :]
    if match := _ENCODER.match(name):
        return match[1], name[match.end() :]
    return BARE, name


def _network_part(network: Network, nbytes: int) -> Part:
    title = f"a diffusion network{f' ({network.variant})' if network.variant else ''}"
    return Part(PartKind.DIFFUSION, network.family, 0, dict(network.takes), title, network.layers, nbytes)


def _companions(place: str, parts: list[Part], tensors: Tensors) -> Iterator[Part]:
    """Narrow CLIPs of test models are told by their place only."""
    tower = sum(tensor.nbytes for name, tensor in tensors.items() if "visual." in name)
    whole = sum(tensor.nbytes for tensor in tensors.values())
    for part in parts:
        kind = part.kind
        if part.architecture == "clip_text" and part.width not in (768, 1280):
            kind = _NAMED_CLIPS.get(place, kind)
        nbytes = whole
        if len(parts) > 1:
            nbytes = tower if kind is PartKind.LLM_VISION else whole - tower
        yield replace(part, kind=kind, nbytes=nbytes)


def _unknown(header: Header) -> str:
    if not header.tensors:
        return "it holds no tensors"
    examples = ", ".join(name[:60] for name in list(header.tensors)[:3])
    return f"it is no model that is known: {len(header.tensors)} tensors ({examples}, ...)"
