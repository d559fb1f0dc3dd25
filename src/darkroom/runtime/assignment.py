"""The grammar of --backend, --params-backend and --split-mode: what each module is given. Needs no device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from darkroom.api.config import EngineConfig
from darkroom.api.errors import PlacementError
from darkroom.api.names import Module, SplitMode

RUNTIME_FLAG = "--backend"
PARAMS_FLAG = "--params-backend"
SPLIT_FLAG = "--split-mode"
DISK = "disk"

DEFAULT_KEYS = frozenset({"all", "default", "*"})
DEFAULT_DEVICES = frozenset({"", "auto", "default"})


@dataclass(frozen=True)
class Assignment:
    """What one flag says: a name for some modules, and one for all others. "" is nothing said.

    flag: how messages call it. modules: in the order of `Module`, whatever the order of the text.
    """

    flag: str
    default: str = ""
    modules: Mapping[Module, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, flag: str = RUNTIME_FLAG) -> Assignment:
        """Reads `name` or `module=name`, comma-separated; what is said last about a module holds.

        Raises PlacementError for a half assignment and for a module that does not exist.
        """
        default = ""
        named: dict[Module, str] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals:
                default = part
                continue
            if not key or not value:
                raise PlacementError(
                    f"{flag}: invalid backend assignment '{part}'; write module=device, for example te=cpu"
                )
            if key.lower() in DEFAULT_KEYS:
                default = value
                continue
            module = Module.parse(key)
            if module is None:
                raise PlacementError(
                    f"{flag}: unknown backend module '{key}'; known: {', '.join(Module)}, "
                    "and all, default or * for the rest"
                )
            named[module] = value
        return cls(flag, default, {module: named[module] for module in Module if module in named})

    def get(self, module: Module) -> str:
        """The device name given to `module`, else the default, else ""."""
        return self.modules.get(module, self.default)

    def __str__(self) -> str:
        default = [f"all={self.default}"] if self.default else []
        return ",".join(default + [f"{module}={name}" for module, name in self.modules.items()])


class Assignments(NamedTuple):
    """Where the modules run, where their weights live, and how they are split over several devices."""

    runtime: Assignment
    params: Assignment
    split: Assignment

    @classmethod
    def of(cls, config: EngineConfig) -> Assignments:
        """The assignments of a configuration, its compatibility flags included.

        Finds every mistake that the text alone shows, before anybody asks for devices.
        Raises PlacementError.
        """
        runtime = config.backend if config.backend.strip() else _on_cpu(config)
        params = config.params_backend
        if not params.strip() and config.offload_to_cpu:
            params = "*=cpu"
        assignments = cls(
            Assignment.parse(runtime, RUNTIME_FLAG),
            Assignment.parse(params, PARAMS_FLAG),
            Assignment.parse(config.split_mode, SPLIT_FLAG),
        )
        for assignment, name in assignments.names():
            check_name(name, assignment.flag)
        return assignments

    def names(self) -> Iterator[tuple[Assignment, str]]:
        """Every name said, in the order in which they are checked: defaults first, then modules."""
        for assignment in self:
            if assignment.default:
                yield assignment, assignment.default
        for assignment in self:
            for name in assignment.modules.values():
                yield assignment, name


def check_name(name: str, flag: str) -> None:
    """Raises PlacementError for a device name that no machine could serve, and for what is no split mode."""
    if flag == SPLIT_FLAG:
        if split_mode(name) is None:
            raise PlacementError(f"{flag}: invalid split mode '{name}' (expected layer or row)")
    elif "&" in name:
        _check_list(name, flag)
    elif is_disk(name) and flag != PARAMS_FLAG:
        raise PlacementError(
            f"{flag}: backend 'disk' is only supported by params_backend; "
            f"write {PARAMS_FLAG} disk to leave weights in the file"
        )


def _check_list(name: str, flag: str) -> None:
    if flag == PARAMS_FLAG:
        raise PlacementError(
            f"{flag}: params_backend does not accept device lists ('{name}'); name one device or disk"
        )
    names = device_list(name)
    if not names:
        raise PlacementError(f"{flag}: invalid backend device list '{name}'; write cuda0&cuda1, for example")
    for part in names:
        if is_default(part):
            raise PlacementError(
                f"{flag}: default backend token is not allowed in a device list '{name}'; name each device"
            )
        check_name(part, flag)


def device_list(name: str) -> list[str]:
    """The device names in `name`, which `&` joins."""
    return [part for part in (part.strip() for part in name.split("&")) if part]


def split_mode(name: str) -> SplitMode | None:
    """The mode that `name` means, `layer` where nothing is said; None if there is none."""
    wanted = name.strip().lower()
    return SplitMode.LAYER if not wanted else next((mode for mode in SplitMode if mode == wanted), None)


def is_default(name: str) -> bool:
    """Whether `name` leaves the choice of the device to us."""
    return name.strip().lower() in DEFAULT_DEVICES


def is_disk(name: str) -> bool:
    """Whether `name` means that weights stay in their file."""
    return name.strip().lower() == DISK


def _on_cpu(config: EngineConfig) -> str:
    """--clip-on-cpu, --vae-on-cpu and --control-net-cpu as an assignment."""
    old = (
        (config.clip_on_cpu, "te=cpu"),
        (config.vae_on_cpu, "vae=cpu"),
        (config.control_net_cpu, "controlnet=cpu"),
    )
    return ",".join(text for is_set, text in old if is_set)
