"""Which family a diffusion network is of, which variant, and what companions it takes: from its shapes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from darkroom.manager.library.fingerprints import FINGERPRINTS, Fingerprint

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Network:
    """A diffusion network.

    takes: widths of what it is given, by role; of the autoencoder the channels of its latents. `vector`: of
    the pooled text. layers: blocks, 0 where they are not counted. problem: why our engine does not draw with
    it although it does with its family.
    """

    family: str
    variant: str = ""
    takes: Mapping[str, int] = field(default_factory=dict)
    layers: int = 0
    problem: str = ""


def identify_network(shapes: Shapes, marks: frozenset[str] = frozenset()) -> Network | None:
    """The network in a group of tensors without prefix; None where it is none that is known.

    marks: names beside the network that say what it predicts (`v_pred`, `edm_mean`).
    """
    heads = {name.partition(".")[0] for name in shapes}
    for fingerprint in FINGERPRINTS:
        if _has(shapes, heads, fingerprint):
            try:
                return READERS.get(fingerprint.family, _plain(fingerprint.family))(shapes, marks)
            except (KeyError, IndexError, ValueError):
                return Network(fingerprint.family, problem="its tensors have other shapes than this family's")
    return None


def _has(shapes: Shapes, heads: set[str], fingerprint: Fingerprint) -> bool:
    return all(_found(shapes, heads, mark) for mark in fingerprint.marks) and not any(
        _found(shapes, heads, mark) for mark in fingerprint.without
    )


def _found(shapes: Shapes, heads: set[str], mark: str) -> bool:
    """heads: what the names begin with, before their first dot."""
    return any(
        _begins(shapes, heads, name[:-1]) if name.endswith("*") else name in shapes
        for name in mark.split("|")
    )


def _begins(shapes: Shapes, heads: set[str], beginning: str) -> bool:
    head, dot, _ = beginning.partition(".")
    if not dot:
        return any(other.startswith(head) for other in heads)
    return head in heads and any(name.startswith(beginning) for name in shapes)


def size(shapes: Shapes, names: str, axis: int) -> int:
    """One side of the first of several tensors that is there. Raises KeyError, IndexError."""
    for name in names.split("|"):
        if name in shapes:
            return shapes[name][axis]
    raise KeyError(names)


def blocks(shapes: Shapes, pattern: str) -> int:
    """How many different numbers `pattern` finds."""
    expression = re.compile(pattern)
    return len({match[1] for name in shapes if (match := expression.match(name))})


def _plain(family: str) -> Callable[[Shapes, frozenset[str]], Network]:
    return lambda shapes, marks: Network(family)


PATCH = 4
"""Latent pixels in a token of most transformers."""


def _flux(shapes: Shapes, marks: frozenset[str]) -> Network:
    out = size(shapes, "final_layer.linear.weight|proj_out.weight", 0)
    channels = size(shapes, "img_in.weight|x_embedder.weight", 1)
    text = size(shapes, "txt_in.weight|context_embedder.weight", 1)
    takes = {
        "vae": out // PATCH,
        "clip_l": size(shapes, "vector_in.in_layer.weight|time_text_embed.text_embedder.linear_1.weight", 1),
        "t5xxl": text,
    }
    layers = blocks(shapes, r"(?:double_blocks|transformer_blocks)\.(\d+)\.") + blocks(
        shapes, r"(?:single_blocks|single_transformer_blocks)\.(\d+)\."
    )
    guided = "guidance_in.in_layer.weight" in shapes or (
        "time_text_embed.guidance_embedder.linear_1.weight" in shapes
    )
    fill = PATCH * (2 * (out // PATCH) + 64)
    variant = "Fill" if channels == fill else "dev, Kontext or Krea" if guided else "schnell"
    others = {
        128: "Depth or Canny, which draws after a picture of depths or edges",
        196: "Flex.2, which takes a mask and a control picture",
    }
    problem = ""
    if channels not in (out, fill):
        variant = others.get(channels, f"{channels} channels in a token").split(",")[0]
        problem = f"this is {others.get(channels, f'a network with {channels} channels in a token')}"
    return Network("flux", variant, takes, layers, problem)


def _chroma(shapes: Shapes, marks: frozenset[str]) -> Network:
    takes = {
        "vae": size(shapes, "final_layer.linear.weight|proj_out.weight", 0) // PATCH,
        "t5xxl": size(shapes, "txt_in.weight|context_embedder.weight", 1),
    }
    layers = blocks(shapes, r"(?:double_blocks|transformer_blocks)\.(\d+)\.") + blocks(
        shapes, r"(?:single_blocks|single_transformer_blocks)\.(\d+)\."
    )
    return Network("chroma", "", takes, layers)


def _sd3(shapes: Shapes, marks: frozenset[str]) -> Network:
    depth = blocks(shapes, r"(?:joint_blocks|transformer_blocks)\.(\d+)\.")
    norms = any(name.endswith((".attn.ln_q.weight", ".attn.norm_q.weight")) for name in shapes)
    dual = any(".attn2." in name for name in shapes)
    takes = {
        "vae": size(shapes, "x_embedder.proj.weight|pos_embed.proj.weight", 1),
        "vector": size(shapes, "y_embedder.mlp.0.weight|time_text_embed.text_embedder.linear_1.weight", 1),
        "t5xxl": size(shapes, "context_embedder.weight", 1),
    }
    variant = "3.5 medium" if dual else "3.5 large or turbo" if norms else "3 medium"
    return Network("sd3", variant, takes, depth)


def _qwen_image(shapes: Shapes, marks: frozenset[str]) -> Network:
    if size(shapes, "img_in.weight", 1) == 128:
        return Network("mage_flow")
    takes = {"vae": shapes["proj_out.weight"][0] // PATCH, "llm": shapes["txt_in.weight"][1]}
    layers = blocks(shapes, r"transformer_blocks\.(\d+)\.")
    if "time_text_embed.addition_t_embedding.weight" in shapes:
        return Network(
            "qwen_image", "Layered", takes, layers, "this is Qwen-Image-Layered, which draws in layers"
        )
    variant = "Edit-2511" if "__index_timestep_zero__" in shapes else "text to image or Edit"
    return Network("qwen_image", variant, takes, layers)


def _z_image(shapes: Shapes, marks: frozenset[str]) -> Network:
    takes = {
        "vae": size(shapes, "x_embedder.weight|all_x_embedder.2-1.weight", 1) // PATCH,
        "llm": shapes["cap_embedder.1.weight"][1],
    }
    layers = blocks(shapes, r"((?:layers|noise_refiner|context_refiner)\.\d+)\.")
    if "siglip_embedder.1.weight" in shapes:
        return Network("z_image", "Omni", takes, layers, "this is Z-Image-Omni, which looks at pictures")
    return Network("z_image", "Turbo or base", takes, layers)


def _flux2(shapes: Shapes, marks: frozenset[str]) -> Network:
    width = size(shapes, "img_in.weight|x_embedder.weight", 0)
    text = size(shapes, "txt_in.weight|context_embedder.weight", 1) // 3  # three layers' states side by side
    names = {6144: "dev", 4096: "klein 9B", 3072: "klein 4B"}
    layers = blocks(shapes, r"(?:double_blocks|transformer_blocks)\.(\d+)\.") + blocks(
        shapes, r"(?:single_blocks|single_transformer_blocks)\.(\d+)\."
    )
    return Network(
        "flux2" if width == 6144 else "flux2_klein", names.get(width, ""), {"llm": text, "vae": 32}, layers
    )


def _wan(shapes: Shapes, marks: frozenset[str]) -> Network:
    width, channels = shapes["patch_embedding.weight"][0], shapes["patch_embedding.weight"][1]
    layers = blocks(shapes, r"blocks\.(\d+)\.")
    sizes = {1536: "1.3B", 3072: "5B", 5120: "14B"}
    sees = any(name.startswith(("img_emb.", "condition_embedder.image_embedder.")) for name in shapes)
    text = size(shapes, "text_embedding.0.weight|condition_embedder.text_embedder.linear_1.weight", 1)
    takes = {"t5xxl": text}
    named = sizes.get(width, f"{width} wide")
    if channels == 48:
        return Network("wan22_5b", f"2.2 TI2V {named}", takes | {"vae": 48}, layers)
    if sees:
        return Network("wan_i2v", f"2.1 I2V {named}", takes | {"vae": 16}, layers)
    kind = "2.2 I2V" if channels == 36 else "T2V"
    return Network("wan", f"{kind} {named}", takes | {"vae": 16}, layers)


READERS: dict[str, Callable[[Shapes, frozenset[str]], Network]] = {
    "flux": _flux,
    "chroma": _chroma,
    "sd3": _sd3,
    "qwen_image": _qwen_image,
    "z_image": _z_image,
    "flux2": _flux2,
    "wan": _wan,
}
