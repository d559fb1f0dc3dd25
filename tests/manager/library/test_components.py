"""Components of each family: every one left out, every one put wrong, and how one of several is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.headers import read_header
from tests.manager.library.files import write_header, write_safetensors

from darkroom.api.errors import RequestError
from darkroom.manager.config import Paths
from darkroom.manager.library.components import ComponentState, Origin
from darkroom.manager.library.errors import BrokenModel, ComponentMismatch, ComponentsMissing
from darkroom.manager.library.library import Library
from darkroom.manager.library.roles import FileRole
from darkroom.weights.index import TensorIndex, TensorInfo


@dataclass(frozen=True)
class Case:
    """A main file, the headers of its companions by role, and for each a wrong file."""

    main: str
    companions: dict[str, str]
    wrong: dict[str, str]


CLIP_L, CLIP_G = "companions/clip_l-comfyui", "companions/clip_g-comfyui"
T5, AE = "companions/t5xxl-comfyui", "companions/flux_ae-bfl"
SD3_VAE, QWEN_VAE = "companions/sd3_vae-diffusers", "companions/qwen_image_vae-comfyui"
QWEN25, QWEN3 = "companions/qwen2.5_vl_7b-gguf", "companions/qwen3_4b-gguf"
MMPROJ = "companions/qwen2.5_vl_7b_mmproj-gguf"

CASES = {
    "flux": Case(
        "flux_schnell-bfl",
        {"clip_l": CLIP_L, "t5xxl": T5, "vae": AE},
        {"clip_l": CLIP_G, "t5xxl": QWEN3, "vae": QWEN_VAE},
    ),
    "flux gguf": Case(
        "flux_dev-gguf",
        {"clip_l": CLIP_L, "t5xxl": "companions/t5xxl-gguf", "vae": AE},
        {"clip_l": T5, "t5xxl": "umt5", "vae": CLIP_L},
    ),
    "chroma": Case("chroma_hd-gguf", {"t5xxl": T5, "vae": AE}, {"t5xxl": "umt5", "vae": QWEN_VAE}),
    "sd3": Case(
        "sd3.5_large-gguf",
        {"clip_l": CLIP_L, "clip_g": CLIP_G, "t5xxl": T5, "vae": SD3_VAE},
        {"clip_l": CLIP_G, "clip_g": CLIP_L, "t5xxl": "umt5", "vae": QWEN_VAE},
    ),
    "qwen_image": Case(
        "qwen_image-gguf",
        {"llm": QWEN25, "llm_vision": MMPROJ, "vae": QWEN_VAE},
        {"llm": QWEN3, "llm_vision": QWEN25, "vae": AE},
    ),
    "z_image": Case("z_image-gguf", {"llm": QWEN3, "vae": AE}, {"llm": QWEN25, "vae": QWEN_VAE}),
}
PAIRS = [(name, role) for name, case in CASES.items() for role in case.companions]
OPTIONAL = {("sd3", "t5xxl"), ("qwen_image", "llm_vision")}


def put(folder: Path, header: str, called: str | None = None) -> Path:
    if header != "umt5":
        return write_header(folder, header, called)
    tensors = read_header(T5)
    second = TensorInfo(
        "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight", (32, 64), "f16"
    )
    tokens = TensorInfo("shared.weight", (256384, 4096), "f16")
    return write_safetensors(
        folder / (called or "umt5.safetensors"), TensorIndex([*tensors.values(), second, tokens])
    )


def write_case(folder: Path, case: Case, without: str = "") -> Path:
    for role, header in case.companions.items():
        if role != without:
            put(folder, header)
    return put(folder, case.main)


def model_id(library: Library) -> str:
    library.scan()
    (model,) = [model for model in library.models() if not model.builtin]
    return model.id


@pytest.mark.parametrize("name", CASES)
def test_complete_models_can_be_launched(name: str, library: Library, folder: Path) -> None:
    main = write_case(folder, CASES[name])
    files = library.launch_files(model_id(library))
    assert files.pop(FileRole.DIFFUSION_MODEL) == main
    assert {role.value: path.stem for role, path in files.items()} == {
        role: header.rpartition("/")[2] for role, header in CASES[name].companions.items()
    }


@pytest.mark.parametrize(("name", "role"), PAIRS)
def test_a_missing_companion_is_named(name: str, role: str, library: Library, folder: Path) -> None:
    write_case(folder, CASES[name], without=role)
    model = model_id(library)
    states = {component.role.value: component.state for component in library.components(model)}
    assert states[role] is ComponentState.MISSING
    if (name, role) in OPTIONAL:
        assert role not in {r.value for r in library.launch_files(model)}
        return
    with pytest.raises(ComponentsMissing, match=f"\\({role}\\) is missing") as error:
        library.launch_files(model)
    assert [detail["role"] for detail in error.value.details] == [role]
    assert error.value.code == "model_components_missing"
    assert error.value.details[0]["source"]


@pytest.mark.parametrize(("name", "role"), PAIRS)
def test_a_wrong_companion_is_named(
    name: str, role: str, library: Library, folder: Path, tmp_path: Path
) -> None:
    write_case(folder, CASES[name], without=role)
    model = model_id(library)
    wrong = put(tmp_path / "elsewhere", CASES[name].wrong[role])
    attached = library.attach(model, FileRole(role), wrong)
    assert attached.state is ComponentState.MISMATCHED
    assert wrong.name in attached.problem
    assert "is needed" in attached.problem
    with pytest.raises(ComponentMismatch, match=wrong.name) as error:
        library.launch_files(model)
    assert [detail["role"] for detail in error.value.details] == [role]


def test_a_wrong_file_next_to_the_model_is_named(library: Library, paths: Paths) -> None:
    folder = paths.models / "mine"
    write_case(folder, CASES["z_image"], without="vae")
    put(folder, QWEN_VAE, "ae.safetensors")
    model = model_id(library)
    vae = next(c for c in library.components(model) if c.role is FileRole.VAE)
    assert (vae.state, vae.origin) == (ComponentState.MISMATCHED, Origin.BESIDE)
    assert "ae.safetensors: this is a video autoencoder" in vae.problem


def test_in_a_folder_of_several_models_nothing_is_meant_for_one(library: Library, folder: Path) -> None:
    """Another model's autoencoder lies there rightly; what is missing is missing."""
    write_case(folder, CASES["z_image"], without="vae")
    put(folder, "flux_dev-gguf")
    put(folder, QWEN_VAE, "qwen_vae.safetensors")
    library.scan()
    vae = next(c for c in library.components("z_image-gguf") if c.role is FileRole.VAE)
    assert (vae.state, vae.can_be_fetched) == (ComponentState.MISSING, True)


def test_an_optional_part_of_another_model_is_in_nobodys_way(library: Library, paths: Paths) -> None:
    folder = paths.models / "mine"
    write_case(folder, CASES["sd3"], without="t5xxl")
    put(folder, "umt5")
    assert FileRole.T5XXL not in library.launch_files(model_id(library))


def test_the_nearest_file_is_chosen_and_why_is_said(library: Library, paths: Paths) -> None:
    folder = paths.models / "mine"
    write_case(folder, CASES["z_image"], without="vae")
    put(paths.models / "other", AE, "far.safetensors")
    put(paths.store / "companions" / "vae", AE, "stored.safetensors")
    beside = put(folder, AE, "anything.safetensors")
    model = model_id(library)
    vae = next(c for c in library.components(model) if c.role is FileRole.VAE)
    assert (vae.file, vae.origin) == (beside, Origin.BESIDE)
    assert "far.safetensors" in vae.why
    beside.unlink()
    library.scan()
    vae = next(c for c in library.components(model) if c.role is FileRole.VAE)
    assert vae.origin is Origin.STORE


def test_an_attached_file_goes_before_all_others_and_is_remembered(
    library: Library, paths: Paths, tmp_path: Path
) -> None:
    write_case(paths.models, CASES["z_image"])
    mine = put(tmp_path / "mine", AE, "mine.safetensors")
    model = model_id(library)
    assert library.attach(model, FileRole.VAE, mine).state is ComponentState.PRESENT
    again = Library(paths)
    again.scan()
    assert again.launch_files(model)[FileRole.VAE] == mine
    again.detach(model, FileRole.VAE)
    assert again.launch_files(model)[FileRole.VAE] != mine
    again.close()


def test_only_roles_that_a_family_has_can_be_attached(library: Library, folder: Path) -> None:
    write_case(folder, CASES["z_image"])
    with pytest.raises(RequestError, match="has no use for clip_l; it takes llm, vae"):
        library.attach(model_id(library), FileRole.CLIP_L, put(folder, CLIP_L))


def test_sd3s_autoencoder_is_not_taken_for_flux(library: Library, folder: Path) -> None:
    """Their shapes are the same: the name makes it likely, and the user may know better."""
    write_case(folder, CASES["flux"], without="vae")
    vae = put(folder, SD3_VAE, "sd3_vae.safetensors")
    model = model_id(library)
    with pytest.raises(ComponentMismatch, match="Stable Diffusion 3's autoencoder by its name"):
        library.launch_files(model)
    assert library.attach(model, FileRole.VAE, vae).state is ComponentState.PRESENT


def test_what_is_inside_is_not_needed(library: Library, folder: Path) -> None:
    main = put(folder, "z_image-comfyui-all-in-one")
    model = model_id(library)
    assert {c.role.value: c.origin for c in library.components(model) if c.required} == {
        "llm": Origin.INSIDE,
        "vae": Origin.INSIDE,
    }
    assert library.launch_files(model) == {FileRole.MODEL: main}


def test_vision_inside_the_language_models_file(library: Library, folder: Path) -> None:
    put(folder, "qwen_image-gguf")
    put(folder, QWEN_VAE)
    put(folder, "companions/qwen2.5_vl_7b-comfyui")
    model = model_id(library)
    vision = next(c for c in library.components(model) if c.role is FileRole.LLM_VISION)
    assert (vision.state, vision.why) == (ComponentState.PRESENT, "inside the language model's file")
    assert FileRole.LLM_VISION not in library.launch_files(model)


def test_a_file_that_is_on_its_way(paths: Paths, folder: Path) -> None:
    library = Library(paths, downloading=lambda known: known.kind == "flux_vae")
    write_case(folder, CASES["z_image"], without="vae")
    model = model_id(library)
    vae = next(c for c in library.components(model) if c.role is FileRole.VAE)
    assert vae.state is ComponentState.DOWNLOADING
    with pytest.raises(ComponentsMissing):
        library.launch_files(model)
    library.close()


@pytest.mark.parametrize("harm", ["truncated", "gone", "replaced"])
def test_companions_are_looked_at_again_before_launch(harm: str, library: Library, folder: Path) -> None:
    write_case(folder, CASES["z_image"])
    model = model_id(library)
    vae = library.launch_files(model)[FileRole.VAE]
    if harm == "truncated":
        with vae.open("r+b") as file:
            file.truncate(100_000)
    elif harm == "gone":
        vae.unlink()
    else:
        vae.unlink()
        put(folder, QWEN_VAE, vae.name)
    with pytest.raises((ComponentsMissing, ComponentMismatch)) as error:
        library.launch_files(model)
    assert [detail["role"] for detail in error.value.details] == ["vae"]


def test_the_model_is_looked_at_again_before_launch(library: Library, folder: Path) -> None:
    main = write_case(folder, CASES["z_image"])
    model = model_id(library)
    with main.open("r+b") as file:
        file.truncate(1_000_000)
    with pytest.raises(BrokenModel, match="truncated"):
        library.launch_files(model)
    main.unlink()
    with pytest.raises(BrokenModel, match="is gone"):
        library.launch_files(model)


def test_the_stores_sums_tell_what_shapes_cannot(library: Library, paths: Paths) -> None:
    known = next(file for file in library.catalogue.files if file.kind == "sd3_vae" and file.verified)
    assert known.sha256
    blob = put(paths.store / "blobs" / "sha256" / known.sha256[:2], SD3_VAE, known.sha256)
    link = paths.store / "companions" / "vae" / "any.safetensors"
    link.parent.mkdir(parents=True)
    link.hardlink_to(blob)
    write_case(paths.models / "a", CASES["sd3"], without="vae")
    write_case(paths.models / "b", CASES["flux"], without="vae")
    library.scan()
    vaes = {
        model.family: next(c for c in library.components(model) if c.role is FileRole.VAE)
        for model in library.models()
        if not model.builtin
    }
    assert (vaes["sd3"].file, vaes["sd3"].origin) == (link, Origin.STORE)
    assert f"by its sum it is {known.source}" in vaes["sd3"].why
    assert vaes["flux"].state is ComponentState.MISSING
