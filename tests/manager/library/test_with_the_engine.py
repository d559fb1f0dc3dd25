"""What the library says can be launched, the engine opens: tiny models, whole and in parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline
from tests.families.chroma import reference as chroma
from tests.families.flux import reference as flux
from tests.families.sd3 import reference as sd3
from tests.families.z_image import reference as z_image

from darkroom.api.config import EngineConfig
from darkroom.api.errors import CheckpointError
from darkroom.engine.model import open_model
from darkroom.manager.library.components import Origin
from darkroom.manager.library.errors import ComponentsMissing
from darkroom.manager.library.library import Library
from darkroom.manager.library.model import Model
from darkroom.manager.library.roles import FileRole

PIPELINES: dict[str, Callable[[], DiffusionPipeline]] = {
    "chroma": chroma.pipeline,
    "flux": flux.pipeline,
    "sd3": sd3.pipeline,
    "z_image": z_image.pipeline,
}


@pytest.fixture(scope="module", params=PIPELINES)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    PIPELINES[request.param]().save_pretrained(folder)
    return request.param, folder


def model_of(library: Library) -> Model:
    library.scan()
    (model,) = library.models()[1:]
    return model


def opened(files: dict[FileRole, Path]) -> str:
    """The family that the engine opens the files as."""
    model = open_model(EngineConfig(**{role.value: path for role, path in files.items()}))  # type: ignore[arg-type]
    name = model.family.name
    model.close()
    return name


def test_a_diffusers_folder_is_one_model(saved: tuple[str, Path], library: Library, folder: Path) -> None:
    family, source = saved
    (folder / "mine").symlink_to(source)
    model = model_of(library)
    assert (model.id, model.family) == ("mine", family)
    assert {c.origin for c in library.components(model) if c.required} == {Origin.INSIDE}
    files = library.launch_files(model)
    assert files == {FileRole.MODEL: folder / "mine"}
    assert opened(files) == family


def test_its_files_alone_are_found_and_fit(saved: tuple[str, Path], library: Library, folder: Path) -> None:
    """Every part is taken by what it is, although all are called `model.safetensors`."""
    family, source = saved
    parts = {}
    for part in source.iterdir():
        for file in part.glob("*.safetensors") if part.is_dir() else ():
            target = folder / part.name / file.name
            target.parent.mkdir()
            target.symlink_to(file)
            parts[part.name] = target
    model = model_of(library)
    files = library.launch_files(model)
    assert files[FileRole.DIFFUSION_MODEL] == parts.pop("transformer")
    assert set(files.values()) - {model.path} == set(parts.values())
    assert opened(files) == family
    for role, file in list(files.items()):
        needed = any(c.role is role and c.required for c in library.components(model))
        if role is FileRole.DIFFUSION_MODEL or not needed:
            continue
        target = file.readlink()
        file.unlink()
        library.scan()
        with pytest.raises(ComponentsMissing) as error:
            library.launch_files(model)
        assert role.value in {detail["role"] for detail in error.value.details}
        if family != "sd3" or role is FileRole.VAE:  # the engine draws with one of SD3's encoders
            with pytest.raises(CheckpointError):
                opened({other: path for other, path in files.items() if other is not role})
        file.symlink_to(target)
        library.scan()


def test_the_built_in_model(library: Library) -> None:
    model = library.get("darkroom")
    assert opened({FileRole.MODEL: model.path}) == model.family
