"""How long the pool takes to change models on one place, over the bare start of a process.

    python benchmarks/model_switch.py [--rounds 5]

Both start our sd-server on the built-in model. Bare: from the start until /health says ok. Switch: from the
request for a model that is not loaded, with another one in its place, until the lease. Then 50 requests for
one cold model at once: how many loads they cause.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx2

from darkroom.manager.config import ManagerConfig, Paths
from darkroom.manager.model_settings import ModelSettings
from darkroom.manager.pool import LaunchSpec, Pool

PORT = 39299


def main() -> None:
    """Alternates both, so that what else the machine does hits both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as home:
        asyncio.run(measure(Path(home), rounds))


async def measure(home: Path, rounds: int) -> None:
    """Prints medians."""
    config = ManagerConfig(first_port=39300, last_port=39319, max_loaded=1)
    pool = Pool(config, Paths.under(home), specify)
    await pool.start()
    await pool.load("a")
    bare, switch = [], []
    for number in range(rounds):
        bare.append(await bare_start())
        began = time.perf_counter()
        async with pool.lease("ba"[number % 2]):
            switch.append(time.perf_counter() - began)
    await pool.unload("ab"[rounds % 2])
    await asyncio.gather(*(hold(pool, "cold") for _ in range(50)))
    loads = pool.status("cold").loads
    await pool.shutdown()
    over = statistics.median(switch) - statistics.median(bare)
    print(
        f"bare start {statistics.median(bare):.2f} s, switch {statistics.median(switch):.2f} s: {over:+.2f} s"
    )
    print(f"50 requests for a cold model: {loads} load")


async def specify(model: str) -> LaunchSpec:
    """The built-in model under any name."""
    return LaunchSpec(model, settings=ModelSettings(threads=1), weight_bytes=16_000_000)


async def hold(pool: Pool, model: str) -> None:
    """One lease."""
    async with pool.lease(model):
        await asyncio.sleep(0)


async def bare_start() -> float:
    """Seconds until a process of its own is ready."""
    began = time.perf_counter()
    arguments = ("-m", "darkroom.server.main", "--listen-port", str(PORT), "--threads", "1")
    process = subprocess.Popen([sys.executable, "-P", *arguments], stdout=subprocess.DEVNULL)
    try:
        async with httpx2.AsyncClient(trust_env=False) as client:
            while True:
                try:
                    health = (await client.get(f"http://127.0.0.1:{PORT}/health")).json()
                    if health["status"] == "ok":
                        return time.perf_counter() - began
                except httpx2.HTTPError:
                    pass
                await asyncio.sleep(0.02)
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
