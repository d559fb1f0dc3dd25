from __future__ import annotations

import asyncio
import base64
import io
import json
from typing import Any

import httpx2
import pytest
from PIL import Image
from tests.server.conftest import RunningServer, wait_for

from darkroom.api.events import ServerEvent, read_sse


def submit(server: RunningServer, **body: object) -> dict[str, Any]:
    answer = server.http.post("/sdcpp/v1/img_gen", json={"prompt": "a red circle", **body})
    assert answer.status_code == 202, answer.text
    receipt: dict[str, Any] = answer.json()
    return receipt


def job(server: RunningServer, id: str) -> dict[str, Any]:
    answer = server.http.get(f"/sdcpp/v1/jobs/{id}")
    assert answer.status_code == 200, answer.text
    state: dict[str, Any] = answer.json()
    return state


def finished(server: RunningServer, id: str) -> dict[str, Any]:
    wait_for(lambda: job(server, id)["status"] in ("completed", "failed", "cancelled"), f"{id} is over")
    return job(server, id)


def events(server: RunningServer, id: str, **headers: str) -> list[ServerEvent]:
    async def read() -> list[ServerEvent]:
        async with (
            httpx2.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as client,
            client.stream("GET", f"/sdcpp/v1/jobs/{id}/events", headers=headers) as answer,
        ):
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            return [event async for event in read_sse(answer.aiter_lines())]

    return asyncio.run(read())


def few(steps: int = 2) -> dict[str, object]:
    return {"sample_steps": steps}


def test_a_job_from_submission_to_its_picture(server: RunningServer) -> None:
    receipt = submit(server, seed=7, width=128, height=64, sample_params=few(3))
    assert receipt["status"] == "queued"
    assert receipt["kind"] == "img_gen"
    assert receipt["poll_url"] == f"/sdcpp/v1/jobs/{receipt['id']}"
    state = finished(server, receipt["id"])
    assert (state["status"], state["error"], state["queue_position"]) == ("completed", None, 0)
    assert (state["step"], state["steps"], state["image"], state["images"]) == (3, 3, 1, 1)
    assert state["created"] <= state["started"] <= state["completed"]
    assert state["seeds"] == [7]
    assert state["result"]["output_format"] == "png"
    (image,) = state["result"]["images"]
    assert (image["index"], image["seed"]) == (0, 7)
    picture = Image.open(io.BytesIO(base64.b64decode(image["b64_json"])))
    assert (picture.size, picture.format) == ((128, 64), "PNG")
    assert "Seed: 7," in picture.info["parameters"]
    assert picture.info["parameters"] == image["infotext"]


def test_a_negative_seed_is_drawn_and_told(server: RunningServer) -> None:
    body = {"seed": -1, "width": 64, "height": 64, "batch_count": 2, "sample_params": few(1)}
    first, second = (finished(server, submit(server, **body)["id"]) for _ in range(2))
    assert first["seeds"] != second["seeds"]
    assert first["seeds"][1] == first["seeds"][0] + 1
    assert [image["seed"] for image in first["result"]["images"]] == first["seeds"]


@pytest.mark.parametrize(("name", "format"), [("jpeg", "JPEG"), ("webp", "WEBP")])
def test_formats_and_metadata(server: RunningServer, name: str, format: str) -> None:
    body = {"output_format": name, "output_compression": 50, "embed_image_metadata": False}
    state = finished(server, submit(server, width=64, height=64, sample_params=few(1), **body)["id"])
    picture = Image.open(io.BytesIO(base64.b64decode(state["result"]["images"][0]["b64_json"])))
    assert picture.format == format
    assert not picture.getexif()


def test_the_defaults_of_capabilities_can_be_sent_back(server: RunningServer) -> None:
    answer = server.http.get("/sdcpp/v1/capabilities").json()
    assert answer["model"]["stem"] == "builtin"
    assert answer["supported_modes"] == ["img_gen"]
    assert answer["limits"] == {
        "min_width": 64, "max_width": 4096, "min_height": 64, "max_height": 4096, "max_batch_count": 8,
        "max_queue_size": 64,
    }  # fmt: skip
    assert len(answer["samplers"]) == 21
    assert len(answer["schedulers"]) == 17
    assert answer["features"]["cancel_generating"] is True
    defaults = answer["defaults"]
    assert defaults == answer["defaults_by_mode"]["img_gen"]
    assert defaults["preview"] == "proj"  # as a request gets that says nothing
    assert defaults["hires"]["upscaler"] == "Latent"
    defaults["sample_params"]["sample_steps"] = 1
    state = finished(server, submit(server, **defaults | {"prompt": "x", "width": 64, "height": 64})["id"])
    assert state["status"] == "completed"


def test_what_stable_diffusion_cpp_sends_by_default_asks_for_nothing_else(server: RunningServer) -> None:
    body = {
        "clip_skip": -1, "strength": 0.75, "control_strength": 0.9, "ip_adapter_strength": 1.0,
        "qwen_image_layers": 3, "auto_resize_ref_image": True, "increase_ref_index": False, "lora": [],
        "ref_images": [], "init_image": "", "hires": {"enabled": False, "upscaler": "Latent", "scale": 2.0},
        "cache_mode": "disabled", "cache_option": "", "scm_mask": "", "scm_policy_dynamic": True,
        "video_frames": 1, "fps": 16, "moe_boundary": 0.875, "vace_strength": 1.0,
        "sample_params": {
            "scheduler": "default", "sample_method": "default", "sample_steps": 1, "eta": None,
            "shifted_timestep": 0, "flow_shift": None,
            "guidance": {
                "txt_cfg": 7.0, "img_cfg": None, "distilled_guidance": 3.5,
                "slg": {"layers": [7, 8, 9], "layer_start": 0.01, "layer_end": 0.2, "scale": 0.0},
            },
        },
        "high_noise_sample_params": {"sample_steps": -1},
        "vae_tiling_params": {
            "enabled": False, "temporal_tiling": False, "tile_size_x": 0, "tile_size_y": 0,
            "target_overlap": 0.5, "rel_size_x": 0.0, "rel_size_y": 0.0, "extra_tiling_args": "",
        },
    }  # fmt: skip
    state = finished(server, submit(server, width=64, height=64, **body)["id"])
    assert state["status"] == "completed", state["error"]


def test_whole_numbers_may_have_a_point(server: RunningServer) -> None:
    body = {"width": 64.0, "height": 6.4e1, "seed": 7.0, "sample_params": {"sample_steps": 1.0}}
    receipt = submit(server, prompt="x", **body)
    assert receipt["seeds"] == [7]
    assert finished(server, receipt["id"])["steps"] == 1


def picture(mode: str, colour: object, side: int = 64) -> str:
    buffer = io.BytesIO()
    Image.new(mode, (side, side), colour).save(buffer, "PNG")  # type: ignore[arg-type]
    return base64.b64encode(buffer.getvalue()).decode()


PIXEL = picture("L", 255, 1)
PICTURE = base64.b64encode(b"no picture").decode()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"hires": {"enabled": True}}, "hires.enabled: "),
        ({"lora": [{"path": "../../etc/passwd"}]}, "lora: "),
        ({"control_image": PICTURE}, "control_image: "),
        ({"ip_adapter_image": PICTURE}, "ip_adapter_image: "),
        ({"cache_mode": "easycache"}, "cache_mode: "),
        ({"ad_model": "face.pt"}, "ad_model: "),
        ({"video_frames": 16}, "video_frames: "),
        ({"upscale_repeats": 2}, "upscale_repeats: "),
        ({"sample_params": {"guidance": {"slg": {"scale": 2.5}}}}, "sample_params.guidance.slg.scale: "),
        ({"sample_params": {"sample_method": "magic"}}, "sample_params.sample_method: 'magic'"),
        ({"sample_params": {"scheduler": "magic"}}, "sample_params.scheduler: 'magic'"),
        ({"sample_params": {"sample_steps": 0}}, "sample_params.sample_steps: 0"),
        ({"sample_params": {"sample_steps": "20"}}, "sample_params.sample_steps: "),
        ({"sample_params": {"guidance": {"txt_cfg": -1}}}, "sample_params.guidance.txt_cfg: -1"),
        ({"sample_params": {"custom_sigmas": [1.0]}}, "sample_params.custom_sigmas: "),
        ({"width": 63}, "width: 63 is out of range; expected 64 to 4096"),
        ({"height": 5000}, "height: 5000 is out of range"),
        ({"width": 0}, "width: 0"),
        ({"width": 1000.5}, "width: "),
        ({"width": 10**30}, "width: "),
        ({"batch_count": 9}, "batch_count: 9 is too many; at most 8"),
        ({"batch_count": True}, "batch_count: "),
        ({"seed": 2**63}, "seed: "),
        ({"strength": 1.5}, "strength: 1.5"),
        ({"prompt": 5}, "prompt: "),
        ({"output_format": "bmp"}, "invalid output_format, must be one of [png, jpeg, webp]"),
        ({"output_compression": 101}, "output_compression: 101"),
        ({"init_image": PICTURE}, "init_image: "),
        ({"init_image": "https://example.org/a.png"}, "init_image: "),
        ({"ref_images": [PICTURE]}, "ref_images[0]: "),
        ({"mask_image": "%%%"}, "mask_image: "),
        ({"preview": "movie"}, "preview: 'movie'"),
        ({"preview": "tae"}, "preview: tae needs a tiny autoencoder"),
        ({"mask_image": PIXEL}, "mask_image: a mask needs the image it belongs to"),
        ({"seed": 2**63 - 1, "batch_count": 2}, "seed: 2 images from"),
        ({"sample_params": {"custom_sigmas": [1.0, 2.0]}}, "sample_params.custom_sigmas: "),
        ({"no_such_field": 1}, "no_such_field: "),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(server: RunningServer, body: dict[str, Any], says: str) -> None:
    answer = server.http.post("/sdcpp/v1/img_gen", json={"prompt": "x", **body})
    assert answer.status_code == 400, answer.text
    error = answer.json()
    assert error["error"].startswith(says), answer.text
    assert error["param"] == ("output_format" if "output_format" in says else says.partition(": ")[0])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b'{"\\ud800": 1}',
        b'{"sample_params": {"eta": NaN}}',
        b'{"prompt": "x", "seed": 1e999}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"[" + b"1," * 200_000 + b"1]",
    ],
    ids=range(12),
)
def test_bodies_that_are_no_requests(server: RunningServer, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = server.http.post("/sdcpp/v1/img_gen", content=content, headers=headers)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]
    assert server.health()["status"] == "ok"


def test_a_prompt_of_broken_characters_is_drawn(server: RunningServer) -> None:
    content = b'{"prompt": "a \\ud800 cat", "width": 64, "height": 64, "sample_params": {"sample_steps": 1}}'
    headers = {"content-type": "application/json"}
    answer = server.http.post("/sdcpp/v1/img_gen", content=content, headers=headers)
    assert answer.status_code == 202, answer.text
    state = finished(server, answer.json()["id"])
    assert state["result"]["images"][0]["infotext"].startswith("a ? cat\n")


def test_videos_are_refused(server: RunningServer) -> None:
    answer = server.http.post("/sdcpp/v1/vid_gen", json={"prompt": "x"})
    assert (answer.status_code, answer.json()["error"]) == (400, "loaded model does not support vid_gen")


def test_an_unknown_job(server: RunningServer) -> None:
    for method, path in [("GET", ""), ("POST", "/cancel"), ("GET", "/events")]:
        answer = server.http.request(method, f"/sdcpp/v1/jobs/job_0_00000000{path}")
        assert (answer.status_code, answer.json()["error"]) == (404, "job not found")


def test_events_tell_everything_and_can_be_resumed(server: RunningServer) -> None:
    receipt = submit(server, width=64, height=64, batch_count=2, sample_params=few(3))
    told = events(server, receipt["id"])
    assert [event.id for event in told] == sorted((event.id for event in told), key=lambda id: int(id or 0))
    types = [event.type for event in told]
    assert types[0] == "queued"
    assert types[-1] == "completed"
    assert {"phase", "step", "preview", "image"} <= set(types)
    steps = [event.json() for event in told if event.type == "step"]
    done = [step["step"] for step in steps if step["step"]]
    assert done == [1, 2, 3] * (len(done) // 3), "one after the other, or together"
    assert {step["steps"] for step in steps} == {3}
    phases = [event.json()["phase"] for event in told if event.type == "phase"]
    assert phases[-1] == "decode"
    again = events(server, receipt["id"], **{"Last-Event-ID": str(told[3].id)})
    assert [event.id for event in again] == [event.id for event in told[4:]]


def test_previews_are_small_pictures(server: RunningServer) -> None:
    receipt = submit(server, width=128, height=64, sample_params=few(3))
    previews = [event.json()["preview"] for event in events(server, receipt["id"]) if event.type == "preview"]
    assert previews
    picture = Image.open(io.BytesIO(base64.b64decode(previews[-1]["b64_json"])))
    assert picture.format == "JPEG"
    assert picture.size == (previews[-1]["width"], previews[-1]["height"])
    assert picture.width == 2 * picture.height
    silent = submit(server, width=64, height=64, preview="none", sample_params=few(2))
    assert "preview" not in [event.type for event in events(server, silent["id"])]


def test_a_wrong_event_id_is_refused(server: RunningServer) -> None:
    receipt = submit(server, width=64, height=64, sample_params=few(1))
    url = f"/sdcpp/v1/jobs/{receipt['id']}/events"
    answer = server.http.get(url, headers={"Last-Event-ID": "many"})
    assert answer.status_code == 400
    assert "Last-Event-ID" in answer.json()["error"]


def test_image_to_image_and_masks(server: RunningServer) -> None:
    body = {
        "init_image": f"data:image/png;base64,{picture('RGB', (255, 0, 0))}",
        "mask_image": picture("L", 255),
        "strength": 0.5,
        "sample_params": few(4),
    }
    state = finished(server, submit(server, **body)["id"])
    assert state["status"] == "completed", state["error"]
    assert state["steps"] < 4
    drawn = Image.open(io.BytesIO(base64.b64decode(state["result"]["images"][0]["b64_json"])))
    assert drawn.size == (64, 64)


def test_jobs_are_listed_without_pictures(server: RunningServer) -> None:
    receipt = submit(server, width=64, height=64, sample_params=few(1))
    finished(server, receipt["id"])
    listed = server.http.get("/sdcpp/v1/jobs").json()["jobs"]
    (mine,) = [job for job in listed if job["id"] == receipt["id"]]
    assert mine["status"] == "completed"
    assert mine["result"] is None
    json.dumps(listed)
