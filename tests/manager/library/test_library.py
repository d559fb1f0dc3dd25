"""The library as a whole: what it finds, what it calls it, what it remembers."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from tests.headers import read_header
from tests.manager.library.files import write_header, write_safetensors

from darkroom.api.errors import RequestError
from darkroom.manager.config import Paths
from darkroom.manager.library.components import ComponentState
from darkroom.manager.library.errors import AmbiguousModel, BrokenModel, UnknownModel, UnsupportedModel
from darkroom.manager.library.library import BUILTIN, Library
from darkroom.manager.library.model import with_variant
from darkroom.manager.library.names import give_names, name_of
from darkroom.manager.library.parts import FileFormat
from darkroom.manager.library.roles import FileRole
from darkroom.weights.index import TensorIndex


def ids(library: Library) -> list[str]:
    return [model.id for model in library.models() if not model.builtin]


def test_a_fresh_machine_has_a_model(library: Library) -> None:
    (model,) = library.models()
    assert (model.id, model.builtin, model.engine, model.family) == (BUILTIN, True, True, "sd1")
    assert model.file.format is FileFormat.GGUF
    assert not model.file.problem
    assert library.components(model) == ()
    assert library.launch_files(BUILTIN) == {}


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("flux1-schnell-Q4_1.gguf", "flux1-schnell:q4_1"),
        ("z_image_turbo-Q4_K.gguf", "z_image_turbo:q4_k"),
        ("qwen-image-Q4_K_M.gguf", "qwen-image:q4_k_m"),
        ("v1-5-pruned-emaonly-fp16.safetensors", "v1-5-pruned-emaonly:fp16"),
        ("sd3.5_large_fp8_scaled.safetensors", "sd3.5_large:fp8_scaled"),
        ("flux1-dev-fp8-e4m3fn.safetensors", "flux1-dev-fp8-e4m3fn"),
        ("sd_xl_base_1.0.safetensors", "sd_xl_base_1.0"),
        ("z_image_turbo_bf16.safetensors", "z_image_turbo:bf16"),
        ("Some Model (v2)!.ckpt", "some-model-v2"),
        ("FLUX.1-dev/transformer/diffusion_pytorch_model.safetensors.index.json", "flux.1-dev"),
        ("日本.safetensors", "model"),
    ],
)
def test_names_are_readable(file: str, name: str) -> None:
    assert name_of(Path("/models") / file) == name


@pytest.mark.parametrize(
    ("title", "variant", "expected"),
    [
        ("Stable Diffusion 1.x", "1.x", "Stable Diffusion 1.x"),
        ("Stable Diffusion 1.x", "inpainting", "Stable Diffusion 1.x inpainting"),
        ("Stable Diffusion 3", "3.5 medium", "Stable Diffusion 3.5 medium"),
        ("Flux.1", "schnell", "Flux.1 schnell"),
        ("SDXL", "", "SDXL"),
    ],
)
def test_titles_say_nothing_twice(title: str, variant: str, expected: str) -> None:
    assert with_variant(title, variant) == expected


def test_names_are_unique_and_stay(tmp_path: Path) -> None:
    a, b, c = (tmp_path / folder / "x-Q4_0.gguf" for folder in ("a", "b", "c/b"))
    first = give_names([b], {}, {"darkroom"})
    assert first == {b: "x:q4_0"}
    second = give_names([a, b, c], first, {"darkroom"})
    assert second == {a: "a-x:q4_0", b: "x:q4_0", c: "b-x:q4_0"}
    assert give_names([tmp_path / "darkroom.gguf"], {}, {"darkroom"}).popitem()[1] != "darkroom"


def test_a_starter_model_is_called_as_it_was_pulled(library: Library, paths: Paths) -> None:
    starter = library.catalogue.model("z-image-turbo")
    file = write_header(paths.store / "models", "z_image-gguf", starter.file.name)
    with file.open("r+b") as handle:
        handle.truncate(starter.file.size)
    other = write_header(paths.models, "flux_dev-gguf", "flux1-dev-Q8_0.gguf")  # of another size
    assert other.stat().st_size != library.catalogue.model("flux-dev:q8_0").file.size
    library.scan()
    assert ids(library) == ["flux1-dev:q8_0", "z-image-turbo:q4_k"]


def test_names_survive_a_restart_and_a_new_file_of_the_same_name(paths: Paths, folder: Path) -> None:
    write_header(folder / "z", "z_image-gguf", "x.gguf")
    library = Library(paths)
    library.scan()
    assert ids(library) == ["x"]
    library.close()
    write_header(folder / "a", "flux_dev-gguf", "x.gguf")
    library = Library(paths)
    library.scan()
    assert {model.id: model.family for model in library.models()} == {
        BUILTIN: "sd1",
        "x": "z_image",
        "a-x": "flux",
    }
    library.close()


def test_a_second_scan_reads_nothing(paths: Paths, folder: Path) -> None:
    for name in ("z_image-gguf", "flux_dev-bfl", "companions/clip_l-comfyui"):
        write_header(folder, name)
    (folder / "broken.safetensors").write_bytes(b"<html>")
    library = Library(paths)
    assert library.scan()
    read = library.files_read
    assert read == 5  # and the built-in model
    assert not library.scan()
    assert library.files_read == read
    library.close()
    again = Library(paths)
    again.scan()
    assert again.files_read == 0
    (folder / "flux_dev-bfl.safetensors").rename(folder / "renamed.safetensors")
    assert again.scan()
    assert again.files_read == 0
    os.utime(folder / "renamed.safetensors", ns=(1, 1))
    again.scan()
    assert again.files_read == 1
    again.close()


def test_a_damaged_index_costs_a_scan_only(paths: Paths, folder: Path) -> None:
    write_header(folder, "z_image-gguf")
    paths.library_index.parent.mkdir(parents=True)
    paths.library_index.write_bytes(b"no database" * 100)
    library = Library(paths)
    library.scan()
    assert ids(library) == ["z_image-gguf"]
    library.close()


def test_damaged_choices_are_named(paths: Paths) -> None:
    paths.data.mkdir(parents=True)
    (paths.data / "library.json").write_text("{")
    with pytest.raises(RequestError, match=r"library\.json: is damaged"):
        Library(paths)


def test_getting_models_by_name(library: Library, folder: Path) -> None:
    write_header(folder, "z_image-gguf", "z-image-turbo-Q4_K.gguf")
    write_header(folder, "flux_dev-gguf", "flux-dev-Q8_0.gguf")
    write_header(folder, "flux_dev-bfl", "flux-dev-bf16.safetensors")
    library.scan()
    assert library.get("z-image-turbo:q4_k").family == "z_image"
    assert library.get(" Z-Image-Turbo ").id == "z-image-turbo:q4_k"
    with pytest.raises(AmbiguousModel, match="say flux-dev:bf16 or flux-dev:q8_0"):
        library.get("flux-dev")
    with pytest.raises(UnknownModel, match="did you mean z-image-turbo:q4_k"):
        library.get("z-image-trubo")
    with pytest.raises(UnknownModel, match="not found in the library; there are darkroom, "):
        library.get("gpt")


def test_aliases(library: Library, paths: Paths, folder: Path) -> None:
    write_header(folder, "z_image-gguf", "z.gguf")
    library.scan()
    library.set_alias("gpt-image-1", "z")
    assert library.get("gpt-image-1").id == "z"
    with pytest.raises(RequestError, match="own name"):
        library.set_alias("z", BUILTIN)
    with pytest.raises(UnknownModel):
        library.set_alias("other", "nothing")
    assert Library(paths).aliases == {"gpt-image-1": "z"}
    library.set_alias("gpt-image-1", None)
    with pytest.raises(UnknownModel):
        library.get("gpt-image-1")


def test_broken_files_are_shown_with_what_is_wrong(library: Library, folder: Path) -> None:
    (folder / "lfs.safetensors").write_text("version https://git-lfs.github.com/spec/v1\nsize 5\n")
    cut = write_header(folder, "z_image-gguf", "cut.gguf")
    with cut.open("r+b") as file:
        file.truncate(5_000)
    library.scan()
    assert ids(library) == []
    problems = {file.path.name: file.problem for file in library.files()}
    assert "git-lfs pointer" in problems["lfs.safetensors"]
    assert "truncated" in problems["cut.gguf"] or "breaks off" in problems["cut.gguf"]
    with pytest.raises(BrokenModel, match=r"lfs\.safetensors: it is a git-lfs pointer"):
        library.get("lfs")


def test_what_is_no_model(library: Library, folder: Path) -> None:
    write_header(folder, "companions/clip_l-comfyui", "clip_l.safetensors")
    library.scan()
    assert ids(library) == []
    with pytest.raises(UnsupportedModel, match="no model to draw with: CLIP-L"):
        library.get("clip_l")


def test_folders_and_files_to_watch(paths: Paths, folder: Path, tmp_path: Path) -> None:
    write_header(tmp_path / "far" / "deep" / "er", "z_image-gguf", "far.gguf")
    alone = write_header(tmp_path, "flux_dev-gguf", "alone.gguf")
    write_header(folder / ".hidden", "flux_dev-gguf", "hidden.gguf")
    library = Library(paths, [tmp_path / "far", alone, tmp_path / "nothing"])
    library.scan()
    assert ids(library) == ["alone", "far"]
    library.close()


def test_one_file_under_two_names_is_one_model(library: Library, folder: Path) -> None:
    file = write_header(folder, "z_image-gguf", "a.gguf")
    (folder / "b.gguf").hardlink_to(file)
    (folder / "loop").symlink_to(folder)
    library.scan()
    assert ids(library) == ["a"]


def test_pipes_and_unreadable_files_stop_nothing(library: Library, folder: Path) -> None:
    os.mkfifo(folder / "pipe.safetensors")
    (folder / "gone.gguf").symlink_to(folder / "nothing")
    write_header(folder, "z_image-gguf", "a.gguf")
    library.scan()
    assert ids(library) == ["a"]


def test_shards_are_one_model(library: Library, folder: Path) -> None:
    tensors = list(read_header("z_image-comfyui").values())
    half = len(tensors) // 2
    weights = {}
    for number, part in enumerate((tensors[:half], tensors[half:]), start=1):
        name = f"z-{number:05}-of-00002.safetensors"
        write_safetensors(folder / name, TensorIndex(part))
        weights |= {info.name: name for info in part}
    index = folder / "z.safetensors.index.json"
    index.write_text('{"weight_map": ' + str(weights).replace("'", '"') + "}")
    library.scan()
    (model,) = library.models()[1:]
    assert (model.id, model.family, model.file.format) == ("z", "z_image", FileFormat.SHARDS)
    assert model.role is FileRole.DIFFUSION_MODEL
    (folder / "z-00002-of-00002.safetensors").unlink()
    library.scan()
    (file,) = [file for file in library.files() if file.path == index]
    assert "lacks 1 of its files (z-00002-of-00002.safetensors)" in file.problem


def test_families_that_the_engine_does_not_know_are_named(library: Library, folder: Path) -> None:
    tensors = [
        info
        for info in read_header("flux_schnell-bfl").values()
        if "mod" not in info.name.split(".")[2:3] and "vector_in" not in info.name
    ]
    first = tensors[0]
    marks = [type(first)("double_stream_modulation_img.lin.weight", (18432, 3072), "bf16")]
    write_safetensors(folder / "klein.safetensors", TensorIndex([*tensors, *marks]))
    library.scan()
    (model,) = library.models()[1:]
    assert (model.family, model.engine) == ("flux2_klein", False)
    assert {c.role for c in library.components(model)} == {FileRole.LLM, FileRole.VAE}


def test_watching_tells_of_changes(library: Library, folder: Path) -> None:
    async def watch() -> list[list[str]]:
        seen = []
        changes = library.watch(0.01)
        write_header(folder, "z_image-gguf", "a.gguf")
        async with asyncio.timeout(20):
            await anext(changes)
            seen.append(ids(library))
            write_header(folder, "flux_dev-gguf", "b.gguf")
            await anext(changes)
            seen.append(ids(library))
            (folder / "a.gguf").unlink()
            await anext(changes)
            seen.append(ids(library))
        await changes.aclose()
        return seen

    assert asyncio.run(watch()) == [["a"], ["a", "b"], ["b"]]


def test_components_are_worked_out_once_for_a_state_of_the_library(paths: Paths, folder: Path) -> None:
    on_their_way: set[str] = set()
    library = Library(paths, downloading=lambda known: known.kind in on_their_way)
    write_header(folder, "z_image-comfyui")
    library.scan()
    model = library.models()[1]
    first = library.components(model)
    library.scan()
    assert all(a is b for a, b in zip(library.components(model.id), first, strict=True))
    on_their_way.add("flux_vae")
    states = {part.role: part.state for part in library.components(model)}
    assert states[FileRole.VAE] is ComponentState.DOWNLOADING
    on_their_way.clear()
    vae = write_header(folder / "elsewhere", "companions/flux_ae-bfl", "flux_vae.safetensors")
    library.scan()
    states = {part.role: part.state for part in library.components(model)}
    assert states[FileRole.VAE] is ComponentState.PRESENT
    assert {model.path, vae} <= library.files_taken()
    library.close()
