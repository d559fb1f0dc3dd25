"""What a companion's tensors are: which text encoder, autoencoder or vision tower, and how wide.

Names are Hugging Face's, open_clip's, llama.cpp's and the autoencoders' authors', without prefix.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from darkroom.manager.library.networks import Shapes, blocks
from darkroom.manager.library.parts import Part, PartKind

UMT5_VOCABULARY = 256384

_CLIP_SIZES = {768: "CLIP-L", 1024: "OpenCLIP-H", 1280: "CLIP-G (OpenCLIP-bigG)"}
_T5_SIZES = {512: "small", 768: "base", 1024: "large", 2048: "XL", 4096: "XXL"}
_QWEN2_SIZES = {896: "0.5B", 1536: "1.5B", 2048: "3B", 3584: "7B", 5120: "14B or 32B", 8192: "72B"}
_QWEN3_SIZES = {1024: "0.6B", 2048: "1.7B", 2560: "4B", 4096: "8B", 5120: "14B or 32B"}
_KL_SIZES = {4: "Stable Diffusion 1, 2 or SDXL", 16: "Flux.1 or SD3", 32: "Flux.2"}
_WAN_SIZES = {16: "Wan 2.1 or Qwen-Image", 48: "Wan 2.2 5B"}

_CLIP_TOKENS = (
    "text_model.embeddings.token_embedding.weight",
    "embeddings.token_embedding.weight",
    "token_embedding.weight",
)
_CLIP_PROJECTIONS = ("text_projection.weight", "text_projection", "text_model.text_projection")
_T5_TOKENS = ("shared.weight", "encoder.embed_tokens.weight", "token_embd.weight")
_T5_BLOCKS = ("encoder.block.0.layer.0.SelfAttention.q.weight", "enc.blk.0.attn_q.weight")
_T5_SECOND_BIAS = (
    "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight",
    "enc.blk.1.attn_rel_b.weight",
)
_LLM_BODIES = ("model.language_model.", "language_model.model.", "language_model.", "model.", "")
_TINY = ("decoder.layers.0.weight", "decoder.layers.1.weight", "decoder.1.weight", "1.weight")


def identify_companions(shapes: Shapes, metadata: Mapping[str, str]) -> list[Part]:
    """The networks in a group of tensors without prefix; a language model may bring its vision tower."""
    vision = {
        match[1]: shape
        for name, shape in shapes.items()
        if (match := re.match(r"(?:model\.)?visual\.(.+)", name))
    }
    rest = {name: shape for name, shape in shapes.items() if "visual." not in name} if vision else shapes
    found = [part for reader in _READERS if (part := _try(reader, rest, metadata))][:1]
    tower = _try(_vision, vision, metadata) if vision else None
    return [*found, *([tower] if tower else [])]


Reader = Callable[[Shapes, Mapping[str, str]], Part | None]


def _try(reader: Reader, shapes: Shapes, metadata: Mapping[str, str]) -> Part | None:
    try:
        return reader(shapes, metadata)
    except (KeyError, IndexError, ValueError):
        return None


def _first(shapes: Shapes, names: tuple[str, ...]) -> tuple[int, ...] | None:
    return next((shapes[name] for name in names if name in shapes), None)


def _clip(shapes: Shapes, metadata: Mapping[str, str]) -> Part | None:
    tokens = _first(shapes, _CLIP_TOKENS)
    if tokens is None:
        return None
    vocabulary, width = tokens
    projection = _first(shapes, _CLIP_PROJECTIONS)
    numbers = {"vocabulary": vocabulary, "projection": projection[0] if projection else 0}
    kind = PartKind.CLIP_G if width == 1280 else PartKind.CLIP_L
    named = _CLIP_SIZES.get(width, "a CLIP text encoder")
    return Part(kind, "clip_text", width, numbers, f"{named}, {width} wide")


def _t5(shapes: Shapes, metadata: Mapping[str, str]) -> Part | None:
    if _first(shapes, _T5_BLOCKS) is None:
        return None
    tokens = _first(shapes, _T5_TOKENS)
    if tokens is None:
        return None
    vocabulary, width = tokens
    umt5 = vocabulary == UMT5_VOCABULARY or _first(shapes, _T5_SECOND_BIAS) is not None
    named = f"{'umT5' if umt5 else 'T5'}-{_T5_SIZES.get(width, 'like')}"
    return Part(
        PartKind.T5XXL,
        "umt5" if umt5 else "t5",
        width,
        {"vocabulary": vocabulary},
        f"{named}, {width} wide, {vocabulary} tokens",
    )


def _llm(shapes: Shapes, metadata: Mapping[str, str]) -> Part | None:
    if "token_embd.weight" in shapes and "blk.0.attn_norm.weight" in shapes:
        tokens, block = shapes["token_embd.weight"], "blk.0.attn_"
        norm, bias = f"{block}q_norm.weight", f"{block}q.bias"
    else:
        bodies = (body for body in _LLM_BODIES if f"{body}embed_tokens.weight" in shapes)
        body = next(bodies, None)
        if body is None:
            return None
        tokens, block = shapes[f"{body}embed_tokens.weight"], f"{body}layers.0.self_attn."
        norm, bias = f"{block}q_norm.weight", f"{block}q_proj.bias"
    vocabulary, width = tokens
    layers = blocks(shapes, r"(?:[\w.]*layers|blk)\.(\d+)\.")
    name = metadata.get("general.architecture", "")
    if norm in shapes and bias not in shapes:
        architecture, named = "qwen3", f"Qwen3 {_QWEN3_SIZES.get(width, '')}"
        if name.startswith("gemma") or any(".pre_feedforward_layernorm." in other for other in shapes):
            architecture, named = "gemma", "Gemma 3"
    elif bias in shapes and norm not in shapes:
        architecture, named = "qwen2", f"Qwen2.5 {_QWEN2_SIZES.get(width, '')}"
        if name in ("gpt-oss", "gpt_oss") or any("sinks" in other for other in shapes):
            architecture, named = "gpt_oss", "gpt-oss"
    else:
        architecture, named = "llama", f"a language model{f' ({name})' if name else ''}"
    numbers = {"vocabulary": vocabulary, "layers": layers}
    return Part(PartKind.LLM, architecture, width, numbers, f"{named.strip()}, {width} wide", layers=layers)


def _vision(shapes: Shapes, metadata: Mapping[str, str]) -> Part | None:
    if "patch_embed.proj.weight" not in shapes and "v.patch_embd.weight" not in shapes:
        return None
    gated = _first(shapes, ("blocks.0.mlp.gate_proj.weight", "v.blk.0.ffn_gate.weight"))
    gives = _first(shapes, ("merger.mlp.2.weight", "mm.2.weight", "merger.linear_fc2.weight"))
    width = gives[0] if gives else 0
    architecture = "qwen2_vision" if gated and gives else "vision"
    title = "Qwen2.5-VL's vision tower" if architecture == "qwen2_vision" else "a vision tower"
    return Part(PartKind.LLM_VISION, architecture, width, {}, f"{title}, for a model {width} wide (mmproj)")


def _clip_vision(shapes: Shapes, metadata: Mapping[str, str]) -> Part | None:
    names = ("vision_model.embeddings.patch_embedding.weight", "embeddings.patch_embedding.weight")
    patches = _first(shapes, names)
    if patches is None:
        return None
    return Part(
        PartKind.CLIP_VISION, "clip_vision", patches[0], {}, f"a CLIP vision tower, {patches[0]} wide"
    )


def _tiny(shapes: Shapes, metadata: Mapping[str, str]) -> Part | None:
    name = next((name for name in _TINY if len(shapes.get(name, ())) == 4), None)
    if name is None or len(shapes) > 400:
        return None
    channels = shapes[name][1]
    video = any(".conv.0.weight" in other and len(shapes[other]) == 4 for other in shapes) and any(
        re.fullmatch(r"decoder\.\d+\.conv\.weight", other) for other in shapes
    )
    title = f"a tiny {'video ' if video else ''}autoencoder with {channels} latent channels, for previews"
    return Part(PartKind.TAE, "taehv" if video else "taesd", channels, {}, title)


def _wan(shapes: Shapes, metadata: Mapping[str, str]) -> Part | None:
    if "decoder.conv1.weight" in shapes and "conv2.bias" in shapes:
        channels, first = shapes["conv2.bias"][0], shapes.get("encoder.conv1.weight", ())
        bias = shapes.get("encoder.conv1.bias", (1,))[0]
        pixels = first[1] if len(first) == 5 or (len(first) == 4 and first[0] == bias) else first[0] // bias
        levels = blocks(shapes, r"encoder\.downsamples\.(\d+)\.resample\.1\.weight")
    elif len(shapes.get("decoder.conv_in.weight", ())) == 5:
        channels = shapes["decoder.conv_in.weight"][1]
        pixels = shapes["encoder.conv_in.weight"][1]
        levels = blocks(shapes, r"encoder\.down_blocks\.(\d+)\.(?:resample\.1|downsampler)")
    else:
        return None
    known = _WAN_SIZES.get(channels, "")
    title = f"a video autoencoder with {channels} latent channels{f' ({known})' if known else ''}"
    numbers = {"pixels": pixels, "downscale": 1 << levels}
    return Part(PartKind.VAE, "wan", channels, numbers, title)


def _kl(shapes: Shapes, metadata: Mapping[str, str]) -> Part | None:
    first = shapes.get("decoder.conv_in.weight", shapes.get("decoder.conv_in.conv.weight", ()))
    if len(first) not in (4, 5):
        return None
    channels = first[1]
    if len(first) == 5 or "decoder.conv_in.conv.weight" in shapes:
        return Part(
            PartKind.VAE, "video", channels, {}, f"a video autoencoder with {channels} latent channels"
        )
    if any("time_stack" in name or "temporal_res_block" in name for name in shapes):
        return Part(PartKind.VAE, "svd", channels, {}, "Stable Video Diffusion's autoencoder")
    if "post_quant_conv.weight" in shapes:
        channels = shapes["post_quant_conv.weight"][1]
    levels = blocks(shapes, r"encoder\.(?:down|down_blocks)\.(\d+)\.(?:downsample|downsamplers)\.")
    flux2 = "bn.running_mean" in shapes
    known = _KL_SIZES.get(channels, "")
    title = f"an autoencoder with {channels} latent channels{f' ({known})' if known else ''}"
    # a decoder alone has no way down
    numbers = {"downscale": 1 << levels} if any(name.startswith("encoder.") for name in shapes) else {}
    return Part(PartKind.VAE, "flux2_vae" if flux2 else "kl", channels, numbers, title)


_READERS: tuple[Reader, ...] = (_clip, _t5, _llm, _vision, _clip_vision, _tiny, _wan, _kl)
