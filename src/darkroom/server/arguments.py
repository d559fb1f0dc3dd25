"""sd-server's command line, read with api/arguments.py."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel

from darkroom.api.arguments import Section, UsageError, read_arguments, spellings
from darkroom.api.config import EngineConfig
from darkroom.api.request import GenerationRequest
from darkroom.api.switches import ContextSwitches, PictureSwitches
from darkroom.server.options import ServerOptions
from darkroom.server.security import is_loopback

PROGRAM = "sd-server"

KEY_VARIABLE = "DARKROOM_API_KEY"
"""Where the key may stand instead, so that it shows in no list of processes."""

SECTIONS = (
    Section("Svr Options", (ServerOptions,)),
    Section("Context Options", (EngineConfig, ContextSwitches)),
    Section("Default Generation Options", (GenerationRequest, PictureSwitches)),
)

OPTIONS = spellings(SECTIONS)
"""Every spelling of every option."""

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@A-Z]+")

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Arguments:
    """A whole command line. request: what a request gets that says nothing else."""

    server: ServerOptions
    context: ContextSwitches
    picture: PictureSwitches
    config: EngineConfig
    request: GenerationRequest


def parse(argv: Sequence[str]) -> Arguments:
    """The command line without the program's name. Raises UsageError."""
    given = read_arguments(argv, OPTIONS)

    def made(model: type[M]) -> M:
        return model(**given.get(model, {}))

    arguments = Arguments(
        made(ServerOptions),
        made(ContextSwitches),
        made(PictureSwitches),
        made(EngineConfig),
        made(GenerationRequest),
    )
    server = arguments.server
    if "api_key" in server.model_fields_set:
        _check_key(server.api_key)
    for origin in server.cors_origin:
        _check_origin(origin)
    if not server.api_key and (key := os.environ.get(KEY_VARIABLE)):
        server = server.model_copy(update={"api_key": key})
    is_safe = server.api_key or server.insecure or is_loopback(server.listen_ip)
    if not (is_safe or server.help or server.version):
        raise UsageError(
            f"--listen-ip: others can connect to {server.listen_ip}, and no key is asked of them; "
            "add --api-key KEY, or --insecure if that is meant",
            OPTIONS["--listen-ip"],
        )
    return Arguments(server, arguments.context, arguments.picture, arguments.config, arguments.request)


def _check_key(key: str) -> None:
    """Raises UsageError for a key that nobody could send, an unset variable for example."""
    if not key or key != key.strip() or not key.isprintable():
        raise UsageError(
            "--api-key: the key is empty or holds spaces at its ends or control characters; "
            "expected a text that a header can carry",
            OPTIONS["--api-key"],
        )


def _check_origin(origin: str) -> None:
    """Raises UsageError for what no browser would send as `Origin`."""
    if origin != "*" and not _ORIGIN.fullmatch(origin):
        raise UsageError(
            f"--cors-origin: '{origin}' is no origin; expected *, or scheme, host and port alone, as in "
            "https://name or http://localhost:3000",
            OPTIONS["--cors-origin"],
        )
