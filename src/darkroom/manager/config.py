"""How a manager runs and where its things are."""

from __future__ import annotations

import ipaddress
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from platformdirs import user_cache_path, user_config_path, user_data_path, user_state_path
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
)

from darkroom.api.errors import RequestError
from darkroom.manager.units import byte_count, seconds


def _read_seconds(value: object, field: ValidationInfo) -> object:
    return seconds(value, str(field.field_name)) if isinstance(value, str | int | float) else value


def _read_bytes(value: object, field: ValidationInfo) -> object:
    return byte_count(value, str(field.field_name)) if isinstance(value, str | int | float) else value


Seconds = Annotated[
    float,
    BeforeValidator(_read_seconds),
    PlainSerializer(lambda value: -1.0 if math.isinf(value) else value, return_type=float),
]
Bytes = Annotated[int, BeforeValidator(_read_bytes)]

OPENAI_NAMES = (
    "gpt-image-1",
    "gpt-image-1-mini",
    "gpt-image-1.5",
    "gpt-image-2",
    "chatgpt-image-latest",
    "dall-e-2",
    "dall-e-3",
)


@dataclass(frozen=True)
class Paths:
    """Where the manager keeps its things. `DARKROOM_HOME` puts them all into one folder."""

    config: Path
    """settings written by people: `config.yaml`, keys, settings per model"""
    data: Path
    """models, the store, durable jobs"""
    cache: Path
    """what can be made again: fingerprints of files"""
    state: Path
    """run files and logs"""

    @classmethod
    def default(cls) -> Paths:
        """The platform's usual folders, or all below `$DARKROOM_HOME`."""
        home = os.environ.get("DARKROOM_HOME")
        if home:
            return cls.under(Path(home).expanduser())
        return cls(
            config=user_config_path("darkroom", appauthor=False),
            data=user_data_path("darkroom", appauthor=False),
            cache=user_cache_path("darkroom", appauthor=False),
            state=user_state_path("darkroom", appauthor=False),
        )

    @classmethod
    def under(cls, home: Path) -> Paths:
        """Everything in one folder."""
        home = home.absolute()
        return cls(config=home / "config", data=home / "data", cache=home / "cache", state=home / "state")

    @property
    def config_file(self) -> Path:
        """What `darkroom serve` reads when no `--config` is given."""
        return self.config / "config.yaml"

    @property
    def keys_file(self) -> Path:
        """API keys, hashed, mode 0600."""
        return self.config / "keys.json"

    @property
    def model_settings(self) -> Path:
        """A folder: one file for each model that has settings of its own."""
        return self.config / "models"

    @property
    def models(self) -> Path:
        """The library's own folder: what people put here is found."""
        return self.data / "models"

    @property
    def store(self) -> Path:
        """The store of companion files."""
        return self.data / "store"

    @property
    def jobs_file(self) -> Path:
        """SQLite: durable jobs."""
        return self.data / "jobs.sqlite"

    @property
    def results(self) -> Path:
        """A folder: pictures of durable jobs."""
        return self.data / "results"

    @property
    def library_index(self) -> Path:
        """SQLite: what is known of the files in the library."""
        return self.cache / "library.sqlite"

    @property
    def run(self) -> Path:
        """A folder: run files, which the next start reads to clean up after this one."""
        return self.state / "run"

    @property
    def logs(self) -> Path:
        """A folder: one log for each model's sidecar."""
        return self.state / "logs"


class ManagerConfig(BaseModel):
    """`config.yaml`; flags of `darkroom serve` go before it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    """0 picks a free one"""
    insecure: bool = False
    """without keys on an address that others can reach"""
    public_url: str = ""
    """how clients reach the manager; its host is allowed"""
    allowed_hosts: tuple[str, ...] = ()
    """Host headers accepted besides loopback names and the bound address"""
    allowed_origins: tuple[str, ...] = ()
    """web origins that may call the API; none by default"""

    folders: tuple[Path, ...] = ()
    """library folders besides the manager's own"""
    default_model: str = ""
    """what a request without `model` gets; empty: the one loaded, else the built-in model"""
    aliases: dict[str, str] = Field(default_factory=dict)
    """other names of models"""
    openai_aliases: bool = False
    """OpenAI's names (gpt-image-1, ...) mean the default model"""

    first_port: int = Field(default=39100, ge=1024, le=65535)
    last_port: int = Field(default=39119, ge=1024, le=65535)
    max_loaded: int = Field(default=20, ge=1)
    memory_budget: Bytes | None = None
    """bytes that all sidecars may use on one device; None: what is free"""
    eviction: Literal["cost", "lru"] = "cost"
    keep_alive: Seconds = 900.0
    """idle seconds before a model is unloaded; infinity: never"""
    preload: tuple[str, ...] = ()
    engine: Path | None = None
    """an sd-server binary in place of our own, for every model without an `engine` of its own"""
    load_timeout: Seconds = 600.0
    """a load without progress for so long has failed"""
    hang_timeout: Seconds = 60.0
    """a picture without progress for so long hangs (20 steps' time is added)"""
    age_bound: Seconds = 30.0
    """how long requests for another model wait at most while one model's queue drains"""
    drain_timeout: Seconds = 10.0
    """how long running work may go on after the manager was told to stop"""

    max_queue: int = Field(default=256, ge=1)
    """durable jobs that wait"""
    job_retention: Seconds = 7 * 86400.0
    """how long finished jobs and their pictures are kept"""
    cancel_on_disconnect: bool = True
    max_body: Bytes = 256 * 1024**2
    max_upload: Bytes = 50 * 1024**2
    """one picture"""
    max_pixels: int = 64 * 1000**2
    fetch_images: bool = False
    """image URLs in requests are fetched (from public addresses only)"""
    allow_private_downloads: bool = False
    """models may be pulled from private addresses"""
    log_prompts: bool = False

    @property
    def ports(self) -> range:
        """Where sidecars listen."""
        return range(self.first_port, self.last_port + 1)

    @property
    def is_loopback(self) -> bool:
        """Only this machine reaches the manager."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False

    @classmethod
    def read(cls, file: Path, **overrides: Any) -> Self:  # noqa: ANN401 - checked by pydantic
        """`file`'s settings, if it is there, below `overrides` (those that are not None).

        Errors: RequestError with every field that is wrong.
        """
        given = {name: value for name, value in overrides.items() if value is not None}
        try:
            return cls.model_validate(_read_yaml(file) | given)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise RequestError(f"{file.name}: {wrong}") from None


def _read_yaml(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise RequestError(f"{file}: not readable as YAML: {error}") from error
    if values is not None and not isinstance(values, dict):
        raise RequestError(f"{file}: not a mapping; write `name: value` lines")
    return values or {}
