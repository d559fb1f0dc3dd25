"""What sd-server adds to a picture, against the bare engine in the same run; how soon its first event comes.

    python benchmarks/server_overhead.py [--rounds 40] [--device cpu]

A server process and an engine in this process draw the same requests in turns. The server's side is all that
a client waits for: HTTP, checking, the queue, PNG and base64.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import httpx2
import psutil

from darkroom import EngineConfig, GenerationRequest
from darkroom.core.image_files import ImageFormat, encode_image

if TYPE_CHECKING:
    from darkroom import Engine

PROMPT = "a red circle on a blue background"
SIZES = ((64, 1), (256, 1))


def start(device: str) -> tuple[subprocess.Popen[str], httpx2.Client]:
    """A server that is ready."""
    command = [sys.executable, "-m", "darkroom.server.main", "--listen-port", "0", "--backend", device]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout
    url = process.stdout.readline().split()[-1]
    client = httpx2.Client(base_url=url, timeout=600, trust_env=False)
    while client.get("/health").json()["status"] == "loading":
        time.sleep(0.05)
    return process, client


def timed(work: Callable[[], object]) -> float:
    """Milliseconds that it takes."""
    begin = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - begin)


def requests_of(client: httpx2.Client, side: int, steps: int) -> dict[str, Callable[[], object]]:
    """The same picture, asked for in two ways."""

    def post(path: str, body: dict[str, object]) -> None:
        client.post(path, json={"prompt": PROMPT, "seed": 7} | body).raise_for_status()

    size = {"width": side, "height": side}
    return {
        "/v1/images/generations": lambda: post(
            "/v1/images/generations", {"size": f"{side}x{side}", "steps": steps}
        ),
        "/sdapi/v1/txt2img": lambda: post("/sdapi/v1/txt2img", {**size, "steps": steps}),
    }


def first_event(client: httpx2.Client) -> float:
    """Milliseconds from asking for a picture to the first event of its job."""
    begin = time.perf_counter()
    body = {"prompt": PROMPT, "sample_params": {"sample_steps": 20}}
    job = client.post("/sdcpp/v1/img_gen", json=body).json()
    with client.stream("GET", job["events_url"]) as events:
        next(events.iter_lines())
        taken = 1000 * (time.perf_counter() - begin)
    client.post(job["cancel_url"])
    return taken


def report(name: str, values: list[float]) -> None:
    """One line."""
    print(f"  {name:<42} median {statistics.median(values):7.1f} ms, worst {max(values):7.1f} ms")


def main() -> None:
    """All rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # both sides alike, none spins
    from darkroom import Engine  # torch reads these variables once

    load = psutil.getloadavg()[0]
    print(f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} CPUs, load {load:.1f}")
    process, client = start(arguments.device)
    try:
        with Engine.load(EngineConfig(backend=arguments.device)) as engine:
            for side, steps in SIZES:
                measure(engine, client, side, steps, arguments.rounds)
        print("from submit to the first event")
        report("/sdcpp/v1/jobs/{id}/events", [first_event(client) for _ in range(arguments.rounds)])
    finally:
        process.terminate()
        process.wait()


def measure(engine: Engine, client: httpx2.Client, side: int, steps: int, rounds: int) -> None:
    """Draws one size in turns."""
    request = GenerationRequest(prompt=PROMPT, seed=7, width=side, height=side, steps=steps)

    def bare() -> None:
        engine.generate(request)

    def with_file() -> None:
        result = engine.generate(request)
        encode_image(result.images[0], ImageFormat.PNG, result.infotexts[0])

    ways = {"bare engine": bare, "bare engine, and a PNG": with_file} | requests_of(client, side, steps)
    for work in ways.values():
        work()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            taken[name].append(timed(work))
    print(f"{side}x{side}, {steps} steps, {rounds} rounds in turns")
    for name, values in taken.items():
        report(name, values)
    for name in list(ways)[2:]:
        over = [own - bare for own, bare in zip(taken[name], taken["bare engine"], strict=True)]
        report(f"{name} over the bare engine", over)


if __name__ == "__main__":
    main()
