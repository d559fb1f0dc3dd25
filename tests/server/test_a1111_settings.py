"""Options, the model and its hash, lists, memory, keys."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import requests
from tests.server.a1111_client import PROMPT, connect, read
from tests.server.conftest import RunningServer, StartServer, wait_for

from darkroom.api.names import SampleMethod

BUILTIN = Path(__file__).parents[2] / "src" / "darkroom" / "data" / "builtin.gguf"
QUICK = {"prompt": PROMPT, "steps": 1, "width": 64, "height": 64}


def test_the_model_has_its_real_hash(server: RunningServer) -> None:
    api = connect(server)
    sha256 = hashlib.sha256(BUILTIN.read_bytes()).hexdigest()
    wait_for(lambda: api.get_sd_models()[0]["sha256"], "the file has been read")
    (model,) = api.get_sd_models()
    assert model == {
        "title": f"builtin [{sha256[:10]}]",
        "model_name": "builtin",
        "hash": sha256[:10],
        "sha256": sha256,
        "filename": str(BUILTIN),
        "config": None,
    }
    assert api.util_get_current_model() == model["title"]
    assert api.get_options()["sd_checkpoint_hash"] == sha256
    drawn: Any = api.txt2img(prompt=PROMPT, width=64, height=64).info
    assert drawn["sd_model_hash"] == sha256[:10]


def test_the_model_can_be_chosen_by_each_of_its_names(server: RunningServer) -> None:
    api = connect(server)
    api.util_set_model("builtin")
    (model,) = api.get_sd_models()
    for name in ("builtin", model["title"], model["filename"], model["hash"], model["sha256"], ""):
        assert api.set_options({"sd_model_checkpoint": name}) is None
        body = QUICK | {"override_settings": {"sd_model_checkpoint": name}}
        assert server.http.post("/sdapi/v1/txt2img", json=body).status_code == 200


@pytest.mark.parametrize("name", ["other.safetensors", "../builtin", "/etc/passwd", "builtin\u0000"])
def test_another_model_is_not_found(server: RunningServer, name: str) -> None:
    wish = {"sd_model_checkpoint": name}
    for answer in (
        server.http.post("/sdapi/v1/options", json=wish),
        server.http.post("/sdapi/v1/txt2img", json=QUICK | {"override_settings": wish}),
    ):
        assert answer.status_code == 404
        assert "sd_model_checkpoint" in answer.json()["error"]


def test_options_last_and_what_was_read_can_be_written_back(start_server: StartServer) -> None:
    server = start_server()
    server.wait_until_ready()
    api = connect(server)
    before = api.get_options()
    assert api.set_options(before) is None, "as Open WebUI does"
    assert api.get_options() == before
    api.set_options({"samples_format": "jpeg", "CLIP_stop_at_last_layers": 2, "eta_ancestral": 0.5})
    assert api.get_options() == before | {
        "samples_format": "jpeg",
        "CLIP_stop_at_last_layers": 2,
        "eta_ancestral": 0.5,
    }
    answer = server.http.post("/sdapi/v1/txt2img", json=QUICK).json()
    assert read(answer["images"][0]).format == "JPEG"
    info: Any = connect(server).txt2img(**{**QUICK, "eta": None}).info
    assert info["clip_skip"] == 2
    assert "Eta: 0.500000" in info["infotexts"][0]
    api.set_options({"enable_pnginfo": False, "samples_format": "png"})
    answer = server.http.post("/sdapi/v1/txt2img", json=QUICK).json()
    assert read(answer["images"][0]).info == {}


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"samples_format": "gif"}, "options: samples_format"),
        ({"CLIP_stop_at_last_layers": 99}, "options: CLIP_stop_at_last_layers"),
        ({"jpeg_quality": "much"}, "options: jpeg_quality"),
        ({"return_grid": True}, "options: return_grid is False and cannot be changed"),
        ({"randn_source": "GPU"}, "options: randn_source is 'NV'"),
        (
            {"img2img_color_correction": True},
            "options: this server has no setting 'img2img_color",
        ),
        ({"sd_vae": "other.vae.pt"}, "sd_vae: 'other.vae.pt' is not there"),
        ({"samples_format": "webp", "unknown": 1}, "no setting 'unknown'"),
        ([], "body"),
        ("x", "body"),
    ],
)
def test_options_that_cannot_be_are_named(server: RunningServer, wish: object, message: str) -> None:
    answer = server.http.post("/sdapi/v1/options", json=wish)
    assert 400 <= answer.status_code < 500
    assert message in answer.json()["error"]
    assert server.http.get("/sdapi/v1/options").json()["samples_format"] == "png", "all or none"


def test_lists(server: RunningServer) -> None:
    api = connect(server)
    assert {"default", "Euler a", "DPM++ 2M"} < set(api.util_get_sampler_names())
    assert len(api.get_samplers()) == len(SampleMethod) + 1
    assert {"automatic", "karras", "discrete"} < set(api.util_get_scheduler_names())
    assert [upscaler["name"] for upscaler in api.get_upscalers()] == ["None", "Lanczos", "Nearest"]
    assert api.get_embeddings() == {"loaded": {}, "skipped": {}}
    assert api.get_scripts() == {"txt2img": [], "img2img": []}
    for empty in (
        api.get_sd_vae,
        api.get_loras,
        api.get_latent_upscale_modes,
        api.get_hypernetworks,
        api.get_face_restorers,
        api.get_realesrgan_models,
        api.get_prompt_styles,
    ):
        assert empty() == [], empty.__name__
    assert api.refresh_checkpoints() is None
    for name in ("vae", "loras", "embeddings"):
        assert server.http.post(f"/sdapi/v1/refresh-{name}").status_code == 200


def test_every_sampler_of_the_list_can_be_asked_for(server: RunningServer) -> None:
    for sampler in connect(server).get_samplers():
        body = QUICK | {"sampler_name": sampler["name"], "steps": 2, "width": 64, "height": 64}
        answer = server.http.post("/sdapi/v1/txt2img", json=body)
        assert answer.status_code == 200, answer.text


def test_memory(server: RunningServer) -> None:
    memory = connect(server).get_memory()
    assert memory["ram"]["free"] + memory["ram"]["used"] == memory["ram"]["total"]
    assert memory["ram"]["used"] > 100_000_000
    assert memory["cuda"] == {"error": "unavailable"} or memory["cuda"]["system"]["total"] > 0


def test_embeddings_are_listed(start_server: StartServer, tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from torch import zeros

    save_file({"emb_params": zeros(2, 128)}, tmp_path / "Sketch Style.safetensors")
    server = start_server("--embd-dir", str(tmp_path))
    server.wait_until_ready()
    assert list(connect(server).get_embeddings()["loaded"]) == ["sketch style"]


def test_the_model_leaves_memory_and_comes_back(start_server: StartServer) -> None:
    server = start_server()
    server.wait_until_ready()
    first = server.http.post("/sdapi/v1/txt2img", json=QUICK | {"seed": 1}).json()
    assert server.http.post("/sdapi/v1/unload-checkpoint").json() == {}
    assert server.health()["loaded"] is False
    assert server.health()["status"] == "ok", "the next request loads it"
    second = server.http.post("/sdapi/v1/txt2img", json=QUICK | {"seed": 1}).json()
    assert second["images"] == first["images"]
    assert server.health()["loaded"] is True
    server.http.post("/sdapi/v1/unload-checkpoint")
    assert server.http.post("/sdapi/v1/reload-checkpoint").json() == {}
    assert server.health()["loaded"] is True


def test_a_key_is_a_password_of_basic_authentication(start_server: StartServer) -> None:
    server = start_server("--api-key", "secret words")
    server.wait_until_ready()
    url = f"{server.url}/sdapi/v1/options"
    assert requests.get(url, timeout=60).status_code == 401
    assert requests.get(url, auth=("user", "wrong"), timeout=60).status_code == 401
    api = connect(server, username="user", password="secret words")
    assert api.get_options()["samples_format"] == "png"
    flags = api.get_cmd_flags()
    assert "api_key" not in flags
    assert "secret words" not in str(flags)
