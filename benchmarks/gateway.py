"""What the manager's gateway adds to a request, against its sidecar asked directly in the same run.

    python benchmarks/gateway.py [--requests 300] [--clients 50]

The sidecar is the tests' stand-in, which answers at once, so that only the way there is measured. Then many
clients want the same cold model at the same time: it must be loaded once.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import httpx2
import yaml

BODY = {"prompt": "a red circle on a white table", "steps": 1, "seed": 1}
PATH = "/v1/images/generations"
COLD = "cold"


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--clients", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, manager(Path(folder)) as (url, log):
        direct, through = overhead(url, options.requests)
        print(f"direct   p50 {direct[0]:.2f} ms, p95 {direct[1]:.2f} ms")
        print(f"gateway  p50 {through[0]:.2f} ms, p95 {through[1]:.2f} ms")
        print(f"overhead p50 {through[0] - direct[0]:.2f} ms (goal: below 5 ms)")
        before = log.read_text().count("start")
        with ThreadPoolExecutor(options.clients) as pool:
            statuses = list(pool.map(lambda _: cold(url), range(options.clients)))
        loads = log.read_text().count("start") - before
        print(f"{statuses.count(200)} of {options.clients} clients served by {loads} load(s)")


@contextmanager
def manager(home: Path) -> Iterator[tuple[str, Path]]:
    """A manager with stand-ins; its address, and the file where they note what they do."""
    engine, log = stand_in(home / "sd-server"), home / "log"
    (home / "config/models").mkdir(parents=True)
    (home / "data/models").mkdir(parents=True)
    shutil.copy(str(files("darkroom").joinpath("data/builtin.gguf")), home / f"data/models/{COLD}.gguf")
    config = {"engine": str(engine), "port": 0, "first_port": 39280, "last_port": 39299}
    (home / "config/config.yaml").write_text(yaml.safe_dump(config))
    for model, load in (("darkroom", "0"), (COLD, "1")):
        words = ["--fake-log", str(log), "--fake-step", "0", "--fake-load", load]
        (home / f"config/models/{model}.yaml").write_text(yaml.safe_dump({"extra_args": words}))
    process = subprocess.Popen(
        [sys.executable, "-c", "from darkroom.manager.cli import main; main()", "serve"],
        env=os.environ | {"DARKROOM_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found
        yield found[0], log
    finally:
        process.terminate()
        process.wait()


def stand_in(path: Path) -> Path:
    """The tests' stand-in for sd-server as a program."""
    source = Path(__file__).parents[1] / "tests/manager/fake_sidecar.py"
    spec = importlib.util.spec_from_file_location("fake_sidecar", source)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    program: Path = module.write_engine(path)
    return program


def overhead(url: str, requests: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Milliseconds (p50, p95) of a request to the sidecar and through the gateway, in turns."""
    with httpx2.Client(trust_env=False, timeout=60) as client:
        client.post(url + PATH, json=BODY).raise_for_status()
        port = client.get(f"{url}/admin/pool").json()["models"][0]["port"]
        targets = (f"http://127.0.0.1:{port}{PATH}", url + PATH)
        taken: tuple[list[float], list[float]] = ([], [])
        for number in range(2 * requests + 20):
            began = time.perf_counter()
            client.post(targets[number % 2], json=BODY).raise_for_status()
            if number >= 20:
                taken[number % 2].append(1000 * (time.perf_counter() - began))
    return quantiles(taken[0]), quantiles(taken[1])


def quantiles(values: list[float]) -> tuple[float, float]:
    """The median, and what nineteen of twenty stay below."""
    return statistics.median(values), statistics.quantiles(values, n=20)[-1]


def cold(url: str) -> int:
    """The status of one client's request for the model that is not loaded."""
    with httpx2.Client(trust_env=False, timeout=60) as client:
        return client.post(url + PATH, json={**BODY, "model": COLD}).status_code


if __name__ == "__main__":
    main()
