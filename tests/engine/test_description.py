"""What an engine says about its model, and how it lets go of it."""

from __future__ import annotations

from pathlib import Path

from darkroom import Engine, EngineConfig, GenerationRequest
from darkroom.tokenizers.clip import ClipTokenizer

SMALL = GenerationRequest(prompt="a cat", width=64, height=64, steps=1)


def test_a_model_is_described_without_its_weights(checkpoint: Path) -> None:
    with Engine.load(EngineConfig(model=checkpoint)) as engine:
        found = engine.describe()
        assert not any(component.is_loaded for component in engine.components.values())
    assert (found.name, found.title) == ("sd1", "Stable Diffusion 1.x")
    assert "model_channels=32" in found.architecture
    assert "\n" not in found.architecture
    assert (found.size_multiple, found.smallest_side, found.patch) == (64, 64, 8)
    assert found.largest_side % 64 == 0
    assert found.patches(512, 256) == 64 * 32
    assert (found.takes_references, found.inpaints) == (False, False)
    assert (found.defaults.width, found.defaults.steps) == (512, 20)


def test_tokens_are_those_of_the_models_tokenizer(checkpoint: Path) -> None:
    text = "a photograph of an astronaut riding a horse"
    with Engine.load(EngineConfig(model=checkpoint)) as engine:
        assert engine.count_tokens(text) == len(ClipTokenizer().encode(text)) == 8
        assert engine.count_tokens("") == 0
        assert not any(component.is_loaded for component in engine.components.values())


def test_an_unloaded_model_is_read_again(checkpoint: Path) -> None:
    with Engine.load(EngineConfig(model=checkpoint, threads=1)) as engine:
        before = engine.generate(SMALL).images[0].tobytes()
        assert all(component.is_loaded for component in engine.components.values())
        for _ in range(2):
            engine.unload()
            assert not any(component.is_loaded for component in engine.components.values())
            assert all(component.traffic.loads == 0 for component in engine.components.values())
        assert engine.generate(SMALL).images[0].tobytes() == before
        assert all(component.is_loaded for component in engine.components.values())
