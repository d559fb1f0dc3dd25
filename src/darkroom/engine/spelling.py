"""What the tensors of several files are called when they become one file."""

from __future__ import annotations

import re
from collections.abc import Mapping

from darkroom.api.errors import CheckpointError
from darkroom.api.names import Role
from darkroom.engine.model import PREFIXES, merged
from darkroom.families import discover
from darkroom.weights.checkpoint import Checkpoint
from darkroom.weights.keys import Drop, KeyRules, Rename, Rule
from darkroom.weights.source import TensorView, open_source
from darkroom.weights.spellings import published

COMPANION_PREFIXES: Mapping[Role, str] = {
    Role.DIFFUSION_MODEL: "model.diffusion_model.",
    Role.CLIP_L: "text_encoders.clip_l.transformer.",
    Role.CLIP_G: "text_encoders.clip_g.transformer.",
    Role.T5XXL: "text_encoders.t5xxl.transformer.",
    Role.LLM: "text_encoders.llm.",
    Role.LLM_VISION: "text_encoders.llm.visual.",
    Role.VAE: "vae.",
}
"""What stable-diffusion.cpp puts in front of the names of files that hold one network."""

_UNUSED = re.compile(
    r"(?:betas|alphas_cumprod_prev|sqrt_(?:one_minus_)?alphas_cumprod|sqrt_recipm?1?_alphas_cumprod"
    r"|log_one_minus_alphas_cumprod|posterior_\w+|model_ema\.|embedding_manager|denoiser\.sigmas|ztsnr"
    r"|edm_vpred\.sigma_min"
    r"|(?:cond_stage_model|conditioner\.embedders\.\d)\..*(?:position_ids|logit_scale)$"
    r"|(?:model\.diffusion_model|unet)\.time_embedding\.cond_proj\.weight"
    r"|text_encoders\.t5xxl\.transformer\.encoder\.embed_tokens\.weight"
    r"|text_encoders\.llm\.(?:output\.weight|lm_head\.))"
)
"""Tensors that no generation uses; stable-diffusion.cpp's list."""


def by_file_names(files: Mapping[Role, Checkpoint]) -> TensorView:
    """All tensors as their files call them, those of companions behind their role's prefix.

    A part that comes in a file of its own takes the place of the same part of the main file.
    """
    whole: TensorView | None = None
    for role, file in files.items():
        part = open_source(file, KeyRules(_own_prefix(file, role)))
        if whole is None:
            whole = part
        else:
            others = {role.prefix, COMPANION_PREFIXES[role]}
            whole = whole.without(*others).replaced(COMPANION_PREFIXES[role], part)
    assert whole is not None, "there is a file"
    return whole.renamed(lambda name: None if _UNUSED.match(name) else name)


def _own_prefix(file: Checkpoint, role: Role) -> tuple[Rule, ...]:
    if role is Role.MODEL:
        return ()
    if any(name.startswith(PREFIXES[role]) for name in file.index):  # a full checkpoint: this part of it
        part = "|".join(re.escape(prefix) for prefix in PREFIXES[role])
        return (Drop(rf"^(?!{part})"),)
    return (Rename("^", COMPANION_PREFIXES[role]),)


def by_native_names(files: Mapping[Role, Checkpoint]) -> TensorView | None:
    """The model under its authors' names; None for files without the diffusion network of a known family.

    Companions may be missing: what is there is enough to know whose it is.
    """
    if Role.MODEL not in files and Role.DIFFUSION_MODEL not in files:
        return None
    incomplete: TensorView | None = None
    for family in discover():
        try:
            view = merged(files, family)
        except CheckpointError:  # another family's names
            continue
        native = view.renamed(lambda name: None if _UNUSED.match(name) else published(name))
        try:
            if family.detect(view.index) is not None:
                return native
        except CheckpointError:  # its own, but not all of it
            incomplete = incomplete or native
    return incomplete
