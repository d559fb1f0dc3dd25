"""Open devices: what one offers, who owns it, and which module is placed on which."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from darkroom.api.config import EngineConfig
from darkroom.api.errors import OutOfMemoryError, PlacementError
from darkroom.api.names import ComputeType, Module, SplitMode
from darkroom.runtime.assignment import SPLIT_FLAG, Assignments, device_list, is_disk, split_mode
from darkroom.runtime.budget import format_bytes
from darkroom.runtime.courier import Courier, Sender
from darkroom.runtime.devices import Device, Devices
from darkroom.runtime.lanes import Lane
from darkroom.runtime.limits import Limits

logger = logging.getLogger(__name__)


# Of torch, of CUDA's libraries, of the C++ library, and of oneDNN, which says nothing of memory.
_SIGNS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "bad_alloc",
    "could not create a primitive",
    "could not create a memory object",
)


class Memory(NamedTuple):
    """Bytes free and in total on a device."""

    free: int
    total: int


class Backend(ABC):
    """One open device: weights live on it, networks run on it.

    A provider makes it, a `BackendManager` owns it; everybody else only refers to it.
    After `close` any use of its device is a RuntimeError.

    joins_projections: whether several products of one input are faster as one here (layers.joint).
    locks_pages: whether `page_lock` does something.
    """

    joins_projections = False
    locks_pages = False

    def __init__(self, info: Device, device: torch.device) -> None:
        """`device`: where networks here take and give tensors; cpu for a device that torch does not know."""
        self.info = info
        self._device = device
        self._undo = ExitStack()
        self._is_closed = False

    @property
    def name(self) -> str:
        """The name of the device: cpu, cuda0, ..."""
        return self.info.name

    @property
    def device(self) -> torch.device:
        """Where a network running here takes its inputs and leaves its outputs."""
        self.require_open()
        return self._device

    @property
    def is_closed(self) -> bool:
        """Whether the owner has closed it."""
        return self._is_closed

    def require_open(self) -> None:
        """Raises RuntimeError after `close`."""
        if self._is_closed:
            raise RuntimeError(f"{self.name}: the backend is closed; it lives as long as its engine")

    @abstractmethod
    def memory(self) -> Memory:
        """Memory of the device as it is now."""

    @abstractmethod
    def compute_dtype(self, asked: ComputeType) -> torch.dtype:
        """The type that networks compute with here: what is asked for, unless the device is no good at it."""

    def wide_dtype(self, asked: ComputeType) -> torch.dtype:
        """`compute_dtype` for networks whose values exceed float16's 65504: bf16 or f32 instead of it."""
        for kind in (asked, ComputeType.AUTO):
            if (dtype := self.compute_dtype(kind)) is not torch.float16:
                return dtype
        return torch.float32

    def prepare(self) -> None:  # noqa: B027  # not every device has something to do here
        """Settings of the process that this device wants; called once, undone by `close`."""

    def take(self, tensor: Tensor) -> Tensor:
        """`tensor` on this device, its memory format kept."""
        return tensor.to(self.device)

    def current(self) -> AbstractContextManager[object]:
        """Within it this is the device that the calling thread works on."""
        return nullcontext()

    def courier(self, *, reads_files: bool) -> Courier:
        """Who brings weights here while the device works. reads_files: what is brought comes from files."""
        return Courier()

    def sender(self) -> Sender:
        """Who hands tensors of this device to others."""
        return Sender()

    def lane(self, main: Backend) -> Lane:
        """This device's part of what `main` records."""
        return Lane()

    def page_lock(self, memory: Tensor) -> Callable[[], None]:
        """Makes copies from main memory to here run beside other work; what it returns undoes that.

        memory: whole pages of it, in use by nobody else.
        """
        return lambda: None

    def accelerate(self, net: nn.Module) -> nn.Module:
        """What to call instead of `net` while its weights are here: `net` itself, or a faster equal of it.

        Asked for each time that weights arrive; `retire` ends its use before they leave.
        """
        return net

    def lay_out(self, net: nn.Module, without: Collection[nn.Module]) -> None:  # noqa: B027
        """Makes `net` faster as it is, where not all of its weights are here: `without` are those modules."""

    def retire(self, accelerated: nn.Module) -> None:  # noqa: B027
        """Frees what `accelerate` has made, or `lay_out` of it, whoever still holds it."""

    def synchronize(self) -> None:  # noqa: B027
        """Waits for all work in flight."""

    def marker(self) -> Callable[[], None]:
        """Marks the work asked for so far; what it returns waits until that is done."""
        return self.synchronize

    def empty_cache(self) -> None:  # noqa: B027
        """Gives unused memory back to the device."""

    def rest(self) -> None:  # noqa: B027
        """A network has run and its weights stay. Gives unused memory back where that is cheap."""

    @contextmanager
    def guarded(self, work: str) -> Iterator[None]:
        """Turns the device's complaints about memory into OutOfMemoryError. work: `running diffusion`."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            memory = self.memory()
            raise OutOfMemoryError(
                f"{self.name}: out of memory while {work}, {format_bytes(memory.free)} of "
                f"{format_bytes(memory.total)} free; a smaller picture needs less, and so does "
                "--params-backend cpu or disk",
                self.name,
            ) from error

    def close(self) -> None:
        """Gives everything back. For the owner only; a second call does nothing."""
        if self._is_closed:
            return
        self._undo.close()
        self.empty_cache()
        self._is_closed = True
        logger.debug("%s: closed", self.name)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}{' closed' if self._is_closed else ''}>"


class Spread(NamedTuple):
    """The devices that one module is to be split over, the main one first, each once, and how."""

    devices: tuple[Device, ...]
    mode: SplitMode


class Residency(NamedTuple):
    """Where one module runs, and where its weights live: a device, or None for their file."""

    runtime: Device
    params: Device | None


@dataclass(frozen=True)
class Placement:
    """Every module's residency, on the devices of this machine, and how much of one may be used.

    spreads: of the modules for which several devices were named.
    """

    devices: Devices
    residencies: Mapping[Module, Residency]
    limits: Limits
    spreads: Mapping[Module, Spread]

    @classmethod
    def parse(cls, config: EngineConfig, devices: Devices) -> Placement:
        """The placement that a configuration asks for, every name in it checked.

        Raises PlacementError.
        """
        assignments = Assignments.of(config)
        limits = Limits.of(config)
        for assignment, name in assignments.names():
            if assignment.flag != SPLIT_FLAG and not is_disk(name):
                for part in device_list(name) or [name]:
                    devices.resolve(part, assignment.flag)
        residencies, spreads = {}, {}
        for module in Module:
            names = device_list(assignments.runtime.get(module)) or [""]
            runtime, *others = dict.fromkeys(devices.resolve(name) for name in names)
            if others:
                mode = split_mode(assignments.split.get(module)) or SplitMode.LAYER
                spreads[module] = Spread((runtime, *others), mode)
            name = assignments.params.get(module)
            params = None if is_disk(name) else devices.resolve(name) if name else runtime
            residencies[module] = Residency(runtime, params)
        resolved = limits.resolved(lambda name: devices.resolve(name).name)
        return cls(devices, residencies, resolved, spreads)

    def of(self, module: Module) -> Residency:
        """Where `module` is placed."""
        return self.residencies[module]


class BackendManager:
    """Owns one backend for each device in use, whichever modules and for whatever purpose they use it.

    Backends are opened when they are first asked for and closed with the manager, the last one first.
    """

    def __init__(self, placement: Placement, *, threads: int = -1) -> None:
        """`threads`: for devices that compute with the processor's; below 1: as many as it has cores."""
        self.placement = placement
        self._threads = threads
        self._backends: dict[str, Backend] = {}
        self._is_closed = False

    def runtime(self, module: Module) -> Backend:
        """Where `module` runs. Raises PlacementError when the device does not start."""
        return self._backend(self.placement.of(module).runtime, module)

    def params(self, module: Module) -> Backend | None:
        """Where the weights of `module` live; None: in their file."""
        device = self.placement.of(module).params
        return None if device is None else self._backend(device, module)

    def spread(self, module: Module) -> tuple[Backend, ...]:
        """All devices that `module` was given, the main one first."""
        spread = self.placement.spreads.get(module)
        devices = spread.devices if spread else (self.placement.of(module).runtime,)
        return tuple(self._backend(device, module) for device in devices)

    def host(self, module: Module) -> Backend:
        """The processor, whose memory weights of `module` wait in while they are not needed."""
        return self._backend(self.placement.devices.resolve("cpu"), module)

    def open(self, device: Device) -> Backend:
        """A device that no module asked for. Raises PlacementError when it does not start."""
        return self._backend(device, None)

    @property
    def backends(self) -> tuple[Backend, ...]:
        """The open ones, the first opened first."""
        return tuple(self._backends.values())

    def close(self) -> None:
        """Closes every backend; a second call does nothing."""
        self._is_closed = True
        while self._backends:
            self._backends.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, type: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _backend(self, device: Device, module: Module | None) -> Backend:
        if self._is_closed:
            raise RuntimeError("backends: the manager is closed; it lives as long as its engine")
        if device.name not in self._backends:
            try:
                backend = self.placement.devices.open(device, threads=self._threads)
                backend.prepare()
            except (RuntimeError, OSError) as error:
                purpose = f" for module {module}" if module else ""
                raise PlacementError(
                    f"backend: failed to initialize backend '{device}'{purpose}: {error}; "
                    "--list-devices shows what there is"
                ) from error
            self._backends[device.name] = backend
        return self._backends[device.name]


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return any(sign in text for sign in _SIGNS)
