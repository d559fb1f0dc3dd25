"""From a dead process' last lines to what was wrong."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from darkroom.manager.pool.errors import FailureKind

_SIGNS: tuple[tuple[FailureKind, str], ...] = (  # the first one found in the last lines counts
    (
        FailureKind.PORT,
        r"address already in use|could not bind|failed to (bind|listen)|error while attempting to bind",
    ),
    (
        FailureKind.OUT_OF_MEMORY,
        r"out of memory|outofmemory|failed to allocate|cannot allocate memory|bad_alloc|alloc.* failed"
        r"|memoryerror|not enough memory|ErrorOutOfDeviceMemory",
    ),
    (FailureKind.DRIVER, r"driver version is insufficient|no cuda-capable device|devicelost|ErrorDeviceLost"),
    (FailureKind.ILLEGAL_INSTRUCTION, r"illegal instruction"),
    (
        FailureKind.BAD_FILE,
        r"no such file|not found: .*\.(safetensors|gguf|ckpt)|is not a |truncated|invalid header|damaged"
        r"|download it again|no known format|not a model|breaks off"
        r"|failed to open|init model loader from file failed|read .* failed|cannot be read|git-lfs pointer",
    ),
    (
        FailureKind.MISSING_TENSOR,
        r"missing tensor|tensor .* not found|(is|are) missing|wrong shape|no complete text encoder",
    ),
    (
        FailureKind.UNKNOWN_MODEL,
        r"get sd version from file failed|no known model|of a known model|(is|are) supported"
        r"|is not supported",
    ),
    (
        FailureKind.BAD_SETTING,
        r"invalid (parameter|argument)|unknown argument|unrecognized argument|backend '.*' was not found"
        r"|unknown backend module|backend config failed|^error: ",
    ),
)
_TITLES = {
    FailureKind.OUT_OF_MEMORY: "out of memory",
    FailureKind.BAD_FILE: "a model file cannot be read",
    FailureKind.MISSING_TENSOR: "a model file lacks tensors",
    FailureKind.UNKNOWN_MODEL: "the file is of no known model",
    FailureKind.BAD_SETTING: "a setting was not accepted",
    FailureKind.PORT: "the port is taken",
    FailureKind.ILLEGAL_INSTRUCTION: "the program does not run on this processor",
    FailureKind.DRIVER: "the device's driver does not answer",
    FailureKind.HANG: "it made no more progress",
    FailureKind.STALLED_LOAD: "loading made no more progress",
    FailureKind.REFUSED: "the server cannot serve the model",
    FailureKind.NOT_STARTED: "the program cannot be started",
    FailureKind.KILLED: "somebody killed it; it can be the kernel, when memory is short",
    FailureKind.CRASH: "it crashed",
}


def diagnose(status: int, tail: Sequence[str]) -> FailureKind:
    """Why a process ended with `status` (below 0: the signal, 0: it lives) after saying `tail`."""
    if status == -signal.SIGILL:
        return FailureKind.ILLEGAL_INSTRUCTION
    text = "\n".join(tail[-40:])
    for kind, sign in _SIGNS:
        if re.search(sign, text, re.IGNORECASE | re.MULTILINE):
            return kind
    if status == 0:
        return FailureKind.REFUSED
    return FailureKind.KILLED if status == -signal.SIGKILL else FailureKind.CRASH


def explain(kind: FailureKind, tail: Sequence[str], status: int | None = None) -> str:
    """One line for people: the kind and the line that shows it, else the last one that tells of an error."""
    lines = [line for line in tail if line.strip()]
    signs = [sign for other, sign in _SIGNS if other is kind] + ["error|failed", ""]
    last = next(
        (line for sign in signs for line in reversed(lines) if re.search(sign, line, re.IGNORECASE)), ""
    ).strip()[:300]
    ended = "" if status is None else f" ({_ended(status)})"
    return f"{_TITLES[kind]}{ended}" + (f": {last}" if last else "")


def _ended(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
