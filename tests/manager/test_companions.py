"""A model of several files as a person has it: pulled, incomplete, completed, drawn with, removed."""

from __future__ import annotations

import base64
import io
import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from safetensors.torch import save_file
from tests.families.z_image.reference import pipeline
from tests.manager.gateway.conftest import Served, serving, wait_for
from tests.manager.store.hub_server import HubServer, Serve
from tests.manager.test_cli import darkroom
from torch import Tensor

from darkroom.families.z_image import FAMILY
from darkroom.weights.checkpoint import open_checkpoint
from darkroom.weights.source import open_source

REPO = "tiny/z-image"
PREFIXES = {
    "diffusion_model": "model.diffusion_model.",
    "llm": "text_encoders.llm.",
    "vae": "first_stage_model.",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A tiny Z-Image with random weights, in three files."""
    folder = tmp_path_factory.mktemp("z_image")
    pipeline().save_pretrained(folder / "diffusers")
    made = {}
    with open_checkpoint(folder / "diffusers") as checkpoint:
        source = open_source(checkpoint, FAMILY.key_rules())
        for role, prefix in PREFIXES.items():
            tensors = {
                name.removeprefix(prefix): half(source.read(name))
                for name in source.index
                if name.startswith(prefix)
            }
            save_file(tensors, folder / role)
            made[role] = (folder / role).read_bytes()
    return made


def half(tensor: object) -> Tensor:
    assert isinstance(tensor, Tensor)
    return tensor.half().contiguous()


def renewed(file: bytes) -> bytes:
    """The same tensors in a file with another sum: its header ends in blanks."""
    length = int.from_bytes(file[:8], "little")
    return (length + 8).to_bytes(8, "little") + file[8 : 8 + length] + b" " * 8 + file[8 + length :]


def row(role: str, kind: str, **place: str) -> dict[str, Any]:
    return {"role": role, "kind": kind, "licence": "apache-2.0", **place}


@pytest.fixture(scope="module")
def hub(files: dict[str, bytes]) -> Iterator[HubServer]:
    with HubServer() as hub:
        for role, content in files.items():
            hub.add(REPO, f"{role}.safetensors", content)
        hub.add(REPO, "other.safetensors", renewed(files["diffusion_model"]))
        hub.add(REPO, "nonsense.safetensors", b"\x08\0\0\0\0\0\0\0not json")
        yield hub


@pytest.fixture(scope="module")
def served(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A manager whose catalogue has the tiny model: its VAE from the hub, its language model by a URL."""
    home: Path = tmp_path_factory.mktemp("home")
    (home / "config").mkdir()
    catalogue = {
        "files": [
            row("vae", "flux_vae", repo=REPO, path="vae.safetensors")
            | {"sha256": hub.files[f"{REPO}/vae.safetensors"].sha256},
            row("llm", "qwen3_4b", url=hub.plain(REPO, "llm.safetensors")),
        ],
        "models": [
            {
                "name": "tiny",
                "tag": "f16",
                "title": "Tiny",
                "family": "z_image",
                "file": row("diffusion_model", "z_image", repo=REPO, path="diffusion_model.safetensors"),
            }
        ],
    }
    (home / "config/catalogue.yaml").write_text(yaml.safe_dump(catalogue))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", hub.endpoint)
        patch.setenv("HF_HUB_CACHE", str(home / "hf"))
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        with serving(home, fake=False, allow_private_downloads=True) as running:
            yield running


def states(served: Served, model: str) -> dict[str, str]:
    with served.client() as client:
        listed = client.get(f"/v1/models/{model}/components").json()["components"]
    return {part["role"]: part["state"] for part in listed if part["required"]}


def test_from_nothing_to_a_picture(served: Served, hub: HubServer) -> None:
    pulled = darkroom(served.home, "pull", "tiny", "--no-companions")
    assert pulled.returncode == 0, pulled.stderr
    assert Path(pulled.stdout.strip()).name == "diffusion_model.safetensors"
    assert states(served, "tiny") == {"llm": "missing", "vae": "missing"}
    assert darkroom(served.home, "components", "tiny").returncode == 1

    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=2, timeout=60)
    with pytest.raises(openai.ConflictError) as refused:
        client.images.generate(model="tiny", prompt="a cat")
    assert refused.value.code == "model_components_missing"
    assert isinstance(refused.value.body, dict)
    missing = {part["role"]: part for part in refused.value.body["details"]}
    assert missing["vae"]["source"] == f"{REPO}: vae.safetensors"
    assert not served.sidecars()
    loaded = darkroom(served.home, "load", "tiny")
    assert loaded.returncode == 1
    assert "components tiny:f16 --fetch" in loaded.stderr

    fetched = darkroom(served.home, "components", "tiny", "--fetch")
    assert fetched.returncode == 0, fetched.stderr + fetched.stdout
    assert "in the store, matched by content" in fetched.stdout
    answer = client.images.generate(
        model="tiny",
        prompt="a cat",
        size="96x64",
        extra_body={"steps": 2, "seed": 1},  # type: ignore[arg-type]
    )
    assert answer.data
    assert Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json or ""))).size == (96, 64)
    with served.client() as plain:
        families = text_string_to_metric_families(plain.get("/metrics").text)
        fetched_bytes = sum(
            s.value
            for f in families
            if f.name == "img_download_bytes"
            for s in f.samples
            if s.name.endswith("_total")
        )
    assert fetched_bytes == hub.sent > 0


def test_two_models_share_what_both_need(served: Served) -> None:
    """S1: one file, used by both; kept until both are gone, and as long as either would be loaded with it."""
    pulled = darkroom(served.home, "pull", f"hf:{REPO}/other.safetensors", "--role", "diffusion_model")
    assert pulled.returncode == 0, pulled.stderr
    assert states(served, "other") == {"llm": "present", "vae": "present"}


def test_a_file_that_is_no_model_can_be_removed(served: Served) -> None:
    pulled = darkroom(served.home, "pull", f"hf:{REPO}/nonsense.safetensors", "--json")
    assert pulled.returncode == 0, pulled.stderr
    listed = darkroom(served.home, "list")
    assert "nonsense.safetensors" in listed.stdout
    shown = darkroom(served.home, "show", "nonsense.safetensors")
    assert shown.returncode == 1
    assert darkroom(served.home, "rm", "nonsense").returncode == 0
    assert "nonsense" not in darkroom(served.home, "list", "--files").stdout
    assert darkroom(served.home, "rm", "nonsense").returncode == 1


def test_garbage_is_what_no_model_takes(served: Served) -> None:
    kept = {
        item["name"]: item["reason"]
        for item in json.loads(darkroom(served.home, "gc", "--json").stdout)["kept"]
    }
    assert {"llm.safetensors", "vae.safetensors"} <= set(kept)
    assert darkroom(served.home, "rm", "tiny").returncode == 0
    assert states(served, "other") == {"llm": "present", "vae": "present"}
    with served.client() as client:
        kept = {item["name"]: item["reason"] for item in client.post("/v1/store/gc").json()["kept"]}
        assert kept["vae.safetensors"] == "a model takes it"
        assert darkroom(served.home, "rm", "other").returncode == 0
        kept = {item["name"]: item["reason"] for item in client.post("/v1/store/gc").json()["kept"]}
        assert kept["vae.safetensors"] == "new"
    refused = darkroom(served.home, "rm", "darkroom")
    assert refused.returncode == 1
    assert "comes with the package" in refused.stderr


def test_a_download_goes_on_after_the_manager_was_killed(
    served: Served, hub: HubServer, files: dict[str, bytes]
) -> None:
    """S2, with a manager around it."""
    held = Serve(hold_at=200_000)
    hub.add(REPO, "slow.safetensors", renewed(renewed(files["diffusion_model"])), script=deque([held]))
    with served.client() as client:
        source = f"hf:{REPO}/slow.safetensors"
        (begun,) = client.post("/v1/downloads", json={"source": source}).json()["data"]
        path = f"/v1/downloads/{begun['id']}"
        wait_for(lambda: client.get(path).json()["received"] > 0, "some bytes")
    served.kill()
    held.release.set()
    served.start()
    with served.client() as client:
        wait_for(lambda: "slow" in {m["id"] for m in client.get("/v1/models").json()["data"]}, "the model")
    assert any(
        asked.start > 0 for asked in hub.gets() if asked.path.startswith("/signed/") and "slow" in asked.path
    )
