"""From last lines to what was wrong."""

from __future__ import annotations

import signal

import pytest

from darkroom.manager.pool import FailureKind
from darkroom.manager.pool.diagnosis import diagnose, explain


@pytest.mark.parametrize(
    ("status", "line", "kind"),
    [
        (1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "out_of_memory"),
        (1, "[ERROR] ggml_extend.hpp:1 - vae: failed to allocate the compute buffer", "out_of_memory"),
        (-6, "terminate called after throwing an instance of 'std::bad_alloc'", "out_of_memory"),
        (1, "[ERROR] model.cpp - get sd version from file failed: 'x.safetensors'", "unknown_model"),
        (1, "[ERROR] init model loader from file failed: 'x.safetensors'", "bad_file"),
        (1, "error: x.gguf: no such file", "bad_file"),
        (1, "[ERROR] missing tensor 'model.diffusion_model.out.2.weight'", "missing_tensor"),
        (1, "OSError: [Errno 98] error while attempting to bind on address: address already in use", "port"),
        (1, "error: --backend: backend 'cuda3' was not found; available: cpu", "bad_setting"),
        (1, "error: unknown argument: --frobnicate", "bad_setting"),
        (1, "CUDA error: CUDA driver version is insufficient for CUDA runtime version", "driver"),
        (0, "x.safetensors: is a text file, not a model: '<html>'; expected safetensors", "bad_file"),
        (0, "x.gguf: holds no diffusion network of a known model", "unknown_model"),
        (0, "model: this is SDXL's refiner; SDXL's base model is supported", "unknown_model"),
        (0, "Flux: all text encoders are missing; give the files", "missing_tensor"),
        (0, "something else", "refused"),
        (-signal.SIGILL, "", "illegal_instruction"),
        (-signal.SIGKILL, "sampling", "killed"),
        (-signal.SIGSEGV, "sampling", "crash"),
        (1, "Traceback (most recent call last):", "crash"),
    ],
)
def test_kinds(status: int, line: str, kind: str) -> None:
    assert diagnose(status, ("starting", line)) == kind


def test_the_line_that_shows_it_is_told() -> None:
    tail = ("loading", "[ERROR] get sd version from file failed: 'x'", "[ERROR] new_sd_ctx_t failed", "")
    told = explain(FailureKind.UNKNOWN_MODEL, tail, 1)
    assert told == (
        "the file is of no known model (exit status 1): [ERROR] get sd version from file failed: 'x'"
    )
    assert explain(FailureKind.CRASH, ("step 3",), -signal.SIGSEGV) == "it crashed (SIGSEGV): step 3"
    assert explain(FailureKind.CRASH, (), 3) == "it crashed (exit status 3)"
