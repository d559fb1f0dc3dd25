"""What SillyTavern and Open WebUI send, as their public sources have it, over plain HTTP."""

from __future__ import annotations

import json
from typing import Any

from tests.server.a1111_client import PROMPT, read
from tests.server.conftest import RunningServer

EMPTY_AUTH = {"Authorization": "Basic"}
"""SillyTavern sends it also when no user is set."""


def silly_tavern_body(**fields: Any) -> dict[str, Any]:  # noqa: ANN401
    """`generateAutoImage` of its stable-diffusion extension, with the settings of the page around it."""
    return {
        "url": "http://localhost:7860",
        "auth": "",
        "prompt": f"best quality, {PROMPT}",
        "negative_prompt": "lowres, bad anatomy",
        "n_iter": 1,
        "s_churn": 0.0,
        "s_min_uncond": 0.0,
        "s_noise": 1.0,
        "s_tmax": None,
        "s_tmin": 0.0,
        "sampler_name": "DPM++ 2M",
        "scheduler": "karras",
        "steps": 2,
        "cfg_scale": 7,
        "width": 64,
        "height": 64,
        "restore_faces": False,
        "enable_hr": False,
        "hr_upscaler": "Latent",
        "hr_scale": 1.0,
        "hr_additional_modules": [],
        "denoising_strength": 0.7,
        "hr_second_pass_steps": 0,
        "seed": 77,
        "override_settings": {
            "CLIP_stop_at_last_layers": 1,
            "sd_vae": "Automatic",
            "forge_additional_modules": [],
        },
        "override_settings_restore_afterwards": True,
        "clip_skip": 1,
        "save_images": True,
        "send_images": True,
        "do_not_save_grid": False,
        "do_not_save_samples": False,
        **fields,
    }


def test_silly_tavern_connects_and_draws(server: RunningServer) -> None:
    http, base = server.http, "/sdapi/v1"

    def get(path: str) -> Any:  # noqa: ANN401
        answer = http.get(f"{base}/{path}", headers=EMPTY_AUTH)
        assert answer.status_code == 200, path
        return answer.json()

    options = get("options")
    assert "forge_preset" not in options
    names = {path: [item["name"] for item in get(path)] for path in ("samplers", "schedulers", "upscalers")}
    assert all(names.values())
    assert get("latent-upscale-modes") == []
    assert isinstance(get("sd-vae"), list)
    titles = [model["title"] for model in get("sd-models")]
    chosen = {"sd_model_checkpoint": titles[0]}
    assert http.post(f"{base}/options", json=chosen, headers=EMPTY_AUTH).status_code == 200
    state = get("progress")
    assert (state["progress"], state["state"]["job_count"]) == (0, 0)
    for sampler, scheduler in (("DPM++ 2M", "karras"), (names["samplers"][0], names["schedulers"][0])):
        body = silly_tavern_body(sampler_name=sampler, scheduler=scheduler)
        answer = http.post(f"{base}/txt2img", json=body, headers=EMPTY_AUTH)
        assert answer.status_code == 200, answer.text
        assert read(answer.json()["images"][0]).size == (64, 64)


def test_silly_tavern_asking_for_a_face_detector_is_told(server: RunningServer) -> None:
    script = {"ADetailer": {"args": [{"ad_model": "face_yolov8n.pt"}]}}
    answer = server.http.post("/sdapi/v1/txt2img", json=silly_tavern_body(alwayson_scripts=script))
    assert answer.status_code == 422
    assert "'ADetailer'" in answer.json()["error"]


def test_open_webui_draws(server: RunningServer) -> None:
    """`image_generations` of its automatic1111 engine: few fields, and the options written back whole."""
    http = server.http
    models = [
        {"id": model["title"], "name": model["model_name"]}
        for model in http.get("/sdapi/v1/sd-models").json()
    ]
    options = http.get("/sdapi/v1/options", headers={"authorization": ""}).json()
    assert models[0]["id"].split()[0] == options["sd_model_checkpoint"].split()[0]
    options["sd_model_checkpoint"] = models[0]["id"]
    assert http.post("/sdapi/v1/options", json=options).status_code == 200
    body = {
        "prompt": PROMPT,
        "batch_size": 2,
        "width": 64,
        "height": 64,
        "steps": 2,
        "negative_prompt": "",
        "cfg_scale": 7.0,
        "sampler_name": "Euler a",
        "scheduler": "Karras",
    }
    answer = http.post("/sdapi/v1/txt2img", json=body, headers={"authorization": ""}).json()
    assert [read(image).size for image in answer["images"]] == [(64, 64)] * 2
    assert json.loads(answer["info"])["all_prompts"] == [PROMPT] * 2


def test_a_request_of_nulls_is_the_models_own(server: RunningServer) -> None:
    fields = server.http.get("/openapi.json").json()["components"]["schemas"]["TextToImage"]["properties"]
    body = dict.fromkeys(fields) | {"steps": 1}
    answer = server.http.post("/sdapi/v1/txt2img", json=body)
    assert answer.status_code == 200, answer.text
    assert read(answer.json()["images"][0]).size == (256, 256)


def test_a_prompt_alone_is_enough(server: RunningServer) -> None:
    answer = server.http.post("/sdapi/v1/txt2img", json={"prompt": PROMPT, "steps": 1}).json()
    assert read(answer["images"][0]).size == (256, 256)
