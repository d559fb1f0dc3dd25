"""Settings of models: what people write, what is saved."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from darkroom.api.errors import RequestError
from darkroom.api.names import SampleMethod, Scheduler
from darkroom.manager.model_settings import ModelSettings, SettingsFolder, read_sampler


@pytest.mark.parametrize(
    ("name", "method", "scheduler"),
    [
        ("euler", SampleMethod.EULER, None),
        ("eulera", SampleMethod.EULER_A, None),  # Backend.AI GO
        ("euler_a", SampleMethod.EULER_A, None),
        ("Euler a", SampleMethod.EULER_A, None),  # A1111
        ("k_euler_ancestral", SampleMethod.EULER_A, None),  # k-diffusion
        ("EulerAncestralDiscreteScheduler", SampleMethod.EULER_A, None),  # diffusers
        ("dpm++2m", SampleMethod.DPMPP_2M, None),
        ("k_dpmpp_2m", SampleMethod.DPMPP_2M, None),
        ("DPM++ 2M Karras", SampleMethod.DPMPP_2M, Scheduler.KARRAS),
        ("DPM++ 2M SDE Exponential", SampleMethod.DPMPP_2M_SDE, Scheduler.EXPONENTIAL),
        ("dpmpp_2s_ancestral", SampleMethod.DPMPP_2S_A, None),
        ("LCM", SampleMethod.LCM, None),
        ("LCM Karras", SampleMethod.LCM, Scheduler.KARRAS),
        ("DDIM", SampleMethod.DDIM_TRAILING, None),
    ],
)
def test_samplers_by_anyones_names(name: str, method: SampleMethod, scheduler: Scheduler | None) -> None:
    assert read_sampler(name) == (method, scheduler)


@pytest.mark.parametrize("method", SampleMethod)
def test_every_sampler_by_its_own_name(method: SampleMethod) -> None:
    assert read_sampler(method) == (method, None)


def test_words_become_settings() -> None:
    settings = ModelSettings().changed(
        {
            "gpu_layers": "20",
            "sampler": "DPM++ 2M Karras",
            "size": "512x768",
            "cfg_scale": "7.5",
            "keep_alive": "10m",
            "pin": "true",
            "extra_args": "--fa --model-args 'a=b c'",
        }
    )
    assert settings.gpu_layers == 20
    assert (settings.sampler, settings.scheduler) == (SampleMethod.DPMPP_2M, Scheduler.KARRAS)
    assert (settings.width, settings.height) == (512, 768)
    assert settings.keep_alive == 600
    assert settings.pin
    assert settings.extra_args == ("--fa", "--model-args", "a=b c")
    back = settings.changed({"size": "", "sampler": None, "gpu_layers": ""})
    assert (back.width, back.height, back.sampler, back.gpu_layers) == (None, None, None, -1)
    assert back.cfg_scale == 7.5


def test_a_chosen_scheduler_goes_before_the_samplers() -> None:
    settings = ModelSettings().changed({"sampler": "DPM++ 2M Karras", "scheduler": "normal"})
    assert settings.scheduler is Scheduler.DISCRETE


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("steps", "0", "steps: .*greater than 0"),
        ("steps", "many", "steps: .*integer"),
        ("cfg_scale", "nan", "cfg_scale: .*finite"),
        ("gpu_layers", "-2", "gpu_layers: .*greater than or equal to -1"),
        ("sampler", "ddpm!", "sampler 'ddpm!': not known; one of"),
        ("scheduler", "noon", "scheduler 'noon': not known; one of"),
        ("size", "512", "size: not WIDTHxHEIGHT"),
        ("keep_alive", "soon", "^keep_alive: 'soon' is not a time"),
        ("extra_args", "'", "extra_args: No closing quotation"),
        ("colour", "red", "setting 'colour': not known; one of"),
    ],
)
def test_what_is_wrong_is_said(name: str, value: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        ModelSettings().changed({name: value})


def test_settings_are_remembered(tmp_path: Path) -> None:
    folder = SettingsFolder(tmp_path / "models")
    model = "hf:city96/FLUX.1-dev-gguf/flux 1:Q4_0"
    assert folder.get(model) == ModelSettings()
    changed = folder.change(model, {"steps": 30, "keep_alive": -1, "engine": "/opt/sd-server"})
    assert SettingsFolder(tmp_path / "models").get(model) == changed
    assert changed.keep_alive == math.inf
    assert folder.models() == [model]
    with pytest.raises(RequestError):
        folder.change(model, {"steps": 0})
    assert folder.get(model).steps == 30
    folder.save(model, ModelSettings())
    assert folder.models() == []
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize("text", ["- 1\n", "{", "stepz: 3\n", "steps: none\n"])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(RequestError, match=r"a\.yaml"):
        SettingsFolder(tmp_path).get("a")
