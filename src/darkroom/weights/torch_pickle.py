"""The pickles of torch checkpoints, read strictly: one name or opcode that no tensor needs is an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO

from darkroom.api.errors import CheckpointError
from darkroom.core.torch_globals import Global, Item, Storage
from darkroom.core.torch_pickle import PickleError, PickleMachine


@dataclass(frozen=True)
class Unpickled:
    """value: what the pickle holds, its tensors as TensorRef. storages: all that it mentions, by key."""

    value: Item
    storages: dict[str, Storage]


def load(file: IO[bytes], subject: str) -> Unpickled:
    """Reads one pickle from the file's position to its end mark.

    Raises CheckpointError for a global outside the allow-list, and for a damaged pickle.
    """
    machine = _Machine(subject)
    try:
        return Unpickled(machine.run(file), machine.storages)
    except PickleError as err:
        raise CheckpointError(f"{subject}: {err}; download it again") from err


class _Machine(PickleMachine):
    def __init__(self, subject: str) -> None:
        super().__init__()
        self.subject = subject

    def refuse_global(self, name: Global) -> None:
        raise CheckpointError(
            f"{self.subject}: its pickle names {name}, which no tensor needs and which could run code; "
            "get the model as safetensors"
        )

    def refuse_computed_name(self) -> Item:
        raise ValueError("a global without a name")

    def refuse_opcode(self, name: str, argument: Item) -> None:
        raise CheckpointError(
            f"{self.subject}: its pickle uses {name}, which no torch checkpoint needs; "
            "convert the file to safetensors"
        )
