"""A stand-in for sd-server: its flags and HTTP API without a model, and faults on command.

It starts in a fifth of a second. `--fake-...` flags, which `ModelSettings.extra_args` may hold, script it;
`--fake-upstream` first makes it speak like stable-diffusion.cpp's server: it listens when it has loaded, has
no /health, and shows progress on its output alone. `write_engine` makes a program of it.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgYGAAAAAEAAH2FzhVAAAAAElFTkSuQmCC"
)
OOM = "CUDA out of memory. Tried to allocate 2.00 GiB"


def write_engine(path: Path, *first: str) -> Path:
    """An executable that is this script with `first` before its other arguments."""
    path.write_text(
        f"#!{sys.executable}\n"
        f"import sys, runpy\n"
        f"sys.argv[1:1] = {list(first)!r}\n"
        f"runpy.run_path({__file__!r}, run_name='__main__')\n"
    )
    path.chmod(0o755)
    return path


def options(upstream: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sd-server", allow_abbrev=False)
    for flag in ("-m/--model", "--diffusion-model", "--vae", "--clip_l", "--clip_g", "--t5xxl", "--llm"):
        parser.add_argument(*flag.split("/"))
    for flag in ("--listen-ip", "--backend", "--params-backend", "--max-vram", "--sampling-method"):
        parser.add_argument(flag, default="")
    for flag in ("--scheduler", "--cfg-scale", "--width", "--height", "--guidance", "-t/--threads"):
        parser.add_argument(*flag.split("/"))
    parser.add_argument("--listen-port", type=int, default=1234)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--vae-tiling", action="store_true")
    parser.add_argument("--stream-layers", action="store_true")
    if not upstream:
        parser.add_argument("--parent-pid", type=int)
        parser.add_argument("-ngl", "--n-gpu-layers", type=int, default=-1)
    parser.add_argument("--fake-load", type=float, default=0.0, help="seconds to load")
    parser.add_argument("--fake-bytes", type=int, default=1000, help="bytes to read")
    parser.add_argument("--fake-stall", action="store_true", help="loading stops half way")
    parser.add_argument("--fake-load-fault", help="print this and exit 1 instead of loading")
    parser.add_argument("--fake-load-oom", type=int, default=0, help="no memory to load above this rung")
    parser.add_argument("--fake-draw-oom", type=int, default=0, help="no memory to draw above this rung")
    parser.add_argument("--fake-die-of-oom", action="store_true", help="and drawing then ends the process")
    parser.add_argument("--fake-step", type=float, default=0.01, help="seconds a step")
    parser.add_argument("--fake-crash", help="crash in the second step as long as this file exists")
    parser.add_argument("--fake-crash-once", help="crash so, and remove the file")
    parser.add_argument("--fake-hang", help="hang in the second step as long as this file exists")
    parser.add_argument("--fake-memory", type=int, default=0, help="bytes to hold")
    parser.add_argument("--fake-deaf", action="store_true", help="ignore SIGTERM")
    parser.add_argument("--fake-child", action="store_true", help="start a process of its own that sleeps")
    parser.add_argument("--fake-port-taken", help="say that the port is taken, and remove this file")
    parser.add_argument("--fake-log", help="append a line for each start and each picture to this file")
    return parser


class Fake:
    """The server's state."""

    def __init__(self, given: argparse.Namespace, upstream: bool) -> None:
        self.given = given
        self.upstream = upstream
        self.read = 0
        self.loaded = False
        self.events = 0
        self.generating = 0
        self.queued = 0
        self.drawing = threading.Lock()
        self.counting = threading.Lock()
        self.jobs: dict[str, dict[str, object]] = {}
        self.ids = itertools.count(1)
        self.memory = b""

    @property
    def rung(self) -> int:
        given = self.given
        if given.stream_layers:
            return 3
        return 2 if "te=cpu" in given.backend else int(given.vae_tiling)

    def note(self, line: str) -> None:
        if self.given.fake_log:
            with Path(self.given.fake_log).open("a") as log:
                log.write(line + "\n")

    def load(self) -> None:
        given = self.given
        self.note(f"start {os.getpid()} rung {self.rung}")
        if given.fake_port_taken and Path(given.fake_port_taken).exists():
            Path(given.fake_port_taken).unlink()
            die("error while attempting to bind on address: address already in use")
        if given.fake_load_fault:
            die(given.fake_load_fault)
        if self.rung < given.fake_load_oom:
            die(f"[ERROR] {OOM}")
        self.memory = b"\1" * given.fake_memory
        parts = 10 if given.fake_load or self.upstream else 1
        for part in range(1, parts + 1):
            if given.fake_stall and part > parts // 2:
                time.sleep(3600)
            time.sleep(given.fake_load / parts)
            self.read = given.fake_bytes * part // parts
            if self.upstream:
                print(f"\r  |{'#' * part}| {part}/{parts} - 1.25GB/s\033[K", end="", flush=True)
        print("\nloading tensors completed", flush=True)
        self.loaded = True

    def draw(self, steps: int, job: dict[str, object] | None = None) -> str:
        """The error, empty when a picture was drawn."""
        given = self.given
        with self.counting:
            self.queued += 1
        with self.drawing:
            self.queued -= 1
            self.generating += 1
            try:
                if self.rung < given.fake_draw_oom:
                    if given.fake_die_of_oom:
                        die(f"ggml_backend_cuda: {OOM}")
                    if self.upstream:
                        print(f"[ERROR] ggml_extend.hpp - vae: {OOM}", flush=True)
                    return OOM
                for step in range(1, steps + 1):
                    if job and job["status"] == "cancelled":
                        return "cancelled"
                    if step == 2:
                        self.misbehave()
                    time.sleep(given.fake_step)
                    self.events += 1
                    if job and job["status"] != "cancelled":
                        job |= {"step": step, "status": "generating"}
                    if self.upstream:
                        print(f"\r  |{'=' * step}>| {step}/{steps} - 0.05s/it\033[K", end="", flush=True)
                self.note("picture")
                return ""
            finally:
                self.generating -= 1

    def misbehave(self) -> None:
        given = self.given
        if given.fake_crash_once and Path(given.fake_crash_once).exists():
            Path(given.fake_crash_once).unlink()
            die("terminate called after throwing an instance of 'std::runtime_error'")
        if given.fake_crash and Path(given.fake_crash).exists():
            die("Segmentation fault (core dumped)")
        while given.fake_hang and Path(given.fake_hang).exists():
            time.sleep(0.05)

    def health(self) -> dict[str, object]:
        return {
            "status": "ok" if self.loaded else "loading",
            "bytes_read": self.read,
            "bytes_total": self.given.fake_bytes,
            "error": None,
            "model": self.given.model or "fake",
            "version": "0",
            "nonce": os.environ.get("DARKROOM_NONCE"),
            "pid": os.getpid(),
            "loaded": self.loaded,
            "stopping": False,
            "queued": self.queued,
            "generating": self.generating,
        }

    def capabilities(self) -> dict[str, object]:
        given = self.given
        return {
            "model": {"name": "fake", "stem": "fake", "path": given.model or ""},
            "features": {"cancel_queued": True, "cancel_generating": not self.upstream},
            "defaults": {
                "width": int(given.width or 512),
                "height": int(given.height or 512),
                "sample_params": {
                    "sample_steps": given.steps,
                    "sample_method": given.sampling_method or "euler_a",
                    "scheduler": given.scheduler or "discrete",
                    "guidance": {"txt_cfg": float(given.cfg_scale or 7.0), "distilled_guidance": 3.5},
                },
            },
        }


def die(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
    os._exit(1)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    fake: Fake

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self, status: int, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        fake = self.fake
        if self.path == "/health" and not fake.upstream:
            self.answer(200, fake.health())
        elif self.path == "/v1/models":
            models = {"object": "list", "data": [{"id": "sd-cpp-local", "object": "model"}]}
            self.answer(200, models) if fake.loaded else self.answer(503, {"error": "loading"})
        elif self.path == "/sdcpp/v1/capabilities":
            self.answer(200, fake.capabilities())
        elif self.path == "/sdcpp/v1/jobs" and not fake.upstream:
            status = "generating" if fake.generating else "completed"
            self.answer(200, [{"id": "job", "status": status, "step": fake.events}])
        elif self.path.endswith("/events") and self.path.split("/")[-2] in fake.jobs:
            self.stream_job(fake.jobs[self.path.split("/")[-2]])
        elif self.path.startswith("/sdcpp/v1/jobs/") and self.path.split("/")[-1] in fake.jobs:
            self.answer(200, fake.jobs[self.path.split("/")[-1]])
        else:
            self.answer(404, {"error": "not found"})

    def do_POST(self) -> None:
        fake = self.fake
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        try:
            request = json.loads(body or b"{}")
        except ValueError:
            request = {}
        if self.path.startswith("/v1/images/"):
            self.openai(request)
        elif self.path.startswith("/sdapi/v1/") and self.path.endswith("2img"):
            error = fake.draw(int(request.get("steps") or fake.given.steps))
            picture = base64.b64encode(PNG).decode()
            info = json.dumps({"prompt": request.get("prompt", "")})
            self.answer(
                500 if error else 200, {"error": error} if error else {"images": [picture], "info": info}
            )
        elif self.path == "/sdcpp/v1/img_gen":
            self.begin_job(request)
        elif self.path.endswith("/cancel") and self.path.split("/")[-2] in fake.jobs:
            job = fake.jobs[self.path.split("/")[-2]]
            if fake.upstream and job["status"] == "generating":
                self.answer(409, {"error": "job is currently generating and cannot be interrupted yet"})
                return
            if job["status"] in ("queued", "generating"):
                job["status"] = "cancelled"
            self.answer(200, job)
        else:
            self.answer(404, {"error": "not found"})

    def openai(self, request: dict[str, object]) -> None:
        fake, picture = self.fake, base64.b64encode(PNG).decode()
        error = fake.draw(int(str(request.get("steps") or fake.given.steps)))
        if error and fake.upstream:
            self.answer(500, {"error": "generate_image returned no results"})
        elif error:
            fault = {"message": error, "type": "server_error", "code": "out_of_memory", "param": None}
            self.answer(500, {"error": fault})
        elif request.get("stream"):
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            kind = "image_edit" if "edits" in self.path else "image_generation"
            partials = int(str(request.get("partial_images") or 0))
            for index in range(partials):
                self.event(f"{kind}.partial_image", {"b64_json": picture, "partial_image_index": index})
            self.event(f"{kind}.completed", {"b64_json": picture})
            self.close_connection = True
        else:
            count = int(str(request.get("n") or 1))
            seen = {"prompt": request.get("prompt"), "pid": os.getpid()}
            self.answer(200, {"created": 1, "data": [{"b64_json": picture}] * count, "fake": seen})

    def begin_job(self, request: dict[str, object]) -> None:
        fake = self.fake
        sample = request.get("sample_params")
        steps = int(sample.get("sample_steps") or 0) if isinstance(sample, dict) else 0
        id = f"job_{next(fake.ids):08x}"
        job: dict[str, object] = {
            "id": id,
            "kind": "img_gen",
            "status": "queued",
            "created": int(time.time()),
        }
        job |= {"started": None, "completed": None, "queue_position": 1, "result": None, "error": None}
        fake.jobs[id] = job

        def work() -> None:
            error = fake.draw(steps or fake.given.steps, job)
            if job["status"] == "cancelled":
                job["error"] = {"code": "cancelled", "message": "cancelled"}
                return
            picture = {"index": 0, "b64_json": base64.b64encode(PNG).decode(), "seed": 42, "infotext": ""}
            fault = {"code": "out_of_memory" if error == OOM else "generation_failed", "message": error}
            job["result"] = None if error else {"output_format": "png", "images": [picture]}
            job.update(error=fault if error else None, status="failed" if error else "completed")

        threading.Thread(target=work, daemon=True).start()
        self.answer(202, {**job, "poll_url": f"/sdcpp/v1/jobs/{id}"})

    def stream_job(self, job: dict[str, object]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        seen: object = None
        for count in itertools.count(1):
            state = {key: value for key, value in job.items() if key != "result"}
            if state != seen:
                seen = state
                final = job["status"] in ("completed", "failed", "cancelled")
                self.event(str(job["status"]) if final else "step", job if final else state, count)
                if final:
                    break
            time.sleep(0.01)
        self.close_connection = True

    def event(self, type: str, data: dict[str, object], id: int | None = None) -> None:
        head = f"id: {id}\n" if id else ""
        self.wfile.write(f"{head}event: {type}\ndata: {json.dumps({'type': type, **data})}\n\n".encode())


def die_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.1)
    os._exit(3)


def main() -> None:
    upstream = sys.argv[1:2] == ["--fake-upstream"]
    given = options(upstream).parse_args(sys.argv[1 + upstream :])
    if given.fake_deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if given.fake_child and os.fork() == 0:
        time.sleep(3600)
    if not upstream and given.parent_pid:
        threading.Thread(target=die_with, args=(given.parent_pid,), daemon=True).start()
    fake = Fake(given, upstream)
    Handler.fake = fake
    if upstream:
        fake.load()
    ThreadingHTTPServer.daemon_threads = True
    try:
        server = ThreadingHTTPServer((given.listen_ip or "127.0.0.1", given.listen_port), Handler)
    except OSError as error:
        die(f"could not bind: {error.strerror}")
    if not upstream:
        threading.Thread(target=fake.load, daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()
