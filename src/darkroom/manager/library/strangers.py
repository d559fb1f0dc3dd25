"""Files that are no whole model and no companion: LoRAs, ControlNets, upscalers, embeddings."""

from __future__ import annotations

import re
from dataclasses import dataclass

from darkroom.manager.library.parts import Part, PartKind
from darkroom.manager.library.tensors import Header


@dataclass(frozen=True)
class Stranger:
    """What such a file is. decides: whether it is that whatever else its names look like."""

    parts: tuple[Part, ...]
    problem: str
    variant: str = ""
    decides: bool = False


_LORA = re.compile(
    r"\.(?:lora_(?:up|down|mid|A|B)|lora\.(?:up|down)|lora_linear_layer|hada_w\d|lokr_w\d|oft_blocks|diff_b?)\b"
    r"|^lora_|\.alpha$"
)
_CONTROL = re.compile(
    r"^control_model\.|controlnet_(?!hint)|(?:^|\.)input_hint_block\.|controlnet_cond_embedding"
)
_UPSCALER = re.compile(
    r"^(?:params(?:_ema)?\.)?(?:conv_first\.weight|model\.1\.sub\.0\.RDB1|body\.0\.rdb1|RRDB_trunk\.0)"
)
_COMPACT_UPSCALER = ("body.0.weight", "body.1.weight", "body.2.weight")
_EMBEDDING = re.compile(r"^(?:emb_params|string_to_param\.|clip_[lg]$|t5xxl$|<.+>$)")

# What the names of a LoRA's targets tell of the model that it is for; the first that is found.
_TARGETS = (
    ("flux", re.compile(r"double_blocks[._]|single_transformer_blocks[._]")),
    ("sd3", re.compile(r"joint_blocks[._]")),
    ("qwen_image", re.compile(r"transformer_blocks[._]\d+[._](?:img_mlp|txt_mlp|img_mod)")),
    ("z_image", re.compile(r"(?:noise|context)_refiner[._]")),
    ("wan", re.compile(r"blocks[._]\d+[._]cross_attn")),
    ("sdxl", re.compile(r"lora_te2_|text_encoder_2\.|input_blocks_[78]_1_transformer_blocks_[2-9]")),
    ("sd1", re.compile(r"lora_te_|lora_unet_|^unet\.|down_blocks[._]")),
)


def identify_stranger(header: Header) -> Stranger | None:
    """What the file is besides a model; None where its names tell nothing."""
    names = list(header.tensors)
    adapters = sum(1 for name in names if _LORA.search(name))
    if adapters * 2 > len(names):
        family = next((family for family, what in _TARGETS if any(map(what.search, names))), "")
        title = f"a LoRA{f' for {family}' if family else ''}"
        return _stranger(
            PartKind.LORA, title, f"it is {title}, which changes a model and is none", header, True
        )
    if any(map(_CONTROL.search, names)):
        return _stranger(
            PartKind.CONTROLNET,
            "a ControlNet",
            "it is a ControlNet, which guides a model and is none",
            header,
            True,
        )
    if any(map(_UPSCALER.match, names)) or all(name in header.tensors for name in _COMPACT_UPSCALER):
        return _stranger(PartKind.UPSCALER, "an upscaler", "it is an upscaler (ESRGAN)", header, True)
    if len(names) <= 8 and any(map(_EMBEDDING.match, names)):
        problem = "it is an embedding (textual inversion), a word for prompts"
        return _stranger(PartKind.EMBEDDING, "an embedding", problem, header, True)
    return None


def _stranger(kind: PartKind, title: str, problem: str, header: Header, decides: bool) -> Stranger:
    nbytes = sum(tensor.nbytes for tensor in header.tensors.values())
    return Stranger((Part(kind, kind.value, title=title, nbytes=nbytes),), problem, decides=decides)
