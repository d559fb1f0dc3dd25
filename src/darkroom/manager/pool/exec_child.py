"""Becomes a program that dies with its parent: `exec_child.py PARENT_PID PROGRAM [ARGUMENT]...`.

A script of its own, and not code between fork and exec, because the manager has threads (Linux only).
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Asks the kernel for SIGKILL at the parent's death, which survives exec, and execs."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the kernel was asked
        sys.exit(1)
    try:
        os.execvp(program[0], program)
    except OSError as error:
        sys.exit(f"{program[0]}: cannot be started: {error.strerror}")


main()
