"""How diffusion networks are told by the names of their tensors: data, read by networks.py.

A mark is a name, or several with `|` between them of which one must be there; `*` at its end stands for any
ending. Names are the authors', ComfyUI's and GGUF's, then diffusers'. The rows are looked through in order:
those that others would also fit come later. Learned from the models' own code and from how
stable-diffusion.cpp tells its versions.
"""

from __future__ import annotations

from typing import NamedTuple


class Fingerprint(NamedTuple):
    """A family of the catalogue, all the marks that its networks have, and those that they have not."""

    family: str
    marks: tuple[str, ...]
    without: tuple[str, ...] = ()


_FLUX = (
    "img_in.weight|x_embedder.weight",
    "txt_in.weight|context_embedder.weight",
    "double_blocks.0.txt_attn.qkv.weight|transformer_blocks.0.attn.add_q_proj.weight",
    "single_blocks.0.linear1.weight|single_transformer_blocks.0.proj_mlp.weight",
)

FINGERPRINTS = (
    Fingerprint("pid", ("net.lq_proj.latent_proj.0.weight|lq_proj.latent_proj.0.weight",)),
    Fingerprint("ideogram4", ("embed_image_indicator.weight",)),
    Fingerprint("krea2", ("txtfusion.projector.weight|text_fusion.projector.weight",)),
    Fingerprint("chroma_radiance", ("distilled_guidance_layer.in_proj.weight", "nerf_*")),
    Fingerprint(
        "chroma",
        (
            *_FLUX,
            "distilled_guidance_layer.in_proj.weight",
            "distilled_guidance_layer.out_proj.weight",
            "final_layer.linear.weight|proj_out.weight",
        ),
    ),
    Fingerprint("flux2", ("double_stream_modulation_img.*",)),
    Fingerprint("sefi", ("dual_time_embed.semantic_embedder.linear_1.weight",)),
    Fingerprint("ovis_image", ("double_blocks.0.img_mlp.gate_proj.weight",)),
    Fingerprint(
        "flux",
        (
            *_FLUX,
            "time_in.in_layer.weight|time_text_embed.timestep_embedder.linear_1.weight",
            "vector_in.in_layer.weight|time_text_embed.text_embedder.linear_1.weight",
            "double_blocks.0.img_mod.lin.weight|transformer_blocks.0.norm1.linear.weight",
            "single_blocks.0.modulation.lin.weight|single_transformer_blocks.0.norm.linear.weight",
            "final_layer.adaLN_modulation.1.weight|norm_out.linear.weight",
            "final_layer.linear.weight|proj_out.weight",
        ),
    ),
    Fingerprint(
        "longcat",
        ("context_embedder.weight", "single_transformer_blocks.0.proj_mlp.weight"),
        without=("time_text_embed.text_embedder.linear_1.weight",),
    ),
    Fingerprint("sd3", ("joint_blocks.0.context_block.attn.qkv.weight", "pos_embed")),
    Fingerprint(
        "sd3", ("transformer_blocks.0.attn.add_q_proj.weight", "pos_embed.pos_embed", "pos_embed.proj.weight")
    ),
    Fingerprint(
        "lens", ("transformer_blocks.0.attn.norm_added_q.weight", "transformer_blocks.0.img_mlp.w1.weight")
    ),
    Fingerprint(
        "qwen_image",
        (
            "transformer_blocks.0.img_mod.1.weight",
            "transformer_blocks.0.txt_mod.1.weight",
            "transformer_blocks.0.attn.add_q_proj.weight",
            "transformer_blocks.0.attn.norm_q.weight",
            "img_in.weight",
            "txt_in.weight",
            "txt_norm.weight",
            "proj_out.weight",
        ),
    ),
    Fingerprint(
        "z_image",
        (
            "x_embedder.weight|all_x_embedder.2-1.weight",
            "cap_embedder.1.weight",
            "cap_pad_token",
            "noise_refiner.0.attention.qkv.weight|noise_refiner.0.attention.to_q.weight",
            "layers.0.attention.q_norm.weight|layers.0.attention.norm_q.weight",
            "layers.0.adaLN_modulation.0.weight",
        ),
    ),
    Fingerprint("lumina2", ("cap_embedder.1.weight", "noise_refiner.0.attention.*", "context_refiner.0.*")),
    Fingerprint("hunyuan_video", ("txt_in.individual_token_refiner.*|context_embedder.token_refiner.*",)),
    Fingerprint("anima", ("llm_adapter.blocks.0.cross_attn.*|net.llm_adapter.blocks.0.cross_attn.*",)),
    Fingerprint("boogu", ("double_stream_layers.0.img_instruct_attn.processor.img_to_q.weight",)),
    Fingerprint("ernie_image", ("layers.0.adaLN_sa_ln.weight",)),
    Fingerprint(
        "ltxv", ("adaln_single.emb.timestep_embedder.linear_1.bias", "patchify_proj.weight|proj_in.weight")
    ),
    Fingerprint("pixart", ("adaln_single.emb.timestep_embedder.linear_1.bias", "pos_embed.proj.weight")),
    Fingerprint("minimax_h3", ("video_patch_proj.weight", "audio_patch_proj.weight")),
    Fingerprint(
        "wan",
        (
            "head.modulation|scale_shift_table",
            "blocks.0.cross_attn.norm_k.weight|blocks.0.attn2.norm_k.weight",
            "patch_embedding.weight",
        ),
    ),
    Fingerprint("lingbot_video", ("patch_embedder.weight",)),
    Fingerprint("minit2i", ("net.img_embedder.proj1.weight|img_embedder.proj1.weight",)),
    Fingerprint("hidream", ("double_stream_blocks.0.*",)),
    Fingerprint("auraflow", ("double_layers.0.*|joint_transformer_blocks.0.*",)),
    Fingerprint("stable_cascade", ("clip_txt_mapper.weight|clip_mapper.weight",)),
    Fingerprint("svd", ("input_blocks.1.1.time_stack.*|down_blocks.0.attentions.0.temporal_*",)),
)
"""Transformers, and UNets that are not Stable Diffusion's."""
