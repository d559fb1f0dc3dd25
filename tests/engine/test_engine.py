"""One engine, many pictures: equal requests, batches, cancelling, what is kept and what is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from darkroom import Engine, EngineConfig, GenerationRequest, Phase, Progress
from darkroom.api.errors import Cancelled, CheckpointError, DarkroomError, PlacementError, RequestError
from darkroom.api.names import Module, PredictionType, RngType, SampleMethod
from darkroom.runtime.backends import Backend
from darkroom.runtime.devices import Device, Devices
from darkroom.runtime.torch_backend import TorchProvider

SMALL = {"width": 64, "height": 64, "steps": 3}


def engine_of(model: Path, **options: object) -> Engine:
    return Engine.load(EngineConfig.model_validate({"model": model, "threads": 1, **options}))


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Iterator[Engine]:
    with engine_of(checkpoint, max_batch=1) as engine:
        yield engine


def request(**options: object) -> GenerationRequest:
    return GenerationRequest.model_validate({"prompt": "a cat", **SMALL, **options})


def drawn(engine: Engine, **options: object) -> list[bytes]:
    return [image.tobytes() for image in engine.generate(request(**options)).images]


@pytest.mark.parametrize("method", [SampleMethod.EULER_A, SampleMethod.DPMPP_2M_SDE_BT, SampleMethod.LMS])
def test_equal_requests_give_equal_pixels(engine: Engine, method: SampleMethod) -> None:
    assert drawn(engine, sampling_method=method) == drawn(engine, sampling_method=method)


def test_a_batch_is_its_single_pictures(engine: Engine) -> None:
    result = engine.generate(request(batch_count=2, seed=5))
    assert result.seeds == (5, 6)
    assert [image.tobytes() for image in result.images] == drawn(engine, seed=5) + drawn(engine, seed=6)


def test_what_is_asked_for_changes_the_picture(engine: Engine, checkpoint: Path) -> None:
    pictures = [
        drawn(engine),
        drawn(engine, seed=1),
        drawn(engine, prompt="a dog"),
        drawn(engine, negative_prompt="a dog"),
        drawn(engine, cfg_scale=1.0),
        drawn(engine, clip_skip=2),
        drawn(engine, eta=0.0),
        drawn(engine, scheduler="karras"),
        drawn(engine, sigmas=(14.0, 3.0, 1.0, 0.0)),
    ]
    with engine_of(checkpoint, rng=RngType.CPU) as other:
        pictures.append(drawn(other))
    with engine_of(checkpoint, sampler_rng=RngType.CPU) as other:
        pictures.append(drawn(other))
    with engine_of(checkpoint, prediction=PredictionType.V) as other:
        pictures.append(drawn(other))
    assert len({tuple(picture) for picture in pictures}) == len(pictures)


def test_a_negative_seed_is_drawn_and_told(engine: Engine) -> None:
    first, second = (engine.generate(request(seed=-1)) for _ in range(2))
    assert first.seeds != second.seeds
    assert drawn(engine, seed=first.seeds[0]) == [first.images[0].tobytes()]


def test_progress_names_every_step(engine: Engine) -> None:
    told: list[Progress] = []
    result = engine.generate(request(batch_count=2), on_progress=told.append)
    steps = [(p.image, p.step, p.steps) for p in told if p.phase is Phase.SAMPLE]
    assert steps == [(image, step, 3) for image in (1, 2) for step in range(4)]
    assert {p.images for p in told} == {2}
    assert set(result.timings) >= {Phase.SAMPLE, Phase.DECODE}


def test_loading_is_told_in_bytes(checkpoint: Path) -> None:
    told: list[Progress] = []
    with engine_of(checkpoint, compute_type="f16") as engine:
        engine.generate(request(), on_progress=told.append)
    loads = [p for p in told if p.phase is Phase.LOAD]
    assert sum(p.step == p.steps for p in loads) == 3  # text encoder, UNet, autoencoder
    assert all(0 < p.step <= p.steps for p in loads)


def test_cancelling_stops_within_a_step_and_leaves_the_engine_usable(engine: Engine) -> None:
    expected = drawn(engine)
    told: list[Progress] = []

    def is_cancelled() -> bool:
        return any(p.phase is Phase.SAMPLE and p.step == 1 for p in told)

    with pytest.raises(Cancelled):
        engine.generate(request(), on_progress=told.append, is_cancelled=is_cancelled)
    assert (told[-1].phase, told[-1].step) == (Phase.SAMPLE, 1)
    assert drawn(engine) == expected


def test_a_picture_names_the_files_it_is_from(checkpoint: Path) -> None:
    files = dict.fromkeys(("diffusion_model", "clip_l", "vae"), checkpoint)
    with Engine.load(EngineConfig.model_validate({**files, "threads": 1})) as engine:
        (text,) = engine.generate(request()).infotexts
    name = checkpoint.name
    assert f"Model: {name}, RNG: cuda, " in text
    assert f"Sampler: euler_a discrete, TE: {name}, Unet: {name}, VAE: {name}, Clip skip: 1" in text


def test_a_prompt_is_encoded_once(checkpoint: Path) -> None:
    with engine_of(checkpoint, params_backend="te=disk") as engine:
        drawn(engine)
        drawn(engine, seed=2)
        assert engine.components[Module.TE].traffic.loads == 1
        drawn(engine, prompt="a dog")
        assert engine.components[Module.TE].traffic.loads == 2


def test_a_changed_embedding_is_read_again(checkpoint: Path, tmp_path: Path) -> None:
    with engine_of(checkpoint) as engine:
        width = engine.model.architecture.te.hidden_size
    path = tmp_path / "sketch.safetensors"
    save_file({"emb_params": torch.full((1, width), 1.0)}, path)
    with engine_of(checkpoint, embd_dir=tmp_path) as engine:
        before = drawn(engine, prompt="a sketch")
        save_file({"emb_params": torch.full((2, width), -1.0)}, path)
        assert drawn(engine, prompt="a sketch") != before


def test_a_wrong_extra_arg_is_told_once_a_request(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    extra = "guidance_schedule=often,gamma=much"
    drawn(engine, batch_count=2, sampling_method=SampleMethod.EULER_GE, extra_sample_args=extra)
    assert [message.count("ignoring") for message in caplog.messages] == [1, 1]


def test_an_unused_negative_prompt_is_not_encoded(checkpoint: Path) -> None:
    with engine_of(checkpoint, params_backend="te=disk") as engine:
        drawn(engine, cfg_scale=1.0, negative_prompt="one")
        drawn(engine, cfg_scale=1.0, negative_prompt="two")
        assert engine.components[Module.TE].traffic.loads == 1


def test_eager_load_reads_everything_at_once(checkpoint: Path) -> None:
    with engine_of(checkpoint, eager_load=True) as engine:
        assert all(component.is_loaded for component in engine.components.values())
    with engine_of(checkpoint) as engine:
        assert not any(component.is_loaded for component in engine.components.values())


def test_image_to_image_runs_the_end_of_the_schedule(engine: Engine) -> None:
    init = Image.new("RGB", (64, 64), "red")
    for strength, steps in ((1.0, 3), (0.75, 3), (0.5, 2), (0.0, 1)):
        told: list[Progress] = []
        engine.generate(request(init_image=init, strength=strength), on_progress=told.append)
        assert {p.steps for p in told if p.phase is Phase.SAMPLE} == {steps}


def test_an_empty_mask_keeps_the_picture(engine: Engine) -> None:
    """Nothing is drawn anew: the seed of the samplers' noise does not matter, the image does."""
    init = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    mask = Image.new("L", (64, 64), 0)
    first = drawn(engine, init_image=init, mask_image=mask, prompt="a cat")
    assert first == drawn(engine, init_image=init, mask_image=mask, prompt="a dog")
    assert first != drawn(engine, init_image=init.rotate(90), mask_image=mask)


def test_an_inpainting_model_is_told_what_is_around_the_mask(checkpoint: Path, tmp_path: Path) -> None:
    tensors = load_file(checkpoint)
    name = "model.diffusion_model.input_blocks.0.0.weight"
    tensors[name] = torch.cat([tensors[name], torch.randn(32, 5, 3, 3).half() / 7], dim=1)
    path = tmp_path / "inpainting.safetensors"
    save_file(tensors, path)
    init = Image.new("RGB", (64, 64), "red")
    left, right = Image.new("L", (64, 64), 0), Image.new("L", (64, 64), 0)
    left.paste(255, (0, 0, 32, 64))
    right.paste(255, (32, 0, 64, 64))
    with engine_of(path) as engine:
        pictures = [drawn(engine), drawn(engine, init_image=init)]
        pictures += [drawn(engine, init_image=init, mask_image=mask) for mask in (left, right)]
    assert len({tuple(picture) for picture in pictures}) == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "cond_stage_model.transformer.text_model.final_layer_norm.bias",
            "te: the encoded prompt holds values",
        ),
        ("model.diffusion_model.out.2.bias", "diffusion: the latent holds values"),
        ("first_stage_model.decoder.conv_out.bias", "vae: the picture holds values"),
    ],
)
def test_a_network_that_gives_no_numbers_is_named(
    name: str, message: str, checkpoint: Path, tmp_path: Path
) -> None:
    tensors = load_file(checkpoint)
    tensors[name][0] = float("nan")
    path = tmp_path / "nan.safetensors"
    save_file(tensors, path)
    with engine_of(path) as engine, pytest.raises(DarkroomError, match=message):
        drawn(engine)


class HalfProvider(TorchProvider):
    """This machine's processor, computing in float16 as cards without bfloat16 do."""

    def devices(self) -> Sequence[Device]:
        return super().devices()[:1]

    def open(self, device: Device, *, threads: int) -> Backend:
        backend = super().open(device, threads=threads)
        backend.compute_dtype = lambda asked: torch.float16  # type: ignore[method-assign]
        return backend


def test_an_autoencoder_that_overflows_in_half_precision_draws(checkpoint: Path, tmp_path: Path) -> None:
    tensors = load_file(checkpoint)
    tensors["first_stage_model.decoder.mid.block_1.conv2.bias"].fill_(6e4)
    tensors["first_stage_model.decoder.mid.block_2.conv2.bias"].fill_(6e4)
    path = tmp_path / "loud.safetensors"
    save_file(tensors, path)
    config = EngineConfig(model=path, threads=1)
    with Engine.load(config, devices=Devices([HalfProvider()])) as engine:
        assert engine.components[Module.DIFFUSION].dtype is torch.float16
        with engine.components[Module.VAE].resident() as vae:
            z = torch.zeros(1, 4, 8, 8)
            assert vae.decode(z).isfinite().all()
            assert not vae.half().decode(z.half()).isfinite().all()
            vae.float()
        assert engine.generate(request(steps=1)).images


def test_placement_is_checked_before_any_file_is_opened(tmp_path: Path, devices: Devices) -> None:
    with pytest.raises(PlacementError, match="unknown backend module 'nose'"):
        engine_of(tmp_path / "there-is-no-file", backend="nose=cpu")
    with pytest.raises(PlacementError, match="failed to initialize backend 'broken0'"):
        Engine.load(EngineConfig(model=tmp_path / "no-file", backend="vae=broken0"), devices=devices)
    with pytest.raises(RequestError, match="embd-dir"):
        engine_of(tmp_path / "there-is-no-file", embd_dir=tmp_path / "nowhere")
    with pytest.raises(CheckpointError):
        engine_of(tmp_path / "there-is-no-file")


def test_an_absurd_size_is_refused_with_the_memory_it_would_take(engine: Engine) -> None:
    with pytest.raises(RequestError, match=r"size: 1000000x1000000 needs about .*TB of memory"):
        engine.generate(request(width=1_000_000, height=1_000_000))
    with pytest.raises(RequestError, match=r"size: 1000000x1000000 needs about .*TB of memory"):
        engine.plan(request(init_image=Image.new("RGB", (8, 8)), width=1_000_000, height=1_000_000))


def test_a_closed_engine_says_so(checkpoint: Path) -> None:
    engine = engine_of(checkpoint)
    engine.close()
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        drawn(engine)
