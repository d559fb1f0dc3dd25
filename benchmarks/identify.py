"""How long it takes to find out what 1,000 model files are, cold and again.

The claim: 1,000 files of real headers are identified in under 10 s on one core, and a second scan of them in
under 1 s. The peer opens the same safetensors files with the format's own library and lists their tensors.

    python -m benchmarks.identify [--files 1000] [--json FILE]

Files are the headers of tests/data/headers at full size without their weights (holes on the disk), in
safetensors and GGUF; what is measured reads them from the system's cache.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from safetensors import safe_open
from tests.headers import FOLDER, header_names
from tests.manager.library.files import write_header

from darkroom.manager.config import Paths

GOAL, GOAL_AGAIN = 10.0, 1.0


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), arguments.files)
    for name, value in result.items():
        print(f"{name:>28}: {value:.3f}" if isinstance(value, float) else f"{name:>28}: {value}")
    print(f"goals: {GOAL} s and {GOAL_AGAIN} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))


def measure(home: Path, count: int) -> dict[str, float | int]:
    """Seconds of a cold scan, of a second one, and of one by another process that knows the files."""
    models = Paths.under(home).models
    companions = (f"companions/{path.stem}" for path in sorted((FOLDER / "companions").glob("*.txt")))
    names = [*header_names(), *companions]
    for number in range(count):
        header = names[number % len(names)]
        ending = "gguf" if header.endswith("-gguf") else "safetensors"
        write_header(models / f"{number % 20}", header, f"{number}.{ending}")
    cold = scanned(home)
    restart = scanned(home)
    files = list(models.rglob("*.safetensors"))
    peer = seconds(lambda: [list_tensors(file) for file in files])
    return {
        "files": cold["files"],
        "broken": cold["broken"],
        "models": cold["models"],
        "cold scan, s": cold["first"],
        "second scan, s": cold["second"],
        "scan after a restart, s": restart["first"],
        "cold, processor s": cold["processor"],
        "cold, ms a file": cold["first"] / count * 1000,
        "safetensors, ms a file": peer / len(files) * 1000,
    }


def scanned(home: Path) -> dict[str, float]:
    """Two scans in a process of their own, which like the manager has no torch."""
    script = (
        "import json, sys, time\n"
        "from pathlib import Path\n"
        "from darkroom.manager.config import Paths\n"
        "from darkroom.manager.library.library import Library\n"
        "library = Library(Paths.under(Path(sys.argv[1])))\n"
        "times = [time.perf_counter()]\n"
        "used = time.process_time()\n"
        "library.scan(); times.append(time.perf_counter()); used = time.process_time() - used\n"
        "library.scan(); times.append(time.perf_counter())\n"
        "broken = sum(1 for file in library.files() if file.problem)\n"
        "print(json.dumps({'files': len(library.files()), 'models': len(library.models()),\n"
        "    'first': times[1] - times[0], 'second': times[2] - times[1],\n"
        "    'broken': broken, 'processor': used}))\n"
        "assert 'torch' not in sys.modules\n"
    )
    command = [sys.executable, "-c", script, str(home)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def list_tensors(file: Path) -> int:
    """What the format's own library does to list a file's tensors with their shapes."""
    with safe_open(file, "np") as tensors:
        return sum(len(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
