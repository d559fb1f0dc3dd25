from __future__ import annotations

from darkroom.weights.identify import describe_unknown
from darkroom.weights.index import TensorIndex, TensorInfo

FAMILIES = {
    "Stable Diffusion 1.x": ["model.diffusion_model.out.2.weight", "cond_stage_model.transformer.x", "vae.y"],
    "Stable Diffusion 2.x": ["model.diffusion_model.out.2.weight", "cond_stage_model.model.z"],
}


def index(*names: str) -> TensorIndex:
    return TensorIndex(TensorInfo(name, (1,), "f32") for name in names)


def test_names_the_closest_family_and_what_differs() -> None:
    text = describe_unknown(
        index("model.diffusion_model.out.2.weight", "vae.y", "joint.a", "joint.b", "joint.c", "joint.d"),
        FAMILIES,
    )
    assert text == (
        "unknown model: closest is Stable Diffusion 1.x, with 2 of 3 tensors it needs; "
        "1 (cond_stage_model.transformer.x) missing, 4 (joint.a, joint.b, joint.c, ...) unexpected; "
        "the file holds mostly model.diffusion_model (1), vae.y (1), joint.a (1), joint.b (1)"
    )


def test_says_what_there_is_where_nothing_is_close() -> None:
    names = [f"double_blocks.0.{i}" for i in range(5)]
    assert describe_unknown(index(*names), FAMILIES) == (
        "unknown model: 5 tensors, mostly double_blocks.0 (5); "
        "known families: Stable Diffusion 1.x, Stable Diffusion 2.x"
    )


def test_a_file_without_tensors_says_so() -> None:
    assert describe_unknown(TensorIndex([], {}), {"A": ["a"]}) == "holds no tensors; known families: A"
