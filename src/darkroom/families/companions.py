"""The files that come beside a diffusion network: text encoders and autoencoder, found, missing or wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from darkroom.api.errors import CheckpointError
from darkroom.api.names import Role
from darkroom.weights.autoencoders import describe_autoencoder
from darkroom.weights.index import TensorIndex
from darkroom.weights.text_encoders import describe_text_encoder

T = TypeVar("T")


@dataclass(frozen=True)
class Companion:
    """A part that may come in a file of its own.

    title: what it is, `the T5-XXL v1.1 text encoder`. files: names of files that fit, and where people get
    them. required: whether the model draws nothing without it.
    """

    role: Role
    title: str
    files: tuple[str, ...]
    required: bool = True


def has(index: TensorIndex, companion: Companion) -> bool:
    """Whether the part is there, in a file of its own or in the main one."""
    return any(name.startswith(companion.role.prefix) for name in index)


def read_companion(
    index: TensorIndex,
    companion: Companion,
    needed_by: str,
    read: Callable[[Mapping[str, tuple[int, ...]]], T],
    problem: Callable[[T], str | None] = lambda part: None,
) -> T:
    """The architecture of a part, from `read` on the shapes under its role's prefix.

    needed_by: the family's title. problem: what makes a readable part another model's, such as
    "it gives text of width 2048, not 4096"; None when it fits.

    Raises CheckpointError that names the role, what the file is, the files that fit and the flag.
    """
    part = index.under(companion.role.prefix)
    if not part:
        raise CheckpointError(
            f"{needed_by}: {companion.title} is missing; give its file with {companion.role.flag}, "
            f"for example {_examples(companion)}"
        )
    try:
        config = read(part.shapes())
    except (KeyError, ValueError, IndexError) as err:
        raise _wrong(part, companion, needed_by, None) from err
    reason = problem(config)
    if reason is not None:
        raise _wrong(part, companion, needed_by, reason)
    return config


def _wrong(part: TensorIndex, companion: Companion, needed_by: str, reason: str | None) -> CheckpointError:
    describe = describe_autoencoder if companion.role is Role.VAE else describe_text_encoder
    because = f" ({reason})" if reason else ""
    return CheckpointError(
        f"{companion.role.flag}: this is {describe(part)}{because}; {needed_by} needs {companion.title}, "
        f"for example {_examples(companion)}"
    )


def _examples(companion: Companion) -> str:
    return " or ".join(companion.files)
