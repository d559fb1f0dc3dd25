"""The catalogue that is shipped, and users' own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import yaml

from darkroom.families import discover
from darkroom.manager.library.catalogue import Catalogue, KnownFile, load_catalogue
from darkroom.manager.library.errors import CatalogueError, UnknownModel
from darkroom.manager.library.fingerprints import FINGERPRINTS
from darkroom.manager.library.roles import FileRole


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue()


def test_every_family_of_the_engine_is_in_it(catalogue: Catalogue) -> None:
    """With its title, and with the companions that the engine has for it."""
    ours = {name: family for name, family in catalogue.families.items() if family.engine}
    assert ours.keys() == {family.name for family in discover()}
    for family in discover():
        assert ours[family.name].title == family.title
        roles = {companion.role.value for companion in family.companions}
        assert {need.role.value for need in ours[family.name].needs} - {"taesd"} == roles


def test_every_fingerprint_has_a_family(catalogue: Catalogue) -> None:
    assert {fingerprint.family for fingerprint in FINGERPRINTS} <= catalogue.families.keys()


def test_what_is_required_can_be_fetched(catalogue: Catalogue) -> None:
    for name, family in catalogue.families.items():
        for need in family.needs:
            if family.engine and need.required and (name, need.role) != ("sd2", FileRole.CLIP_L):
                assert catalogue.files_of(need.kinds), f"{name}: {need.role}"


def test_rows_are_what_they_say(catalogue: Catalogue) -> None:
    for file in catalogue.every_file():
        assert (file.size is not None) == file.verified, file.source
        assert file.bytes, file.source
        assert not file.verified or file.sha256, file.source
    sources = Counter(file.source for file in catalogue.every_file())
    assert sources.most_common(1)[0][1] == 1
    names = Counter((file.role, file.name) for file in catalogue.files if not file.gated)
    assert [name for name, count in names.items() if count > 1] == [(FileRole.VAE, "sdxl_vae.safetensors")]


def test_models_by_name(catalogue: Catalogue) -> None:
    assert catalogue.model("flux-schnell").id == "flux-schnell:q4_1"
    assert catalogue.model("Flux-Schnell:Q8_0").file.name == "flux1-schnell-Q8_0.gguf"
    with pytest.raises(UnknownModel, match="did you mean"):
        catalogue.model("flux-schnel")
    with pytest.raises(UnknownModel, match="flux-schnell:q4_1"):
        catalogue.model("flux-schnell:q2_k")


def test_what_a_starter_model_needs_besides_its_file(catalogue: Catalogue) -> None:
    assert catalogue.companions_of(catalogue.model("sd15")) == ()
    assert [file.name for file in catalogue.companions_of(catalogue.model("z-image-turbo"))] == [
        "qwen_3_4b.safetensors",
        "ae.safetensors",
    ]


def test_a_users_rows_are_added_and_go_first(catalogue: Catalogue, tmp_path: Path) -> None:
    own = tmp_path / "catalogue.yaml"
    row = catalogue.files[0]
    vae = {"role": "vae", "kind": "flux_vae", "licence": "MIT"}
    mine = {"role": "model", "kind": "flux", "repo": "me/mine", "path": "a/b.gguf", "licence": "MIT"}
    added = {
        "files": [
            {**vae, "url": "https://x.org/a/my%20vae.safetensors?b=1"},
            {**row.model_dump(mode="json", exclude_none=True), "licence": "mine"},
        ],
        "models": [{"name": "mine", "tag": "q8_0", "title": "Mine", "family": "flux", "file": mine}],
    }
    own.write_text(yaml.safe_dump(added))
    merged = load_catalogue(own)
    assert merged.files_of(["flux_vae"])[0].url == "https://x.org/a/my%20vae.safetensors?b=1"
    assert [file.licence for file in merged.files if file.source == row.source] == ["mine"]
    assert merged.model("mine").file.name == "b.gguf"
    assert len(merged.models) == len(catalogue.models) + 1
    assert load_catalogue(tmp_path / "absent.yaml") is load_catalogue()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("files: [", r"catalogue\.yaml: is not valid YAML"),
        ("- 1", "holds a list; expected kinds"),
        ("files: [{role: vae}]", r"files\.0\.kind: Field required"),
        ("files: [{role: tea, kind: x, licence: MIT, url: 'http://x/y'}]", r"files\.0\.role"),
        (
            "files: [{role: vae, kind: nothing, licence: MIT, url: 'http://x/y'}]",
            "'nothing', which is not in kinds",
        ),
        ("files: [{$VAE, url: 'file:///etc/passwd'}]", "no http address"),
        ("files: [{$VAE, repo: a/b, path: ../x}]", "leaves its repository"),
        ("files: [{$VAE, repo: a/b, path: x, name: ../x}]", "plain file name"),
        ("files: [{$VAE, repo: a/b}]", "repo and path belong together"),
        ("files: [{$VAE}]", "either repo and path, or url"),
        ("files: [{$VAE, url: 'http://x/y', sha256: AB}]", r"files\.0\.sha256"),
        ("files: [{$VAE, url: 'http://x/y', verified: true}]", "verified, but without"),
        (
            "families: {x: {title: X, needs: [{role: clip_l, kinds: [flux_vae]}]}}",
            "flux_vae is a vae, not clip_l",
        ),
        (
            "models: [{name: x, tag: y, title: X, family: z, file: {$VAE, url: 'http://x/y'}}]",
            "'z', which is not in families",
        ),
        ("extra: 1", r"extra: Extra inputs are not permitted"),
        ("!!python/object/apply:os.system ['true']", "is not valid YAML"),
    ],
)
def test_mistakes_in_a_users_file_are_named(text: str, message: str, tmp_path: Path) -> None:
    own = tmp_path / "catalogue.yaml"
    own.write_text(text.replace("$VAE", "role: vae, kind: flux_vae, licence: MIT"))
    with pytest.raises(CatalogueError, match=message):
        load_catalogue(own)


def test_a_files_page_and_source() -> None:
    file = KnownFile(role=FileRole.VAE, kind="flux_vae", repo="a/b", path="c/d.safetensors", licence="MIT")
    assert (file.name, file.source) == ("d.safetensors", "a/b: c/d.safetensors")
    assert file.page.endswith("/a/b")
    assert not file.verified
    assert file.bytes is None
