"""torch.compile where it helps, and only there."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

logger = logging.getLogger("training")


class Warmer:
    """A process that fills the compiler's cache for one network (training/warm.py), and what it found."""

    def __init__(self, net: str, size: int, batch: int, *, enabled: bool) -> None:
        self.net = net
        self.process: subprocess.Popen[str] | None = None
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115
        if enabled:
            command = [sys.executable, "-m", "training.warm", net, "--size", str(size), "--batch", str(batch)]
            environment = dict(os.environ, TORCHINDUCTOR_COMPILE_THREADS="6")
            self.process = subprocess.Popen(
                command, env=environment, text=True, stdout=self.said, stderr=self.said
            )

    def ready(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.process is None or self.process.poll() is not None

    def worth_it(self) -> bool:
        """Whether the process has ended well, in good time, with a step that is faster when compiled."""
        if self.process is None or self.process.poll() is None:
            return False
        self.process = None
        self.said.seek(0)
        said = self.said.read()
        try:
            found = json.loads(next(line for line in said.splitlines() if line.startswith('{"compile_s"')))
        except (ValueError, StopIteration):
            logger.info("compile %s failed: %s", self.net, said[-1500:])
            return False
        logger.info("compile %s: %s", self.net, found)
        return bool(found["compiled_ms"] < 0.95 * found["plain_ms"] and found["compile_s"] < 150)

    def stop(self) -> None:
        """Ends the process if it still runs."""
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait()
            self.process = None


def compiled_or_plain(
    net: nn.Module, loss: Callable[[Callable[..., object]], Tensor]
) -> Callable[..., object]:
    """The compiled network, or the network itself where compiling fails or changes the result.

    loss: makes a scalar with the callable that it is given, on inputs like those of training.
    """
    start = time.monotonic()
    try:
        fast = torch.compile(net, dynamic=False)
        state = torch.cuda.get_rng_state() if torch.cuda.is_available() else torch.get_rng_state()
        restore = torch.cuda.set_rng_state if torch.cuda.is_available() else torch.set_rng_state
        loss(fast).backward()
        restore(state)
        first = float(loss(fast).detach())
        restore(state)
        second = float(loss(net).detach())
        for p in net.parameters():
            if p.grad is not None and not bool(p.grad.isfinite().all()):
                raise ArithmeticError("a gradient is not finite")
    except Exception:
        logger.exception("compiled step fell back to the plain one")
        return net
    finally:
        for p in net.parameters():
            p.grad = None
    took = time.monotonic() - start
    logger.info("compiled in %.1f s; loss %.4f, plain %.4f", took, first, second)
    return fast if abs(first - second) < 0.1 * abs(second) + 1e-3 else net
