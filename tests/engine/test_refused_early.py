"""What a model cannot do is refused, or warned of, before any of its weights moves."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import save_file
from tests.families.flux.reference import native, pipeline

from darkroom import Engine, EngineConfig, GenerationRequest
from darkroom.api.errors import RequestError
from darkroom.api.names import Scheduler


def engine_of(path: Path) -> Engine:
    return Engine.load(EngineConfig.model_validate({"model": path, "threads": 1, "compute_type": "f32"}))


def saved(path: Path, in_channels: int = 64) -> Path:
    tensors = native(pipeline(in_channels=in_channels))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Flux dev, a flow model whose schedule follows the picture's size."""
    with engine_of(saved(tmp_path_factory.mktemp("flux") / "dev.safetensors")) as engine:
        yield engine


def request(**options: object) -> GenerationRequest:
    return GenerationRequest.model_validate(
        {"prompt": "a cat", "width": 64, "height": 64, "steps": 2, **options}
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheduler": "ays"}, "--scheduler: ays knows no levels for this model"),
        ({"scheduler": "gits"}, "--scheduler: gits begins with level 14.*, and 1 is pure noise"),
        ({"sigmas": (14.6, 1.0, 0.0)}, "--sigmas: the list begins with level 14.6, and 1 is pure noise"),
        ({"flow_shift": 1000.0}, "--flow-shift: 1000 leaves this model no noise levels"),
        ({"extra_sample_args": "base_shift=10000"}, "--extra-sample-args: they leave flux without usable"),
    ],
)
def test_levels_that_cannot_be_are_refused(flux: Engine, options: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        flux.plan(request(**options))


def test_fill_refuses_reference_images(tmp_path: Path) -> None:
    with (
        engine_of(saved(tmp_path / "fill.safetensors", in_channels=384)) as engine,
        pytest.raises(RequestError, match=r"--ref-image: Flux.1 Fill looks at no reference images"),
    ):
        engine.plan(request(ref_images=(Image.new("RGB", (64, 64)),)))


def test_a_shift_is_obeyed_by_a_schedule_that_has_one(flux: Engine) -> None:
    asked: list[dict[str, object]] = [{}, {"flow_shift": 3.0}, {"flow_shift": 3.0, "sampling_method": "lcm"}]
    schedules = [flux.plan(request(**options)).schedule for options in asked]
    chosen = [Scheduler.FLUX, Scheduler.DISCRETE, Scheduler.LCM]
    assert [schedule and schedule.scheduler for schedule in schedules] == chosen


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheduler": "flux", "flow_shift": 3.0}, "--flow-shift: the flux schedule follows the picture's"),
        ({"clip_skip": 2}, "--clip-skip: this model takes no hidden states of a CLIP"),
        ({"timestep_shift": 250}, "--timestep-shift: made for NitroFusion"),
        ({"negative_prompt": "blurry"}, "--negative-prompt: without guidance it changes nothing"),
        ({"ref_image_args": "ref_index_mode=some"}, "ignoring 'ref_index_mode=some'; the model's own way is"),
    ],
)
def test_what_changes_nothing_is_warned_of(
    flux: Engine, options: dict[str, object], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        plan = flux.plan(request(**options))
    assert message in caplog.text
    assert (plan.clip_skip, plan.timestep_shift) == (None, 0)


def test_ordinary_requests_are_not_warned_of(flux: Engine, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        flux.plan(request(negative_prompt="blurry", cfg_scale=2.0, guidance=3.0, flow_shift=1.15))
    assert not caplog.records


def test_a_shift_of_a_model_that_has_none_is_warned_of(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with engine_of(checkpoint) as engine, caplog.at_level(logging.WARNING):
        engine.plan(request(flow_shift=3.0))
    assert "--flow-shift: this is no flow model; it changes nothing" in caplog.text
