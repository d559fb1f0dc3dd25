"""A1111's API through the gateway, asked with the webuiapi package: several models, one address."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import webuiapi
from PIL import Image
from tests.manager.gateway.conftest import Served, serving, wait_for

PROMPT = "a red square"
SMALL = {"width": 128, "height": 128, "steps": 2}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("real")
    with serving(home, fake=False, max_loaded=1) as served:
        served.add_model("second")
        with served.client() as client:
            client.post("/sdapi/v1/refresh-checkpoints")
        yield served


@pytest.fixture
def api(real: Served) -> webuiapi.WebUIApi:
    return webuiapi.WebUIApi(baseurl=f"{real.url}/sdapi/v1", sampler="Euler a", steps=2)


def loaded(real: Served) -> set[str]:
    with real.client() as client:
        models = client.get("/admin/pool").json()["models"]
    return {model["model"] for model in models if model["state"] in ("ready", "busy")}


def test_text_to_picture_and_its_info(api: webuiapi.WebUIApi) -> None:
    result = api.txt2img(prompt=PROMPT, seed=5, **SMALL)
    assert result.image.size == (128, 128)
    assert result.info["all_seeds"] == [5]
    again = api.txt2img(prompt=PROMPT, seed=5, **SMALL)
    assert again.image.tobytes() == result.image.tobytes()
    assert "Seed: 5" in api.png_info(result.image).info


def test_picture_to_picture_with_a_mask(api: webuiapi.WebUIApi) -> None:
    green = Image.new("RGB", (128, 128), (20, 160, 40))
    mask = Image.new("L", (128, 128))
    mask.paste(255, (64, 0, 128, 128))
    result = api.img2img(
        images=[green], mask_image=mask, prompt=PROMPT, seed=5, denoising_strength=0.8, **SMALL
    )
    assert result.image.size == (128, 128)


def test_the_checkpoint_is_chosen_by_option_and_by_request(api: webuiapi.WebUIApi, real: Served) -> None:
    titles = [model["title"] for model in api.get_sd_models()]
    assert titles == ["darkroom", "second"]
    assert {"Euler a", "DPM++ 2M"} <= {sampler["name"] for sampler in api.get_samplers()}
    api.util_set_model("second")
    assert api.util_get_current_model() == "second"
    assert api.txt2img(prompt=PROMPT, **SMALL).image.size == (128, 128)
    assert loaded(real) == {"second"}
    chosen = api.txt2img(prompt=PROMPT, override_settings={"sd_model_checkpoint": "darkroom"}, **SMALL)
    assert chosen.image.size == (128, 128)
    assert loaded(real) == {"darkroom"}
    assert api.util_get_current_model() == "second"
    api.util_set_model("darkroom")


def test_progress_and_interrupt(api: webuiapi.WebUIApi) -> None:
    with ThreadPoolExecutor(1) as pool:
        drawn = pool.submit(api.txt2img, prompt=PROMPT, **SMALL | {"steps": 150})
        wait_for(lambda: api.get_progress()["state"]["sampling_step"] > 1, "some steps")
        assert 0 < api.get_progress()["progress"] < 1
        api.interrupt()
        with pytest.raises(RuntimeError, match="cancelled"):
            drawn.result(timeout=60)
    assert api.get_progress()["progress"] == 0


def test_errors_are_as_upstreams(api: webuiapi.WebUIApi) -> None:
    with pytest.raises(RuntimeError, match="not found in the library"):
        api.txt2img(prompt=PROMPT, override_settings={"sd_model_checkpoint": "nope"})
    with pytest.raises(RuntimeError, match="no sampler is called"):
        api.txt2img(prompt=PROMPT, sampler_name="nope", **SMALL)
