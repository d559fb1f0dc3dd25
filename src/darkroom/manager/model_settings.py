"""What a person has set for one model, and what became of each setting when the model was started."""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import quote, unquote

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from darkroom.api.errors import RequestError
from darkroom.api.names import SampleMethod, Scheduler
from darkroom.manager.config import Seconds

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Setting:
    """One setting's fate: what was asked for, what is in force, and why the two differ (empty: they do not).

    requested None: nothing was asked for. engaged None: what the engine does by itself, which it did not say.
    """

    requested: Value
    engaged: Value
    reason: str = ""


_SAMPLER_NAMES = {  # what is left of a name by `_plain` -> the method; other programs' names
    "ddim": SampleMethod.DDIM_TRAILING,
    "dpm++2msdegpu": SampleMethod.DPMPP_2M_SDE_BT,
    "dpm++2msde(gpu)": SampleMethod.DPMPP_2M_SDE_BT,
    "eulerancestral": SampleMethod.EULER_A,
    "eulerancestraldiscretescheduler": SampleMethod.EULER_A,
    "eulerdiscretescheduler": SampleMethod.EULER,
    "flowmatcheulerdiscretescheduler": SampleMethod.EULER,
    "heundiscretescheduler": SampleMethod.HEUN,
    "kdpm2discretescheduler": SampleMethod.DPM2,
    "dpmsolvermultistepscheduler": SampleMethod.DPMPP_2M,
    "lcmscheduler": SampleMethod.LCM,
    "tcdscheduler": SampleMethod.TCD,
    "ddimscheduler": SampleMethod.DDIM_TRAILING,
    "lmsdiscretescheduler": SampleMethod.LMS,
    "dpm++2sancestral": SampleMethod.DPMPP_2S_A,
}


def _plain(name: str) -> str:
    """What spellings of one sampler have in common: `DPM++ 2M SDE`, `k_dpmpp_2m_sde` -> `dpm++2msde`."""
    name = re.sub(r"[\s_-]", "", name.lower().removeprefix("k_"))
    return name.replace("dpmpp", "dpm++")


_METHODS = {_plain(method): method for method in SampleMethod} | _SAMPLER_NAMES
_SCHEDULERS = {_plain(scheduler): scheduler for scheduler in Scheduler} | {
    "normal": Scheduler.DISCRETE,
    "aligningyoursteps": Scheduler.AYS,
    "alignyoursteps": Scheduler.AYS,
}


def read_sampler(name: str) -> tuple[SampleMethod, Scheduler | None]:
    """The method that a person or another program means, and the schedule where the name holds one.

    `eulera`, `Euler a`, `k_euler_ancestral`, `dpm++2m`, `DPM++ 2M Karras`.

    Errors: RequestError when no method is called so.
    """
    text = _plain(name)
    if text in _METHODS:
        return _METHODS[text], None
    for scheduler, value in _SCHEDULERS.items():
        if text.endswith(scheduler) and text.removesuffix(scheduler) in _METHODS:
            return _METHODS[text.removesuffix(scheduler)], value
    raise RequestError(f"sampler '{name}': not known; one of [{', '.join(SampleMethod)}]")


def _read_scheduler(value: object) -> object:
    if not isinstance(value, str):
        return value
    if _plain(value) not in _SCHEDULERS:
        raise RequestError(f"scheduler '{value}': not known; one of [{', '.join(Scheduler)}]")
    return _SCHEDULERS[_plain(value)]


def _read_words(value: object) -> object:
    try:
        return shlex.split(value) if isinstance(value, str) else value
    except ValueError as error:
        raise RequestError(f"extra_args: {error}; write --flag value") from None


class ModelSettings(BaseModel):
    """How one model is loaded, what its requests start from, how long it stays."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gpu_layers: int = Field(default=-1, ge=-1, description="blocks on the GPU; -1 all, 0 none")
    threads: int = Field(default=-1, ge=-1, le=1024, description="CPU threads; -1 as many as cores")
    backend: str = Field(default="", description="devices of the modules: cuda0, or te=cpu,diffusion=cuda0")
    params_backend: str = Field(default="", description="where weights live, as backend, or disk")
    cfg_scale: float | None = Field(default=None, ge=0, allow_inf_nan=False, description="guidance scale")
    steps: int | None = Field(default=None, gt=0, le=10_000, description="sampling steps")
    sampler: SampleMethod | None = Field(default=None, description="sampling method")
    scheduler: Annotated[Scheduler | None, BeforeValidator(_read_scheduler)] = Field(
        default=None, description="schedule of noise levels"
    )
    width: int | None = Field(default=None, gt=0, le=65536, description="image width in pixels")
    height: int | None = Field(default=None, gt=0, le=65536, description="image height in pixels")
    guidance: float | None = Field(
        default=None, ge=0, allow_inf_nan=False, description="what a distilled network is told (Flux)"
    )
    keep_alive: Seconds | None = Field(
        default=None, description="idle time before the model is unloaded: 10m, 0 at once, -1 never"
    )
    pin: bool = Field(default=False, description="never unload the model to make room")
    engine: Path | None = Field(default=None, description="another sd-server binary for this model")
    extra_args: Annotated[tuple[str, ...], BeforeValidator(_read_words)] = Field(
        default=(), description="more flags for sd-server"
    )

    @model_validator(mode="before")
    @classmethod
    def _read_names(cls, values: Any) -> Any:  # noqa: ANN401 - whatever was given
        """`size=512x768`, and samplers by anyone's names."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        if "size" in values:
            width, x, height = str(values.pop("size")).lower().partition("x")
            if not (x and width.isdecimal() and height.isdecimal()):
                raise RequestError("size: not WIDTHxHEIGHT; write 512x768")
            values |= {"width": int(width), "height": int(height)}
        sampler = values.get("sampler")
        if isinstance(sampler, str) and sampler:
            values["sampler"], scheduler = read_sampler(sampler)
            if scheduler:
                values.setdefault("scheduler", scheduler)
        return values

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """These settings with some others; None or an empty text means the default again.

        Errors: RequestError with every setting that is wrong.
        """
        kept = self.model_dump(exclude_unset=True)
        for name, value in changes.items():
            if name != "size" and name not in type(self).model_fields:
                known = ", ".join([*type(self).model_fields, "size"])
                raise RequestError(f"setting '{name}': not known; one of [{known}]")
            kept.pop(name, None)
            if name == "size":
                kept = {key: old for key, old in kept.items() if key not in ("width", "height")}
            if value is not None and value != "":
                kept[name] = value
        try:
            return type(self).model_validate(kept)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise RequestError(wrong) from None


class SettingsFolder:
    """One YAML file for each model that has settings of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, model: str) -> ModelSettings:
        """The model's settings, the defaults where none were saved. Errors: RequestError naming the file."""
        file = self._file(model)
        try:
            values = yaml.safe_load(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return ModelSettings()
        except (OSError, UnicodeError, yaml.YAMLError) as error:
            raise RequestError(f"{file}: not readable as YAML: {error}") from error
        if not isinstance(values, dict):
            raise RequestError(f"{file}: not a mapping; write `name: value` lines")
        try:
            return ModelSettings().changed(values)
        except RequestError as error:
            raise RequestError(f"{file}: {error}") from None

    def save(self, model: str, settings: ModelSettings) -> None:
        """Writes what differs from the defaults; the file is whole or the old one at any time."""
        values = settings.model_dump(mode="json", exclude_defaults=True)
        file = self._file(model)
        if not values:
            file.unlink(missing_ok=True)
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(file, yaml.safe_dump(values, sort_keys=False))

    def change(self, model: str, changes: Mapping[str, Any]) -> ModelSettings:
        """Saves `ModelSettings.changed` and returns it. Errors: RequestError; nothing is saved then."""
        settings = self.get(model).changed(changes)
        self.save(model, settings)
        return settings

    def models(self) -> list[str]:
        """The models that have settings of their own."""
        return sorted(unquote(file.stem) for file in self._folder.glob("*.yaml"))

    def _file(self, model: str) -> Path:
        return self._folder / file_name(model, ".yaml")


def file_name(model: str, suffix: str) -> str:
    """A file's name for a model's name, whatever characters it has."""
    return quote(model, safe=" ") + suffix


def write_atomically(file: Path, text: str) -> None:
    """Replaces the file in one step, so that a crash leaves the old one."""
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name[:40]}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
