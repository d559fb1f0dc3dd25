from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are sent differently there")

PROGRAM = textwrap.dedent(
    """
    import os, signal, sys, time
    from darkroom.api.errors import Cancelled
    from darkroom.cli.interrupt import Interrupt

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

    def heard(): print("heard", flush=True)
    def tidied(): print("tidied", flush=True)

    with Interrupt(heard, tidied) as interrupt:
        print("ready", flush=True)
        while not (interrupt() and sys.argv[1] == "listens"):
            time.sleep(0.01)
        try:
            interrupt.check()
        except Cancelled:
            print("cancelled", flush=True)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    """
)


def run(manner: str, presses: int, kind: signal.Signals = signal.SIGINT) -> tuple[int, list[str]]:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, manner], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    said = [process.stdout.readline()]
    for press in range(presses):
        process.send_signal(kind)
        if press == 0 and kind is signal.SIGINT:
            said.append(process.stdout.readline())
    said += process.stdout.readlines()
    process.stdout.close()
    return process.wait(timeout=30), [line.strip() for line in said]


def test_the_first_ctrl_c_is_a_request() -> None:
    assert run("listens", 1) == (0, ["ready", "heard", "cancelled"])


def test_the_second_ctrl_c_ends_at_once_with_130() -> None:
    assert run("is deaf", 2) == (130, ["ready", "heard", "tidied"])


def test_a_process_that_is_told_to_end_tidies_up() -> None:
    assert run("is deaf", 1, signal.SIGTERM) == (143, ["ready", "tidied"])
