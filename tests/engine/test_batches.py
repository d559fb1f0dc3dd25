"""Several pictures as one batch: what may be one, what comes out of it, and who leaves it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from darkroom import Engine, EngineConfig, GenerationRequest
from darkroom.api.errors import Cancelled, DarkroomError, RequestError
from darkroom.api.result import GenerationResult, Hooks, Phase, Preview, Progress
from darkroom.engine.sharing import evenly

SMALL = {"width": 64, "height": 64, "steps": 4, "seed": 7}

TOLERANCE = 2
"""Of 255 levels of a colour: kernels for several pictures may round in another order."""


def engine_of(model: Path, **options: object) -> Engine:
    return Engine.load(EngineConfig.model_validate({"model": model, "threads": 1, **options}))


@pytest.fixture(scope="module")
def alone(checkpoint: Path) -> Iterator[Engine]:
    with engine_of(checkpoint, max_batch=1) as engine:
        yield engine


@pytest.fixture(scope="module")
def together(checkpoint: Path) -> Iterator[Engine]:
    with engine_of(checkpoint, max_batch=8) as engine:
        yield engine


def request(**options: object) -> GenerationRequest:
    return GenerationRequest.model_validate({"prompt": "a cat", **SMALL, **options})


def drawn(outcome: GenerationResult | DarkroomError) -> GenerationResult:
    assert isinstance(outcome, GenerationResult), outcome
    return outcome


def assert_same(got: GenerationResult, expected: GenerationResult) -> None:
    assert got.seeds == expected.seeds
    assert got.infotexts == expected.infotexts
    assert len(got.images) == len(expected.images)
    for one, other in zip(got.images, expected.images, strict=True):
        difference = np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int))
        assert difference.max() <= TOLERANCE


def batches(told: list[Progress]) -> set[tuple[int, int]]:
    return {(p.image, p.together) for p in told if p.phase is Phase.SAMPLE}


@pytest.mark.parametrize("method", ["euler", "euler_a", "dpm++2m_sde_bt", "heun", "lms", "euler_cfg_pp"])
def test_a_batch_of_three_is_three_pictures(alone: Engine, together: Engine, method: str) -> None:
    asked = request(batch_count=3, sampling_method=method)
    told: list[Progress] = []
    assert_same(together.generate(asked, told.append), alone.generate(asked))
    assert batches(told) == {(1, 3)}


def test_requests_of_one_shape_are_one_batch(alone: Engine, together: Engine) -> None:
    asked = [
        request(prompt="a cat", sampling_method="euler_a"),
        request(prompt="a dog", sampling_method="euler_a", batch_count=2, seed=1),
        request(prompt="a cat", negative_prompt="a fish", sampling_method="euler_a", seed=3),
    ]
    calls: list[int] = []
    told: list[Progress] = []
    outcomes = counted(together, calls, [(one, Hooks(told.append)) for one in asked])
    for outcome, one in zip(outcomes, asked, strict=True):
        assert_same(drawn(outcome), alone.generate(one))
    assert calls == [8] * 4  # four pictures with guidance in each of four steps
    assert batches(told) == {(1, 1), (1, 2)}


def counted(
    engine: Engine, calls: list[int], requests: list[tuple[GenerationRequest, Hooks]]
) -> list[GenerationResult | DarkroomError]:
    """What became of requests; the batch size of each call of the network is noted."""
    family = engine.model.family
    predict = family.predict

    def noted(net: object, x: object, t: object, cond: object) -> object:
        calls.append(len(x))  # type: ignore[arg-type]
        return predict(net, x, t, cond)  # type: ignore[arg-type]

    family.predict = noted  # type: ignore[method-assign,assignment]
    try:
        return engine.generate_many(requests)
    finally:
        del family.predict


@pytest.mark.parametrize(
    "other",
    [
        {"width": 128},
        {"steps": 5},
        {"scheduler": "karras"},
        {"sampling_method": "heun"},
        {"eta": 0.5},
        {"cfg_scale": 2.0},
        {"extra_sample_args": "apg_eta=0.5"},
        {"init_image": Image.new("RGB", (64, 64), "red")},
        {"prompt": "a cat " * 80},  # two chunks of text
    ],
)
def test_what_differs_in_shape_is_drawn_apart(
    alone: Engine, together: Engine, other: dict[str, object]
) -> None:
    asked = [request(), request(**other)]
    outcomes = together.generate_many([(one, Hooks()) for one in asked])
    for outcome, one in zip(outcomes, asked, strict=True):
        assert_same(drawn(outcome), alone.generate(one))
    if "prompt" not in other:
        assert not together.can_share(together.plan(asked[0]), together.plan(asked[1]))


def test_plans_may_share_whatever_their_prompts_and_seeds(together: Engine) -> None:
    first, second = together.plan(request()), together.plan(request(prompt="a dog", seed=1, batch_count=3))
    assert together.can_share(first, second)


def test_pictures_to_start_from_are_each_ones_own(alone: Engine, together: Engine) -> None:
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    asked = [
        request(init_image=Image.new("RGB", (64, 64), colour), mask_image=mask, strength=0.5, batch_count=2)
        for colour in ("red", "blue")
    ]
    calls: list[int] = []
    outcomes = counted(together, calls, [(one, Hooks()) for one in asked])
    for outcome, one in zip(outcomes, asked, strict=True):
        assert_same(drawn(outcome), alone.generate(one))
    assert set(calls) == {8}


def test_inpainting_networks_see_each_ones_own_mask(checkpoint: Path, tmp_path: Path) -> None:
    tensors = load_file(checkpoint)
    name = "model.diffusion_model.input_blocks.0.0.weight"
    tensors[name] = torch.cat([tensors[name], torch.randn(32, 5, 3, 3).half() / 7], dim=1)
    path = tmp_path / "inpainting.safetensors"
    save_file(tensors, path)
    init = Image.new("RGB", (64, 64), "red")
    masks = [Image.new("L", (64, 64), 0) for _ in range(2)]
    masks[0].paste(255, (0, 0, 32, 64))
    masks[1].paste(255, (32, 0, 64, 64))
    asked = [request(init_image=init, mask_image=mask) for mask in masks]
    with engine_of(path, max_batch=1) as engine:
        expected = [engine.generate(one) for one in asked]
    with engine_of(path, max_batch=4) as engine:
        outcomes = engine.generate_many([(one, Hooks()) for one in asked])
    for outcome, one in zip(outcomes, expected, strict=True):
        assert_same(drawn(outcome), one)


def once_at(step: int, told: list[Progress]) -> Callable[[], bool]:
    return lambda: any(p.phase is Phase.SAMPLE and p.step == step for p in told)


@pytest.mark.parametrize("extra", ["", "apg_momentum=-0.5"])
def test_a_cancelled_one_leaves_and_the_others_go_on(alone: Engine, together: Engine, extra: str) -> None:
    asked = [request(seed=seed, sampling_method="euler_a", extra_sample_args=extra) for seed in (1, 2, 3)]
    told: list[Progress] = []
    hooks = [Hooks(), Hooks(told.append, once_at(2, told)), Hooks()]
    calls: list[int] = []
    outcomes = counted(together, calls, list(zip(asked, hooks, strict=True)))
    assert isinstance(outcomes[1], Cancelled)
    assert (told[-1].phase, told[-1].step) == (Phase.SAMPLE, 2)
    for place in (0, 2):
        assert_same(drawn(outcomes[place]), alone.generate(asked[place]))
    assert calls[0] == 6
    assert calls[-1] == 4  # its place is no longer computed


def test_a_wrong_one_ends_alone(alone: Engine, together: Engine) -> None:
    asked = [request(), request(clip_skip=99), request(mask_image=Image.new("L", (64, 64)))]
    outcomes = together.generate_many([(one, Hooks()) for one in asked])
    assert_same(drawn(outcomes[0]), alone.generate(asked[0]))
    assert isinstance(outcomes[1], RequestError)
    assert isinstance(outcomes[2], RequestError)


def test_all_cancelled_is_nothing_drawn(together: Engine) -> None:
    hooks = Hooks(is_cancelled=lambda: True)
    outcomes = together.generate_many([(request(), hooks), (request(seed=2), hooks)])
    assert all(isinstance(outcome, Cancelled) for outcome in outcomes)


def test_a_skipped_picture_is_left_out(alone: Engine) -> None:
    told: list[Progress] = []
    asked = request(batch_count=3)

    def is_skipped() -> bool:
        return told[-1].phase is Phase.SAMPLE and told[-1].image == 2

    result = alone.generate(asked, told.append, is_skipped=is_skipped)
    every = alone.generate(asked)
    assert result.seeds == (7, 9)
    assert [image.tobytes() for image in result.images] == [every.images[i].tobytes() for i in (0, 2)]
    assert result.infotexts == (every.infotexts[0], every.infotexts[2])
    assert max(p.step for p in told if p.image == 2 and p.phase is Phase.SAMPLE) == 1


def test_skipping_what_is_drawn_together_leaves_the_other_requests(alone: Engine, together: Engine) -> None:
    asked = [request(batch_count=2), request(seed=20)]
    hooks = [Hooks(is_skipped=lambda: True), Hooks()]
    outcomes = together.generate_many(list(zip(asked, hooks, strict=True)))
    assert drawn(outcomes[0]).images == ()
    assert_same(drawn(outcomes[1]), alone.generate(asked[1]))


def test_previews_know_their_picture(together: Engine) -> None:
    seen: list[Preview] = []
    asked = request(batch_count=2, preview="proj", preview_interval=2)
    together.generate(asked, on_preview=seen.append)
    assert [(p.image_number, p.images, p.step, p.steps) for p in seen] == [
        (1, 2, 2, 4),
        (2, 2, 2, 4),
        (1, 2, 4, 4),
        (2, 2, 4, 4),
    ]
    assert seen[0].image.tobytes() != seen[1].image.tobytes()


def test_too_much_memory_at_once_is_tried_one_by_one(
    alone: Engine, together: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    family = together.model.family
    predict = family.predict

    def narrow(net: object, x: object, t: object, cond: object) -> object:
        if len(x) > 2:  # type: ignore[arg-type]
            raise MemoryError
        return predict(net, x, t, cond)  # type: ignore[arg-type]

    monkeypatch.setattr(family, "predict", narrow)
    result = together.generate(request(batch_count=3))
    monkeypatch.undo()
    assert_same(result, alone.generate(request(batch_count=3)))
    assert "one by one" in caplog.text


def test_who_was_cancelled_before_memory_ran_out_is_not_drawn_again(
    together: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = together.model.family
    predict = family.predict
    calls: list[int] = []

    def short_at_the_fourth(net: object, x: object, t: object, cond: object) -> object:
        calls.append(len(x))  # type: ignore[arg-type]
        if len(calls) == 4:
            raise MemoryError
        return predict(net, x, t, cond)  # type: ignore[arg-type]

    monkeypatch.setattr(family, "predict", short_at_the_fourth)
    told: list[Progress] = []
    hooks = [Hooks(), Hooks(), Hooks(told.append, once_at(2, told))]
    outcomes = together.generate_many([(request(seed=seed), hook) for seed, hook in enumerate(hooks)])
    assert calls == [6, 6, 6, 4] + [2] * 8
    assert [isinstance(outcome, GenerationResult) for outcome in outcomes] == [True, True, False]


@pytest.mark.parametrize(("side", "expected"), [(256, {(1, 2), (3, 1)}), (320, {(1, 1), (2, 1), (3, 1)})])
def test_a_processor_draws_small_pictures_together(
    checkpoint: Path, side: int, expected: set[tuple[int, int]]
) -> None:
    told: list[Progress] = []
    with engine_of(checkpoint) as engine:
        engine.generate(request(batch_count=3, width=side, height=side, steps=1), told.append)
    assert batches(told) == expected


def test_batches_are_as_equal_as_can_be() -> None:
    assert evenly(5, 4) == [3, 2]
    assert evenly(8, 4) == [4, 4]
    assert evenly(3, 1) == [1, 1, 1]
    assert evenly(2, 8) == [2]
