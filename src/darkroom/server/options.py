"""sd-server's own options, and the sections of its help. The others are declared in api/."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from darkroom.api.options import opt
from darkroom.core.log import LogFormat


class ServerOptions(BaseModel):
    """Where sd-server listens, whom it serves and how much it takes on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    listen_ip: str = opt("127.0.0.1", "address to listen on", "-l", "--listen-ip", metavar="IP")
    listen_port: int = opt(
        1234,
        "port to listen on; 0 takes a free one, which is printed",
        "--listen-port",
        metavar="PORT",
        ge=0,
        le=65535,
    )
    serve_html_path: Path | None = opt(
        None,
        "an HTML file to serve at / instead of the page that is built in",
        "--serve-html-path",
        metavar="PATH",
    )
    api_key: str = opt(
        "",
        "what clients must send as Bearer, x-api-key or Basic password; /health asks for none; without "
        "it DARKROOM_API_KEY counts",
        "--api-key",
        metavar="KEY",
    )
    insecure: bool = opt(False, "listen without a key where others can connect, too", "--insecure")
    cors_origin: tuple[str, ...] = opt(
        (),
        "origin whose web pages may call this server, * for all; give it once for each (default: none)",
        "--cors-origin",
        metavar="ORIGIN",
        append=True,
    )
    parent_pid: int | None = opt(
        None, "process whose end is this server's end, too", "--parent-pid", metavar="PID", gt=0
    )
    max_queue: int = opt(
        64,
        "jobs at a time, the running one among them; more are refused",
        "--max-queue",
        metavar="N",
        gt=0,
        le=1000,
    )
    job_ttl: int = opt(
        600,
        "seconds that a finished job can be asked for; as long again it is known to have expired",
        "--job-ttl",
        metavar="SECONDS",
        ge=1,
        le=86_400,
    )
    max_body: int = opt(64, "MB that a request may have", "--max-body", metavar="MB", gt=0, le=4096)
    keep_going_on_disconnect: bool = opt(
        False,
        "draw on when the client that waits for the pictures is gone (default: its job is cancelled)",
        "--keep-going-on-disconnect",
    )
    verbose: bool = opt(
        False,
        "log each phase with its seconds and bytes, and requests that only look, too",
        "-v",
        "--verbose",
    )
    log_format: LogFormat = opt(
        LogFormat.TEXT, "text, or json: one object a line", "--log-format", metavar="FORMAT"
    )
    log_prompts: bool = opt(False, "log the prompts of jobs, too; they are left out else", "--log-prompts")
    color: bool = opt(False, "colour the tags of log lines", "--color")
    version: bool = opt(False, "print the version and exit", "--version")
    help: bool = opt(False, "show this help and exit", "-h", "--help")
