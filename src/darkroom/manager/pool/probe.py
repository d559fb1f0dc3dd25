"""What a process answers over HTTP while it loads and after."""

from __future__ import annotations

from typing import Any

import httpx2
from pydantic import ValidationError

from darkroom.api.health import Health, HealthStatus
from darkroom.manager.pool.engine import Engine
from darkroom.manager.pool.ports import HOST


def new_client(timeout: float) -> httpx2.AsyncClient:
    """For sidecars alone: proxies of the environment are not theirs."""
    return httpx2.AsyncClient(timeout=timeout, trust_env=False, follow_redirects=False)


async def read_health(client: httpx2.AsyncClient, engine: Engine, port: int) -> Health | None:
    """How the server on `port` says it is, None when nothing that could be the engine's answers.

    stable-diffusion.cpp's has no /health and listens when it has loaded, so that any 200 means ok; its
    health has pid 0 and no nonce, and proves nothing about whose process it is.
    """
    try:
        if engine.is_darkroom:
            answer = await client.get(f"http://{HOST}:{port}/health")
            return Health.model_validate_json(answer.content)
        answer = await client.get(f"http://{HOST}:{port}/v1/models")
    except (httpx2.HTTPError, ValidationError):
        return None
    if answer.status_code != 200:
        return None
    return Health(status=HealthStatus.OK, model="", version="", pid=0, loaded=True)


async def read_progress(client: httpx2.AsyncClient, port: int) -> frozenset[str] | None:
    """Marks that change whenever the jobs being drawn get on; None when the server does not tell."""
    try:
        answer = await client.get(f"http://{HOST}:{port}/sdcpp/v1/jobs")
        document = answer.json()
    except (httpx2.HTTPError, ValueError):
        return None
    jobs = document.get("jobs") if isinstance(document, dict) else document
    if answer.status_code != 200 or not isinstance(jobs, list):
        return None
    parts = ("id", "status", "phase", "image", "step")
    return frozenset(
        " ".join(str(job.get(part)) for part in parts)
        for job in jobs
        if isinstance(job, dict) and job.get("status") == "generating"
    )


async def read_capabilities(client: httpx2.AsyncClient, port: int) -> dict[str, Any]:
    """The engine's own account of itself; nothing when it gives none."""
    try:
        answer = await client.get(f"http://{HOST}:{port}/sdcpp/v1/capabilities")
        document = answer.json()
    except (httpx2.HTTPError, ValueError):
        return {}
    return document if answer.status_code == 200 and isinstance(document, dict) else {}
