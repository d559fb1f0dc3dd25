"""From settings and rungs to flags of two engines."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from darkroom.api.names import Role
from darkroom.manager.model_settings import ModelSettings
from darkroom.manager.pool import FailureKind, LaunchSpec, LoadFailed
from darkroom.manager.pool.command_line import CommandLine, command_line, with_defaults
from darkroom.manager.pool.engine import Engine, own_engine
from darkroom.manager.pool.ladder import Rung

OURS = own_engine()
NEW_CPP = Engine(
    "stable-diffusion.cpp",
    ("/opt/sd-server",),
    frozenset(
        {"--listen-ip", "--listen-port", "--model", "--vae", "--backend", "--params-backend", "--max-vram"}
        | {"--stream-layers", "--vae-tiling", "--steps", "--cfg-scale", "--sampling-method", "--scheduler"}
        | {"--width", "--height", "--guidance", "--threads", "--diffusion-fa", "--clip-on-cpu"}
        | {"--offload-to-cpu"}
    ),
)
OLD_CPP = Engine(
    "stable-diffusion.cpp",
    ("/opt/old-sd-server",),
    NEW_CPP.flags - {"--backend", "--params-backend", "--stream-layers"},
)


def line(engine: Engine, rung: Rung = Rung.FULL, **settings: object) -> CommandLine:
    spec = LaunchSpec(
        "m",
        {Role.MODEL: Path("/models/m.gguf"), Role.VAE: Path("/models/vae.safetensors")},
        ModelSettings.model_validate(settings),
        10 * 2**30,
        diffusion_layers=40,
        diffusion_bytes=8 * 2**30,
    )
    return command_line(engine, spec, rung, 39100)


def flag(line: CommandLine, name: str) -> str | None:
    """What follows the flag, None when it is not there."""
    return line.argv[line.argv.index(name) + 1] if name in line.argv else None


def test_our_own_server() -> None:
    made = line(OURS)
    assert made.argv[:4] == [sys.executable, "-P", "-m", "darkroom.server.main"]
    assert flag(made, "--listen-ip") == "127.0.0.1"
    assert flag(made, "--listen-port") == "39100"
    assert flag(made, "--model") == "/models/m.gguf"
    assert flag(made, "--vae") == "/models/vae.safetensors"
    assert made.argv[-1] == "/models/vae.safetensors"  # and nothing that nobody asked for
    assert flag(made, "--parent-pid")
    assert made.settings["gpu_layers"].engaged == -1
    assert made.settings["steps"].reason == "the model's default"


def test_defaults_of_requests_become_flags() -> None:
    for engine in (OURS, NEW_CPP):
        made = line(engine, steps=30, cfg_scale=7.5, sampler="eulera", scheduler="karras", size="512x768")
        assert flag(made, "--steps") == "30"
        assert flag(made, "--cfg-scale") == "7.5"
        assert flag(made, "--sampling-method") == "euler_a"
        assert flag(made, "--scheduler") == "karras"
        assert (flag(made, "--width"), flag(made, "--height")) == ("512", "768")
        assert (made.settings["sampler"].requested, made.settings["sampler"].engaged) == (
            "euler_a",
            "euler_a",
        )


@pytest.mark.parametrize(("layers", "engaged"), [(0, 0), (20, 20), (99, 40)])
def test_gpu_layers_of_our_own(layers: int, engaged: int) -> None:
    made = line(OURS, gpu_layers=layers)
    assert flag(made, "--n-gpu-layers") == str(layers)
    assert made.settings["gpu_layers"].engaged == engaged
    assert bool(made.settings["gpu_layers"].reason) is (engaged != layers)


def test_gpu_layers_of_stable_diffusion_cpp() -> None:
    everything = line(NEW_CPP, gpu_layers=-1)
    assert not {"--backend", "--max-vram", "--stream-layers"} & set(everything.argv)
    nothing = line(NEW_CPP, gpu_layers=0)
    assert flag(nothing, "--backend") == "cpu"
    assert nothing.settings["gpu_layers"].reason == "as --backend cpu"
    half = line(NEW_CPP, gpu_layers=20)
    assert flag(half, "--max-vram") == "5.50"  # half of 8 GiB, and 1.5 to work in
    assert flag(half, "--params-backend") == "diffusion=cpu"
    assert "--stream-layers" in half.argv
    assert half.settings["gpu_layers"].reason.startswith("as --max-vram 5.50")
    old = line(OLD_CPP, gpu_layers=20)
    assert (old.settings["gpu_layers"].engaged, old.settings["gpu_layers"].reason) == (
        None,
        "this engine has no such option",
    )


def test_gpu_layers_of_a_model_that_nobody_has_counted() -> None:
    spec = LaunchSpec("m", settings=ModelSettings(gpu_layers=20))
    setting = command_line(NEW_CPP, spec, Rung.FULL, 39100).settings["gpu_layers"]
    assert setting.engaged is None
    assert "not known" in setting.reason


def test_rungs_of_our_own() -> None:
    assert "--vae-tiling" not in line(OURS).argv
    assert "--vae-tiling" in line(OURS, Rung.TILED_VAE).argv
    text = line(OURS, Rung.TEXT_ON_CPU, backend="te=cuda1,cuda0,vae=cuda1")
    assert flag(text, "--backend") == "cuda0,vae=cuda1,te=cpu"
    assert text.settings["backend"].requested == "te=cuda1,cuda0,vae=cuda1"
    assert "memory was short" in text.settings["backend"].reason
    bottom = line(OURS, Rung.STREAMED, gpu_layers=20)
    assert flag(bottom, "--params-backend") == "cpu"
    assert "--stream-layers" in bottom.argv
    assert "--n-gpu-layers" not in bottom.argv
    assert (bottom.settings["gpu_layers"].requested, bottom.settings["gpu_layers"].engaged) == (20, 0)
    assert flag(line(OURS, Rung.STREAMED, params_backend="disk"), "--params-backend") == "disk"


def test_rungs_of_stable_diffusion_cpp() -> None:
    new = line(NEW_CPP, Rung.STREAMED)
    assert (flag(new, "--backend"), flag(new, "--params-backend")) == ("te=cpu", "cpu")
    assert {"--vae-tiling", "--stream-layers", "--max-vram"} <= set(new.argv)
    old = line(OLD_CPP, Rung.STREAMED)
    assert {"--vae-tiling", "--clip-on-cpu", "--offload-to-cpu"} <= set(old.argv)
    assert "--stream-layers" not in old.argv


def test_a_setting_that_an_engine_lacks_is_not_engaged() -> None:
    made = line(OLD_CPP, backend="vulkan1")
    assert "--backend" not in made.argv
    assert made.settings["backend"].requested == "vulkan1"
    assert made.settings["backend"].engaged is None
    assert made.settings["backend"].reason == "this engine has no such option"


def test_more_flags() -> None:
    assert line(NEW_CPP, extra_args="--diffusion-fa").argv[-1] == "--diffusion-fa"
    assert line(OURS, extra_args="--seed -1").argv[-2:] == ["--seed", "-1"]
    for wrong in ("--listen-port 1", "--parent-pid=1", "--api-key x", "--nonsense"):
        with pytest.raises(LoadFailed) as error:
            line(OURS, extra_args=wrong)
        assert error.value.kind is FailureKind.BAD_SETTING


def test_the_engines_defaults_fill_what_was_not_asked_for() -> None:
    made = line(OURS, steps=30)
    told = {
        "width": 1024,
        "sample_params": {"sample_steps": 20, "guidance": {"txt_cfg": 1.0, "distilled_guidance": 3.5}},
    }
    settings = with_defaults(made.settings, told)
    assert (settings["steps"].requested, settings["steps"].engaged) == (30, 30)
    assert (settings["width"].requested, settings["width"].engaged) == (None, 1024)
    assert settings["cfg_scale"].engaged == 1.0
    assert settings["guidance"].engaged == 3.5
    assert settings["height"].engaged is None
