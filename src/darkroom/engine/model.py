"""From files to a known model: its family, its architecture, and the weights of each of its networks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import Tensor

from darkroom.api.config import EngineConfig
from darkroom.api.errors import CheckpointError
from darkroom.api.names import Module
from darkroom.families import discover
from darkroom.families.base import Family
from darkroom.runtime.budget import format_bytes
from darkroom.weights.checkpoint import Checkpoint, open_checkpoint
from darkroom.weights.identify import describe_unknown
from darkroom.weights.keys import KeyRules, Rename
from darkroom.weights.source import TensorSource, TensorView, open_source
from darkroom.weights.spellings import VAE

logger = logging.getLogger(__name__)

ALPHAS_CUMPROD = "alphas_cumprod"


@dataclass(frozen=True)
class Model:
    """A recognised model, nothing of it loaded yet.

    path: the main file. sources: the tensors of each network under the network's own names.
    alphas_cumprod: the noise schedule that the file brings along (1000,), or None.
    """

    path: Path
    family: Family[Any]
    architecture: Any
    sources: Mapping[Module, TensorSource]
    alphas_cumprod: Tensor | None
    opened: ExitStack

    def close(self) -> None:
        """Closes the files; a second call does nothing."""
        self.opened.close()


def builtin_model() -> Path:
    """The model that the package brings along."""
    return Path(str(files("darkroom").joinpath("data/builtin.gguf")))


def open_model(config: EngineConfig) -> Model:
    """Opens the files of `config` and finds out what they are, from headers alone.

    Raises CheckpointError for files that cannot be read and models that no family knows.
    """
    path = config.model or builtin_model()
    with ExitStack() as opened:
        checkpoint = opened.enter_context(open_checkpoint(path))
        vae = opened.enter_context(open_checkpoint(config.vae)) if config.vae else None
        family, architecture, view = recognise(checkpoint, vae)
        logger.info("model: %s, %s, %s", path.name, family.title, format_bytes(checkpoint.nbytes))
        logger.debug("%s: %s", family.name, architecture)
        alphas = view.read(ALPHAS_CUMPROD) if ALPHAS_CUMPROD in view.index else None
        specs = family.modules(architecture)
        return Model(
            path,
            family,
            architecture,
            {module: view.under(spec.prefix) for module, spec in specs.items()},
            alphas.clone() if isinstance(alphas, Tensor) else None,
            opened.pop_all(),
        )


def recognise(checkpoint: Checkpoint, vae: Checkpoint | None = None) -> tuple[Family[Any], Any, TensorView]:
    """The one family that knows the file, what it read from it, and the file under native names.

    vae: an autoencoder in a file of its own, which takes the place of the checkpoint's.
    Raises CheckpointError that names the closest family when none knows the file.
    """
    views: dict[Family[Any], TensorView] = {}
    for family in discover():
        view = open_source(checkpoint, family.key_rules())
        if vae is not None:
            view = view.replaced(VAE, _standalone_vae(vae, family))
        architecture = family.detect(view.index)
        if architecture is not None:
            return family, architecture, view
        views[family] = view
    closest = max(views, key=lambda family: len(views[family].index.keys() & set(family.landmarks)))
    landmarks = {family.title: family.landmarks for family in views}
    raise CheckpointError(f"{checkpoint.path}: {describe_unknown(views[closest].index, landmarks)}")


def _standalone_vae(checkpoint: Checkpoint, family: Family[Any]) -> TensorView:
    """A VAE file under the network's names, whether its own have a prefix or none, LDM's or diffusers'.

    Raises CheckpointError when the file holds no such VAE.
    """
    is_bare = not any(name.startswith((VAE, "vae.")) for name in checkpoint.index)
    added = KeyRules((Rename("^", VAE),) if is_bare else ())
    view = open_source(checkpoint, added + family.key_rules()).under(VAE)
    if "decoder.conv_in.weight" not in view.index:
        raise CheckpointError(
            f"{checkpoint.path}: holds no autoencoder (no decoder.conv_in.weight in its "
            f"{len(checkpoint.index)} tensors); --vae takes a KL autoencoder with 4 latent channels"
        )
    return view
