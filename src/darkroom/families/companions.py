"""The parts of a model: the diffusion network, and the companions beside it; found, missing or wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from darkroom.api.errors import CheckpointError
from darkroom.api.names import Role
from darkroom.weights.identify import describe_part
from darkroom.weights.index import TensorIndex

T = TypeVar("T")


@dataclass(frozen=True)
class Companion:
    """A part that may come in a file of its own.

    title: what it is, `the T5-XXL v1.1 text encoder`. files: names of files that fit, and where people get
    them.
    """

    role: Role
    title: str
    files: tuple[str, ...]


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
    except KeyError as err:
        raise _wrong(part, companion, needed_by, f"it lacks {err.args[0]}") from err
    except (ValueError, IndexError) as err:
        raise _wrong(part, companion, needed_by, "it has tensors of other shapes") from err
    reason = problem(config)
    if reason is not None:
        raise _wrong(part, companion, needed_by, reason)
    return config


def unfit_width(gives: str, width: int, wanted: int) -> str | None:
    """What `read_companion` wants to know of a part that gives `gives` of one width only."""
    return None if width == wanted else f"it gives {gives} of width {width}, not {wanted}"


def read_network(
    index: TensorIndex, prefix: str, title: str, read: Callable[[Mapping[str, tuple[int, ...]]], T]
) -> T:
    """The architecture of the diffusion network, from `read` on the shapes under `prefix`.

    Raises CheckpointError where a tensor that defines it is missing, or of a shape that none has.
    """
    try:
        return read(index.under(prefix).shapes())
    except KeyError as err:
        problem = f"lacks {prefix}{err.args[0]}"
    except (ValueError, IndexError):
        problem = f"has tensors of other shapes than {title}'s"
    raise CheckpointError(f"model: its diffusion network {problem}; a complete file of {title} is needed")


def check_vocabulary(tokens: Iterable[int], known: int, role: Role) -> None:
    """Raises CheckpointError for tokens that an encoder does not know, of which it knows `known`."""
    if (highest := max(tokens)) >= known:
        raise CheckpointError(
            f"{role.flag}: knows {known} tokens, the prompt has token {highest}; a file that brings its own "
            "vocabulary, or one with the published one, is needed"
        )


def _wrong(part: TensorIndex, companion: Companion, needed_by: str, reason: str) -> CheckpointError:
    what = describe_part(part)
    if what is None:
        kind = "autoencoder" if companion.role is Role.VAE else "text encoder"
        what = f"no {kind} that is known ({len(part)} tensors: {', '.join(list(part)[:3])}...)"
    else:
        what = f"{what} ({reason})"
    return CheckpointError(
        f"{companion.role.flag}: this is {what}; {needed_by} needs {companion.title}, "
        f"for example {_examples(companion)}"
    )


def _examples(companion: Companion) -> str:
    return " or ".join(companion.files)
