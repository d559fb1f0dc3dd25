"""How a store behaves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

GIB = 1024**3


def free_bytes(folder: Path) -> int:
    """Room left on the file system of `folder`."""
    return shutil.disk_usage(folder).free


def tokens_of_hosts() -> dict[str, str]:
    """Tokens that the environment has for hosts besides the hub: CIVITAI_TOKEN."""
    token = os.environ.get("CIVITAI_TOKEN", "").strip()
    return {"civitai.com": token} if token else {}


@dataclass(frozen=True)
class StoreOptions:
    """What None stands for is read from the environment by huggingface_hub (HF_TOKEN, HF_ENDPOINT, ...)."""

    endpoint: str | None = None
    """the hub or a mirror of it; None: HF_ENDPOINT"""
    token: str | None = None
    """for the hub; None: HF_TOKEN, or what `hf auth login` saved"""
    offline: bool | None = None
    """None: HF_HUB_OFFLINE"""
    hf_cache: Path | None = None
    """a Hugging Face cache to take files from; None: HF_HUB_CACHE or below HF_HOME"""
    host_tokens: Mapping[str, str] = field(default_factory=dict)
    """bearer tokens of other hosts; each is sent to its own host alone, and by https"""
    allow_private: bool = False
    """plain URLs may lead to private addresses"""
    parallel: int = 2
    """files at once"""
    stall_s: float = 30.0
    """seconds without a byte after which a connection is made anew"""
    tries: int = 6
    """in a row without a new byte"""
    backoff_s: float = 1.0
    """the first wait between two tries; it doubles"""
    reserve: int = 2 * GIB
    """bytes that downloads leave free on the disk"""
    recheck: int = GIB
    """bytes after which free space is looked at again"""
    grace_s: float = 3600.0
    """files younger than this are no garbage yet"""
    quarantine_s: float = 7 * 86400.0
    """how long garbage can still be brought back"""
    free_space: Callable[[Path], int] = free_bytes
