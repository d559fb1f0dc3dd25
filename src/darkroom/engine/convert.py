"""Model files into one file of other types: weights alone, read, converted and written piece by piece."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from darkroom.api.config import EngineConfig
from darkroom.api.errors import Cancelled, CheckpointError, RequestError
from darkroom.api.names import Module, Role
from darkroom.api.result import IsCancelled, OnProgress, Phase, Progress
from darkroom.engine.spelling import by_file_names, by_native_names
from darkroom.quant import fp8
from darkroom.quant.gguf import BLOCK_TYPES
from darkroom.quant.packed import PackedTensor
from darkroom.runtime.backends import BackendManager, Placement
from darkroom.runtime.devices import Devices
from darkroom.runtime.host import physical_cores
from darkroom.weights.checkpoint import Checkpoint, open_checkpoint
from darkroom.weights.index import DTYPES, TensorInfo
from darkroom.weights.layouts import (
    GGUF_TYPES,
    SAFETENSORS_TYPES,
    Layout,
    Value,
    gguf_layout,
    safetensors_layout,
)
from darkroom.weights.output import OutputFile
from darkroom.weights.requantize import CPU, convert_piece, is_scaled, pieces
from darkroom.weights.source import TensorView
from darkroom.weights.tensor_types import TypeRules

logger = logging.getLogger(__name__)

ENDINGS = (".gguf", ".safetensors")

WORKERS = 8
"""Threads that convert pieces; with more cores each has several. More would wait for the interpreter."""

IN_GGUF = {**dict.fromkeys(fp8.DTYPES, "f16"), "bool": "i8", "u8": "i8"}
"""What GGUF has instead of types that it lacks."""

FILE_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 10, "q3_k": 11,
    "q4_k": 14, "q5_k": 16, "q6_k": 18, "iq4_nl": 25, "iq4_xs": 30, "bf16": 32, "tq1_0": 36, "tq2_0": 37,
    "mxfp4": 38, "nvfp4": 39,
}  # fmt: skip
"""llama.cpp's numbers for `general.file_type`."""


@dataclass(frozen=True)
class Conversion:
    """A file that was written. types: bytes by type. seconds: from the first byte to the last."""

    path: Path
    tensors: int
    bytes_read: int
    bytes_written: int
    types: Mapping[str, int]
    seconds: float


@dataclass(frozen=True)
class _Source:
    """The input under the names that its tensors will have, and what its files say about themselves."""

    view: TensorView
    gguf_metadata: Mapping[str, bytes]
    metadata: Mapping[str, str]


def convert_model(
    config: EngineConfig,
    output: Path,
    *,
    native_names: bool = False,
    on_progress: OnProgress = lambda progress: None,
    is_cancelled: IsCancelled = lambda: False,
) -> Conversion:
    """Writes the files of `config` as one, with the types of `config.type` and `config.tensor_type_rules`.

    output: ends with .gguf or .safetensors. native_names: tensors get the names of their model's authors;
    otherwise they keep those of their files, with a role's prefix for companions. `config.backend`: where
    weights are quantized; the processor where it says nothing.
    on_progress: told of bytes read. Memory stays small: a few pieces of a tensor at a time.

    Raises RequestError for what cannot be written, CheckpointError for what cannot be read, PlacementError,
    Cancelled.
    """
    rules = TypeRules.parse(config.type, config.tensor_type_rules)
    check_output(output, rules)
    if not config.files:
        raise RequestError("convert: no input model; give one with -m, --diffusion-model or another role")
    with ExitStack() as opened:
        files = {role: opened.enter_context(open_checkpoint(path)) for role, path in config.files.items()}
        source = _open(files, native_names)
        is_gguf = output.suffix.lower() == ".gguf"
        infos = [_planned(info, rules, source.view, is_gguf) for info in source.view.index.values()]
        layout = _layout(infos, rules, source, is_gguf)
        total = sum(info.nbytes for info in source.view.index.values())
        report = _Report(on_progress, is_cancelled, total)
        device = _device(config, opened)
        with OutputFile(output, layout.size) as file:
            file.write(0, layout.header)
            _write_tensors(_Target(file, layout, device), infos, source.view, config.threads, report)
    types: Counter[str] = Counter()
    for info in infos:
        types[info.dtype] += info.nbytes
    return Conversion(output, len(infos), total, layout.size, dict(types.most_common()), report.seconds)


def check_output(output: Path, rules: TypeRules) -> None:
    """Raises RequestError for an ending that is no format's, and for types that the format does not have."""
    ending = output.suffix.lower()
    if ending not in ENDINGS:
        raise RequestError(
            f"--output: '{output}' ends in neither {' nor '.join(ENDINGS)}; expected one of them"
        )
    if ending == ".safetensors" and (blocks := sorted(rules.types & BLOCK_TYPES.keys())):
        raise RequestError(
            f"--type: a safetensors file holds no {', '.join(blocks)}; "
            "write a .gguf file, or f32, f16 or bf16"
        )


def _open(files: Mapping[Role, Checkpoint], native_names: bool) -> _Source:
    view = by_native_names(files) if native_names else by_file_names(files)
    if view is None:
        raise CheckpointError(
            f"--convert-name: {next(iter(files.values())).path} holds no diffusion network of a known model, "
            "whose names the tensors could get; convert without it"
        )
    gguf_metadata: dict[str, bytes] = {}
    metadata: dict[str, str] = {}
    for file in reversed(list(files.values())):
        of_file = file.gguf_metadata()
        # a companion's general.architecture, for one, says nothing about the whole
        of_others = {key: value for key, value in gguf_metadata.items() if not key.startswith("general.")}
        gguf_metadata = of_others | of_file
        if not of_file:
            metadata |= {key: value for key, value in file.index.metadata.items() if isinstance(value, str)}
    return _Source(view, gguf_metadata, metadata)


def _planned(info: TensorInfo, rules: TypeRules, view: TensorView, is_gguf: bool) -> TensorInfo:
    """The tensor as it will be written."""
    wanted = rules.wanted(info)
    block = BLOCK_TYPES.get(wanted)
    if is_gguf:
        wanted = IN_GGUF.get(wanted, wanted)
        if block and info.numel % block.elements:  # cut from a larger tensor
            wanted = "f16"
    elif block or (wanted in fp8.DTYPES and is_scaled(view.read(info.name))):
        wanted = "f16"
    if wanted not in (GGUF_TYPES if is_gguf else SAFETENSORS_TYPES):
        raise CheckpointError(f"tensor {info.name!r} is of type {wanted}, which cannot be written")
    return TensorInfo(info.name, info.shape, wanted)


def _layout(infos: list[TensorInfo], rules: TypeRules, source: _Source, is_gguf: bool) -> Layout:
    if not is_gguf:
        return safetensors_layout(infos, {**source.metadata, "format": "pt"})
    metadata: dict[str, Value | bytes] = {
        key: value
        for key, value in source.gguf_metadata.items()
        if key != "general.alignment" and not key.startswith("split.")
    }
    if rules:
        metadata.pop("general.file_type", None)
    if rules.default in FILE_TYPES:
        metadata["general.file_type"] = FILE_TYPES[rules.default]
    if any(info.dtype in BLOCK_TYPES for info in infos):
        metadata["general.quantization_version"] = 2
    return gguf_layout(infos, metadata)


class _Report:
    """Counts the bytes that were read."""

    def __init__(self, on_progress: OnProgress, is_cancelled: IsCancelled, total: int) -> None:
        self._on_progress, self._is_cancelled, self._total = on_progress, is_cancelled, total
        self._start, self._done = time.perf_counter(), 0

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start

    def advance(self, nbytes: int) -> None:
        self._done += nbytes
        if self._is_cancelled():
            raise Cancelled("convert: cancelled; nothing was written")
        self._on_progress(Progress(Phase.CONVERT, self._done, self._total, self.seconds))


def _device(config: EngineConfig, opened: ExitStack) -> torch.device:
    """Where blocks are encoded: the diffusion network's device if --backend says one."""
    if not config.backend:
        return CPU
    placement = Placement.parse(config, Devices.discover())
    manager = opened.enter_context(BackendManager(placement, threads=config.threads))
    return manager.runtime(Module.DIFFUSION).device


class _Target(NamedTuple):
    """The file, where each tensor goes in it, and the device that encodes."""

    file: OutputFile
    layout: Layout
    device: torch.device


def _write_tensors(
    target: _Target, infos: list[TensorInfo], view: TensorView, threads: int, report: _Report
) -> None:
    jobs: deque[tuple[Future[None], int]] = deque()

    def finish_one() -> None:
        future, nbytes = jobs.popleft()
        future.result()
        report.advance(nbytes)

    with _pool(threads if threads > 0 else physical_cores()) as pool:
        for info in infos:
            before, start = view.index[info.name].dtype, target.layout.starts[info.name]
            for piece in pieces(view.read(info.name)):
                count = math.prod(piece.shape)
                while len(jobs) >= 2 * WORKERS:
                    finish_one()
                job = pool.submit(_write_piece, target, start, piece, info, info.dtype != before)
                job.add_done_callback(lambda _, name=info.name: view.release(name))  # type: ignore[misc]
                jobs.append((job, _size(before, count)))
                start += _size(info.dtype, count)
        while jobs:
            finish_one()


def _write_piece(
    target: _Target, start: int, piece: Tensor | PackedTensor, info: TensorInfo, is_new: bool
) -> None:
    with torch.inference_mode():
        if is_new and info.dtype in BLOCK_TYPES:
            piece = piece.to(target.device)
        made = convert_piece(piece, info.dtype, f"tensor {info.name!r}")
        if is_new and info.dtype == "f16" and not torch.isfinite(made).all():
            logger.warning(
                "%s: holds values that are too large for f16; bf16 and f32 can hold them", info.name
            )
    target.file.write(start, made)


def _size(dtype: str, count: int) -> int:
    return BLOCK_TYPES[dtype].size(count) if dtype in BLOCK_TYPES else count * DTYPES[dtype].itemsize


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Workers that share `threads` threads of torch; what they have not begun is dropped after an error."""
    workers = min(WORKERS, threads)
    before = torch.get_num_threads()
    each = max(1, threads // workers)
    torch.set_num_threads(each)
    pool = ThreadPoolExecutor(workers, "convert", initializer=torch.set_num_threads, initargs=(each,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def describe(conversion: Conversion) -> str:
    """One line: what was written, its size, what it is made of, and how fast that went."""
    types = ", ".join(f"{dtype} {nbytes / 1e6:.1f} MB" for dtype, nbytes in conversion.types.items())
    speed = conversion.bytes_read / max(conversion.seconds, 1e-9) / 1e9
    return (
        f"{conversion.path}: {conversion.tensors} tensors, {conversion.bytes_read / 1e6:.1f} MB -> "
        f"{conversion.bytes_written / 1e6:.1f} MB ({types}), {conversion.seconds:.1f} s, {speed:.2f} GB/s"
    )
