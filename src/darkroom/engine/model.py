"""From files to a known model: its family, its architecture, and the weights of each of its networks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from darkroom.api.config import EngineConfig
from darkroom.api.errors import CheckpointError
from darkroom.api.names import Module, Role
from darkroom.families import discover
from darkroom.families.base import Family
from darkroom.families.tiny import TinyDecoder, native_name, read_tiny
from darkroom.runtime.budget import format_bytes
from darkroom.sampling.extra_args import parse_extra_args
from darkroom.sampling.prediction import zero_terminal_alphas
from darkroom.weights.checkpoint import Checkpoint, open_checkpoint
from darkroom.weights.identify import describe_stranger, describe_unknown
from darkroom.weights.keys import KeyRules, Rename
from darkroom.weights.requantize import CPU, requantized
from darkroom.weights.source import TensorSource, TensorView, open_source
from darkroom.weights.spellings import published
from darkroom.weights.tensor_types import TypeRules

logger = logging.getLogger(__name__)

ALPHAS_CUMPROD = "alphas_cumprod"

# What files of v-predicting models carry instead of a table, as ComfyUI reads it.
_ZERO_TERMINAL = "ztsnr"


@dataclass(frozen=True)
class Model:
    """A recognised model, nothing of it loaded yet.

    path: the main file. sources: the tensors of each network under the network's own names.
    alphas_cumprod: the noise schedule that the file brings along (1000,), or None.
    tiny: the tiny autoencoder beside it with its tensors, or None.
    """

    path: Path
    family: Family[Any]
    architecture: Any
    sources: Mapping[Module, TensorSource]
    alphas_cumprod: Tensor | None
    opened: ExitStack
    tiny: tuple[TinyDecoder, TensorSource] | None = None

    def close(self) -> None:
        """Closes the files; a second call does nothing."""
        self.opened.close()


def builtin_model() -> Path:
    """The model that the package brings along."""
    return Path(str(files("darkroom").joinpath("data/builtin.gguf")))


def open_model(config: EngineConfig, converter: torch.device = CPU) -> Model:
    """Opens the files of `config` and finds out what they are, from headers alone.

    converter: the device that gives weights other types, where `config` asks for them.
    Raises RequestError for rules that cannot be read, CheckpointError for files that cannot be, for models
    that no family knows, and for companions that are missing or another model's.
    """
    rules = TypeRules.parse(config.type, config.tensor_type_rules)
    paths = config.files
    if Role.MODEL not in paths and Role.DIFFUSION_MODEL not in paths:
        if paths:
            raise CheckpointError(
                f"{next(iter(paths)).flag}: belongs to a model; add --diffusion-model with its diffusion "
                "network, or -m with a full model"
            )
        paths = {Role.MODEL: builtin_model()}
    with ExitStack() as opened:
        files = {role: opened.enter_context(open_checkpoint(path)) for role, path in paths.items()}
        family, architecture, view = recognise(files)
        main = files.get(Role.DIFFUSION_MODEL) or files[Role.MODEL]
        size = format_bytes(sum(file.nbytes for file in files.values()))
        logger.info("model: %s, %s, %s", main.path.name, family.title, size)
        logger.debug("%s: %s", family.name, architecture)
        model_args = parse_extra_args(config.model_args, "--model-args", family.model_args)
        architecture = family.configure(architecture, model_args)
        specs = family.modules(architecture)
        weights = requantized(view, rules, published, converter)
        return Model(
            main.path,
            family,
            architecture,
            {module: weights.under(spec.prefix) for module, spec in specs.items()},
            _noise_schedule(view),
            tiny=None if config.taesd is None else _open_tiny(config.taesd, family, opened),
            opened=opened.pop_all(),
        )


def _open_tiny(path: Path, family: Family[Any], opened: ExitStack) -> tuple[TinyDecoder, TensorSource]:
    """The tiny autoencoder in a file, checked against the family's latents."""
    source = open_source(opened.enter_context(open_checkpoint(path))).renamed(native_name)
    return read_tiny(source.index, path, family.title, family.latent), source


def _noise_schedule(view: TensorView) -> Tensor | None:
    if ALPHAS_CUMPROD in view.index:
        alphas = view.read(ALPHAS_CUMPROD)
        return alphas.clone() if isinstance(alphas, Tensor) else None
    return torch.from_numpy(zero_terminal_alphas()) if _ZERO_TERMINAL in view.index else None


def recognise(files: Mapping[Role, Checkpoint]) -> tuple[Family[Any], Any, TensorView]:
    """The one family that knows the files, what it read from them, and all of them under native names.

    Raises CheckpointError that names the closest family when none knows them, and for a file that holds
    nothing for its role.
    """
    main = files.get(Role.DIFFUSION_MODEL) or files[Role.MODEL]
    views: dict[Family[Any], TensorView] = {}
    unfit: CheckpointError | None = None
    for family in discover():
        try:
            view = merged(files, family)
        except CheckpointError as err:  # most likely another family's names
            unfit = err
            continue
        architecture = family.detect(view.index)
        if architecture is not None:
            _check_roles(files, family, view)
            return family, architecture, view.without(*_of_no_use(family))
        views[family] = view
    if stranger := describe_stranger(main.index):
        raise CheckpointError(f"{main.path}: this is {stranger}")
    if unfit:
        raise unfit
    closest = max(views, key=lambda family: len(views[family].index.keys() & set(family.landmarks)))
    landmarks = {family.title: family.landmarks for family in views}
    raise CheckpointError(f"{main.path}: {describe_unknown(views[closest].index, landmarks)}")


def merged(files: Mapping[Role, Checkpoint], family: Family[Any]) -> TensorView:
    """All files as one under native names; a part in a file of its own takes the place of the main file's."""
    rules = family.key_rules()
    whole = open_source(files[Role.MODEL], rules) if Role.MODEL in files else None
    for role, file in files.items():
        if role is not Role.MODEL:
            part = _part(file, role, family.prefix(role), rules)
            whole = part if whole is None else whole.replaced(family.prefix(role), part)
    assert whole is not None, "there is a main file"
    return whole


# How files of one network, and full checkpoints that a network is taken from, begin the names of its tensors.
PREFIXES: Mapping[Role, tuple[str, ...]] = {
    Role.DIFFUSION_MODEL: ("model.diffusion_model.", "diffusion_model.", "transformer.", "unet."),
    Role.CLIP_L: ("text_encoders.", "clip_l.", "cond_stage_model.", "conditioner.", "te."),
    Role.CLIP_G: ("text_encoders.", "clip_g.", "conditioner.", "te2."),
    Role.T5XXL: ("text_encoders.", "t5xxl.", "te2.", "te3."),
    Role.LLM: ("text_encoders.", "te."),
    Role.LLM_VISION: ("text_encoders.", "te."),
    Role.VAE: ("first_stage_model.", "vae."),
}


def _part(checkpoint: Checkpoint, role: Role, prefix: str, rules: KeyRules) -> TensorView:
    """A companion's tensors. From a full checkpoint only those of its role, from any other file all."""
    if any(name.startswith(PREFIXES[role]) for name in checkpoint.index):
        return open_source(checkpoint, rules).only(prefix)
    return open_source(checkpoint, KeyRules((Rename("^", role.prefix),)) + rules)


def _of_no_use(family: Family[Any]) -> list[str]:
    """Where parts are that a family does not take; a file may hold a text encoder too many."""
    used = {Role.MODEL, Role.DIFFUSION_MODEL, *(companion.role for companion in family.companions)}
    return [role.prefix for role in Role if role not in used]


def _check_roles(files: Mapping[Role, Checkpoint], family: Family[Any], view: TensorView) -> None:
    known = {companion.role for companion in family.companions}
    for role, file in files.items():
        prefix = family.prefix(role)
        if role not in (Role.MODEL, Role.DIFFUSION_MODEL, *known):
            logger.warning("%s: %s has no use for %s", role.flag, family.title, file.path.name)
        elif not any(name.startswith(prefix) for name in view.index):
            examples = ", ".join(list(file.index)[:3])
            raise CheckpointError(
                f"{file.path}: holds nothing for {role.flag} in its {len(file.index)} tensors "
                f"({examples}...); a file of that network alone fits, or a full checkpoint with it"
            )
