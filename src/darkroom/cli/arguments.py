"""sd-cli's command line, read with api/arguments.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel

from darkroom.api.arguments import Option, UsageError, options_of, read_arguments, spellings
from darkroom.api.config import EngineConfig
from darkroom.api.names import Mode
from darkroom.api.request import GenerationRequest
from darkroom.api.switches import ContextSwitches, PictureSwitches
from darkroom.cli.options import SECTIONS, CliOptions

__all__ = ["OPTIONS", "Arguments", "Option", "UsageError", "options_of", "parse"]

M = TypeVar("M", bound=BaseModel)

OPTIONS = spellings(SECTIONS)
"""Every spelling of every option."""


@dataclass(frozen=True)
class Arguments:
    """A whole command line."""

    cli: CliOptions
    context: ContextSwitches
    picture: PictureSwitches
    config: EngineConfig
    request: GenerationRequest


def parse(argv: Sequence[str]) -> Arguments:
    """The command line without the program's name. Raises UsageError.

    `--help` and `--version` end the reading: what follows them is not looked at.
    """
    if not argv:
        raise UsageError("the following arguments are required: prompt (-p)")
    given = read_arguments(argv, OPTIONS)

    def made(model: type[M]) -> M:
        return model(**given.get(model, {}))

    arguments = Arguments(
        made(CliOptions),
        made(ContextSwitches),
        made(PictureSwitches),
        made(EngineConfig),
        made(GenerationRequest),
    )
    if not (arguments.cli.help or arguments.cli.version):
        _require(arguments.cli, arguments.config)
    return arguments


def _require(cli: CliOptions, config: EngineConfig) -> None:
    if cli.mode is Mode.METADATA:
        if cli.image is None:
            raise UsageError("metadata mode needs an image path (--image)")
    elif cli.mode is Mode.CONVERT and not config.files:
        raise UsageError("no input model path provided for convert; give one with -m or --diffusion-model")
    elif not cli.output:
        raise UsageError("the following arguments are required: output_path (-o)")
