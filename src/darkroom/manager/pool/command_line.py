"""From a model's settings and its rung to the flags of the program that serves it."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field

from darkroom.api.names import Module
from darkroom.manager.model_settings import Setting, Value
from darkroom.manager.pool.engine import Engine
from darkroom.manager.pool.errors import FailureKind, LoadFailed
from darkroom.manager.pool.ladder import Rung
from darkroom.manager.pool.ports import HOST
from darkroom.manager.pool.spec import LaunchSpec

_RESERVED = {
    "-l",
    "--listen-ip",
    "--listen-port",
    "--parent-pid",
    "--api-key",
    "--insecure",
    "--serve-html-path",
    "-h",
    "--help",
}
"""What the pool alone decides."""

_HEADROOM = 1.5  # GiB that activations need besides the layers that stay
_NOT_KNOWN = "this engine has no such option"
_BY_MODEL = "the model's default"


@dataclass
class CommandLine:
    """Flags as they grow, and what became of each setting."""

    argv: list[str]
    settings: dict[str, Setting] = field(default_factory=dict)

    def add(self, flag: str, *values: str) -> None:
        """One flag with its values."""
        self.argv += [flag, *values]


def command_line(engine: Engine, spec: LaunchSpec, rung: Rung, port: int) -> CommandLine:
    """How `spec` is started with `engine` on `port`, as frugal as `rung` says.

    Errors: LoadFailed for flags among extra_args that are not the user's to give, or that nobody knows.
    """
    line = CommandLine([*engine.command])
    line.add("--listen-ip", HOST)
    line.add("--listen-port", str(port))
    if "--parent-pid" in engine.flags:
        line.add("--parent-pid", str(os.getpid()))
    for role, path in spec.files.items():
        line.add(role.flag, str(path.absolute()))
    _add_threads(line, engine, spec)
    _add_placement(line, engine, spec, rung)
    _add_defaults(line, engine, spec)
    _add_rest(line, engine, spec)
    if rung >= Rung.TILED_VAE:
        line.add("--vae-tiling")
    return line


def _add_threads(line: CommandLine, engine: Engine, spec: LaunchSpec) -> None:
    threads = spec.settings.threads
    if threads > 0:
        line.add("--threads", str(threads))
        line.settings["threads"] = Setting(threads, threads)
    else:
        line.settings["threads"] = Setting(threads, None, "as many as the machine has cores")


def _add_placement(line: CommandLine, engine: Engine, spec: LaunchSpec, rung: Rung) -> None:
    """GPU layers, backend and params-backend, which bear upon each other and upon the rung."""
    settings = spec.settings
    backend, params, why_backend, why_params = settings.backend, settings.params_backend, "", ""
    layers, why_layers, streams = _layers(engine, spec)
    if layers == 0 and not engine.is_darkroom and not backend and "--backend" in engine.flags:
        backend, why_backend = "cpu", "gpu_layers is 0"
    if rung >= Rung.TEXT_ON_CPU:
        backend, why_backend = _with_text_on_cpu(backend), "memory was short: text encoders on the CPU"
    if rung >= Rung.STREAMED:
        params = params or "cpu"
        why_params = "memory was short: weights in RAM, brought when they are needed"
        layers, why_layers, streams = 0, "memory was short: all blocks are brought one by one", ()
    _assign(line, engine, "backend", settings.backend, backend, why_backend)
    _assign(line, engine, "params_backend", settings.params_backend, params, why_params)
    if rung >= Rung.STREAMED and "--stream-layers" in engine.flags:
        line.add("--stream-layers")
        if not engine.is_darkroom:
            line.add("--max-vram", "-1")  # it streams within a budget: what is free less 1 GiB
    for flag, *values in streams:
        line.add(flag, *values)
    line.settings["gpu_layers"] = Setting(settings.gpu_layers, layers, why_layers)


def _layers(engine: Engine, spec: LaunchSpec) -> tuple[Value, str, tuple[tuple[str, ...], ...]]:
    """The engaged number, why, and its flags. stable-diffusion.cpp's cannot count layers, only bytes."""
    wanted, total = spec.settings.gpu_layers, spec.diffusion_layers
    if wanted < 0:
        return -1, "", ()
    if "--n-gpu-layers" in engine.flags:
        if total is not None and wanted > total:
            return total, f"the model has {total}", (("--n-gpu-layers", str(wanted)),)
        return wanted, "", (("--n-gpu-layers", str(wanted)),)
    if wanted == 0:
        if "--backend" in engine.flags:
            return 0, "as --backend cpu", ()
        return None, _NOT_KNOWN, ()
    if not {"--max-vram", "--stream-layers", "--params-backend"} <= engine.flags:
        return None, _NOT_KNOWN, ()
    if total is None or spec.diffusion_bytes is None:
        return None, "this engine counts bytes, and the model's layers are not known", ()
    if wanted >= total:
        return -1, f"the model has {total}", ()
    gib = wanted / total * spec.diffusion_bytes / 1024**3 + _HEADROOM
    reason = f"as --max-vram {gib:.2f}: this engine counts bytes, not layers"
    flags = (
        ("--max-vram", f"{gib:.2f}"),
        ("--stream-layers",),
        ("--params-backend", "diffusion=cpu"),
    )
    return wanted, reason, flags


def _with_text_on_cpu(backend: str) -> str:
    """The assignment with the text encoders' part replaced."""
    kept = [
        part
        for part in backend.split(",")
        if part.strip() and Module.parse(part.partition("=")[0]) is not Module.TE
    ]
    return ",".join([*kept, "te=cpu"])


_OLD_SWITCHES = {"backend": {"te=cpu": "--clip-on-cpu"}, "params_backend": {"cpu": "--offload-to-cpu"}}
"""What versions without the two assignments have instead."""


def _assign(
    line: CommandLine, engine: Engine, setting: str, requested: str, engaged: str, reason: str
) -> None:
    flag = f"--{setting.replace('_', '-')}"
    if not engaged:
        line.settings[setting] = Setting(requested or None, None, "the engine's choice")
    elif flag in engine.flags:
        line.add(flag, engaged)
        line.settings[setting] = Setting(requested or None, engaged, reason)
    elif (switch := _OLD_SWITCHES[setting].get(engaged)) in engine.flags and switch:
        line.add(switch)
        line.settings[setting] = Setting(requested or None, engaged, reason or f"as {switch}")
    else:
        line.settings[setting] = Setting(requested or None, None, _NOT_KNOWN)


_DEFAULTS = {
    "cfg_scale": "--cfg-scale",
    "steps": "--steps",
    "sampler": "--sampling-method",
    "scheduler": "--scheduler",
    "width": "--width",
    "height": "--height",
    "guidance": "--guidance",
}


def _add_defaults(line: CommandLine, engine: Engine, spec: LaunchSpec) -> None:
    for name, flag in _DEFAULTS.items():
        value = getattr(spec.settings, name)
        if value is None:
            line.settings[name] = Setting(None, None, _BY_MODEL)
        elif flag not in engine.flags:
            line.settings[name] = Setting(_plain(value), None, _NOT_KNOWN)
        else:
            line.add(flag, str(value))
            line.settings[name] = Setting(_plain(value), _plain(value))


def _add_rest(line: CommandLine, engine: Engine, spec: LaunchSpec) -> None:
    for argument in spec.settings.extra_args:
        flag = argument.partition("=")[0]
        if not flag.startswith("-") or _is_number(flag):
            continue
        if flag in _RESERVED:
            raise LoadFailed(f"extra_args: {flag} is the pool's own", FailureKind.BAD_SETTING, ())
        if flag not in engine.flags:
            raise LoadFailed(f"extra_args: {flag} is not known to this engine", FailureKind.BAD_SETTING, ())
    line.argv += spec.settings.extra_args
    given = " ".join(spec.settings.extra_args) or None
    line.settings["extra_args"] = Setting(given, given)
    path = spec.settings.engine
    line.settings["engine"] = Setting(None if path is None else str(path), engine.name)
    stays = spec.settings.keep_alive
    if stays is not None and math.isinf(stays):
        stays = -1.0
    line.settings["keep_alive"] = Setting(stays, stays, "" if stays is not None else "the manager's")


def with_defaults(settings: dict[str, Setting], defaults: dict[str, object]) -> dict[str, Setting]:
    """The settings after the engine has told what it starts from: its own choices filled in.

    defaults: `defaults` of /sdcpp/v1/capabilities.
    """
    sample = defaults.get("sample_params")
    flat: dict[str, object] = dict(defaults)
    if isinstance(sample, dict):
        guidance = sample.get("guidance")
        flat |= {
            "steps": sample.get("sample_steps"),
            "sampler": sample.get("sample_method"),
            "scheduler": sample.get("scheduler"),
        }
        if isinstance(guidance, dict):
            flat |= {"cfg_scale": guidance.get("txt_cfg"), "guidance": guidance.get("distilled_guidance")}
    known = dict(settings)
    for name in _DEFAULTS:
        value = flat.get(name)
        if isinstance(value, str | int | float) and known[name].requested is None:
            known[name] = Setting(None, value, _BY_MODEL)
    return known


def _plain(value: Value) -> Value:
    return str(value) if isinstance(value, str) else value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
