"""The devices that torch knows: the processor, CUDA and ROCm cards, Apple's Metal, Intel's XPU."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, suppress

import torch
from torch import Tensor, nn

from darkroom.api.names import ComputeType
from darkroom.core.malloc import release_freed_memory
from darkroom.layers.joint import join_weights
from darkroom.runtime.backends import Backend, Memory
from darkroom.runtime.budget import format_bytes
from darkroom.runtime.courier import Courier, CudaCourier, CudaSender, Sender
from darkroom.runtime.devices import Device, DeviceType
from darkroom.runtime.graphs import GraphedModule, accelerate
from darkroom.runtime.host import free_and_total_memory, physical_cores
from darkroom.runtime.lanes import CudaLane, Lane
from darkroom.runtime.settings import Setting

logger = logging.getLogger(__name__)

DTYPES = {ComputeType.F32: torch.float32, ComputeType.BF16: torch.bfloat16, ComputeType.F16: torch.float16}

KEPT = 1 << 29
"""Bytes that CUDA's allocator may keep unused between two uses of a network."""

PORTABLE = 1
"""CUDA's cudaHostRegisterPortable: memory locked for all cards."""

_THREADS = Setting(torch.get_num_threads, torch.set_num_threads)
_MATMUL_PRECISION = Setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision)


def _switch(owner: object, name: str) -> Setting[bool]:
    return Setting(lambda: bool(getattr(owner, name)), lambda value: setattr(owner, name, value))


_CUDNN_BENCHMARK = _switch(torch.backends.cudnn, "benchmark")
_CUDNN_TF32 = _switch(torch.backends.cudnn, "allow_tf32")
_MATMUL_TF32 = _switch(torch.backends.cuda.matmul, "allow_tf32")


class TorchProvider:
    """Finds torch's devices and opens them."""

    def devices(self) -> Sequence[Device]:
        """The processor first, then whatever accelerator this build of torch can use."""
        return [_cpu(), *_cuda(), *_metal(), *_xpu()]

    def open(self, device: Device, *, threads: int) -> Backend:
        """A backend for one of `devices()`. Raises RuntimeError when its driver does not answer."""
        if device.kind == "cpu":
            return CpuBackend(device, threads)
        if device.kind == "metal":
            return MetalBackend(device, torch.device("mps"))
        index = int(device.name.removeprefix(device.kind))
        if device.kind == "xpu":
            return XpuBackend(device, torch.device("xpu", index))
        return CudaBackend(device, torch.device("cuda", index))


class CpuBackend(Backend):
    """The processor."""

    def __init__(self, info: Device, threads: int) -> None:
        super().__init__(info, torch.device("cpu"))
        self._threads = threads
        self._has_declined = False

    def memory(self) -> Memory:
        """Main memory; a container's limit counts."""
        return Memory(*free_and_total_memory())

    def compute_dtype(self, asked: ComputeType) -> torch.dtype:
        """bf16 where the processor multiplies it in hardware, else f32; never f16, ten times slower."""
        best = torch.bfloat16 if has_bf16_arithmetic() else torch.float32
        if asked is ComputeType.F16 and not self._has_declined:
            self._has_declined = True
            logger.warning("compute type: f16 is very slow on a CPU; %s is used instead", _short(best))
        return best if asked in (ComputeType.AUTO, ComputeType.F16) else DTYPES[asked]

    def prepare(self) -> None:
        """Threads: as told, else OMP_NUM_THREADS, else one a core. f32 products: by the faster library."""
        if self._threads > 0 or "OMP_NUM_THREADS" not in os.environ:
            threads = self._threads if self._threads > 0 else physical_cores()
            self._undo.callback(_THREADS.hold(threads))
        # "medium" gives f32 products to oneDNN instead of MKL, whose kernels are half as fast on AMD CPUs.
        # oneDNN may then round to bf16, which it does only where AMX is; without AMX the result is f32's own.
        # On a CUDA machine the setting would also mean TF32 there.
        is_safe = not (torch.cpu._is_amx_tile_supported() or torch.cuda.is_available())
        if is_safe and platform.machine() in ("x86_64", "AMD64"):
            self._undo.callback(_MATMUL_PRECISION.hold("medium"))

    def empty_cache(self) -> None:
        """Gives the memory of freed tensors back to the system."""
        release_freed_memory()

    def rest(self) -> None:
        """Gives the memory of freed tensors back: one network's activations do not lie beside another's."""
        release_freed_memory()


class CudaBackend(Backend):
    """One NVIDIA or AMD card: torch calls both cuda."""

    joins_projections = True
    locks_pages = True

    def memory(self) -> Memory:
        """The card's memory, other processes counted as used."""
        return Memory(*torch.cuda.mem_get_info(self.device))

    def compute_dtype(self, asked: ComputeType) -> torch.dtype:
        """bf16 on cards that have it (compute capability 8.0 and later, AMD), else f16."""
        with torch.cuda.device(self.device):
            has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return _explicit(asked, torch.bfloat16 if has_bf16 else torch.float16)

    def prepare(self) -> None:
        """Convolutions: by the fastest algorithm for their shape. f32: true f32, no TF32."""
        torch.cuda.get_device_properties(self.device)
        for setting, value in ((_CUDNN_BENCHMARK, True), (_CUDNN_TF32, False), (_MATMUL_TF32, False)):
            self._undo.callback(setting.hold(value))

    def current(self) -> AbstractContextManager[object]:
        """torch's and Triton's current device."""
        return torch.cuda.device(self.device)

    def take(self, tensor: Tensor) -> Tensor:
        """`tensor` on this card, its memory format kept; later work on the card waits for it."""
        return tensor.to(self.device, non_blocking=True)

    def courier(self, *, reads_files: bool) -> Courier:
        """Copies in a stream of their own."""
        return CudaCourier(self.device, in_background=reads_files)

    def sender(self) -> Sender:
        """Copies in streams of their own."""
        return CudaSender(self.device)

    def lane(self, main: Backend) -> Lane:
        """A stream and memory of their own while `main` records a graph."""
        return CudaLane(self.device, main.device)

    def page_lock(self, memory: Tensor) -> Callable[[], None]:
        """Registers the pages with the driver; where it declines, copies are slower and wait."""
        if memory.device.type != "cpu" or not memory.numel():
            return super().page_lock(memory)
        runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        address = memory.data_ptr()
        with torch.cuda.device(self.device):
            status = int(runtime.cudaHostRegister(address, memory.numel(), PORTABLE))
        if status:
            with suppress(RuntimeError):  # the next launch would find the error and take it for its own
                torch.zeros(1, device=self.device)
            logger.warning(
                "%s: %s of memory could not be locked (error %d); copies from it are slower",
                self.name,
                format_bytes(memory.numel()),
                status,
            )
            return super().page_lock(memory)
        return lambda: runtime.cudaHostUnregister(address)

    def accelerate(self, net: nn.Module) -> nn.Module:
        """Projections of one input joined into one product, calls replayed as CUDA graphs."""
        return accelerate(net)

    def lay_out(self, net: nn.Module, without: Collection[nn.Module]) -> None:
        """As `accelerate` does, but for the graphs: they would keep what they read."""
        join_weights(net, without)

    def retire(self, accelerated: nn.Module) -> None:
        """Lets go of recorded graphs and their memory."""
        if isinstance(accelerated, GraphedModule):
            accelerated.forget()

    def synchronize(self) -> None:
        """Waits for the card."""
        torch.cuda.synchronize(self.device)

    def marker(self) -> Callable[[], None]:
        """An event in the card's current stream: later work is not waited for."""
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        wait: Callable[[], None] = event.synchronize
        return wait

    def empty_cache(self) -> None:
        """Gives the allocator's unused blocks back to the driver."""
        with torch.cuda.device(self.device):
            torch.cuda.empty_cache()

    def rest(self) -> None:
        """Gives large activations back, which takes about a millisecond; little is kept for next time."""
        unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        if unused > KEPT:
            self.empty_cache()


class MetalBackend(Backend):
    """Apple's GPU, which shares the main memory."""

    def memory(self) -> Memory:
        """The share of main memory that the system lets the GPU have."""
        total = torch.mps.recommended_max_memory()
        return Memory(max(total - torch.mps.driver_allocated_memory(), 0), total)

    def compute_dtype(self, asked: ComputeType) -> torch.dtype:
        """bf16 from macOS 14 on, else f16."""
        return _explicit(
            asked, torch.bfloat16 if torch.backends.mps.is_macos_or_newer(14, 0) else torch.float16
        )

    def synchronize(self) -> None:
        """Waits for the GPU."""
        torch.mps.synchronize()

    def empty_cache(self) -> None:
        """Gives the allocator's unused blocks back to the system."""
        torch.mps.empty_cache()


class XpuBackend(Backend):
    """One Intel GPU."""

    def memory(self) -> Memory:
        """The GPU's memory."""
        return Memory(*torch.xpu.mem_get_info(self.device))

    def compute_dtype(self, asked: ComputeType) -> torch.dtype:
        """bf16 where the GPU has it, else f16."""
        has_bf16 = torch.xpu.is_bf16_supported(including_emulation=False)
        return _explicit(asked, torch.bfloat16 if has_bf16 else torch.float16)

    def synchronize(self) -> None:
        """Waits for the GPU."""
        torch.xpu.synchronize(self.device)

    def empty_cache(self) -> None:
        """Gives the allocator's unused blocks back to the driver."""
        torch.xpu.empty_cache()


def has_bf16_arithmetic() -> bool:
    """Whether this processor multiplies bf16 in hardware: AVX512-BF16 or AMX."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _explicit(asked: ComputeType, auto: torch.dtype) -> torch.dtype:
    return DTYPES.get(asked, auto)


def _short(dtype: torch.dtype) -> str:
    return {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}[dtype]


def _cpu() -> Device:
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    description = str(capabilities.get("cpu_name", "") or platform.processor() or platform.machine())
    return Device("cpu", "cpu", DeviceType.CPU, description.strip(), free_and_total_memory()[1])


def _cuda() -> list[Device]:
    if not torch.cuda.is_available():
        return []
    kind = "rocm" if torch.version.hip else "cuda"
    return [
        Device(
            f"{kind}{index}",
            kind,
            DeviceType.INTEGRATED_GPU if getattr(card, "is_integrated", False) else DeviceType.GPU,
            card.name,
            card.total_memory,
        )
        for index in range(torch.cuda.device_count())
        for card in [torch.cuda.get_device_properties(index)]
    ]


def _metal() -> list[Device]:
    if not torch.backends.mps.is_available():
        return []
    memory = torch.mps.recommended_max_memory()
    return [Device("metal", "metal", DeviceType.GPU, f"{_cpu().description} GPU", memory)]


def _xpu() -> list[Device]:
    if not torch.xpu.is_available():
        return []
    return [
        Device(f"xpu{index}", "xpu", DeviceType.GPU, card.name, card.total_memory)
        for index in range(torch.xpu.device_count())
        for card in [torch.xpu.get_device_properties(index)]
    ]
