"""POST /v1/images/generations and GET /v1/models, asked with the openai package."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import httpx2
import pytest
from tests.server.conftest import RunningServer
from tests.server.openai_client import Recorder, connect, read

from darkroom.core.infotext import read_infotext

PROMPT = "a red circle on a blue background"
FEW = {"steps": 2, "seed": 7}


def test_models(server: RunningServer) -> None:
    client = connect(server)
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("builtin", "model", "local")
    assert client.models.list().object == "list"
    assert client.models.retrieve("builtin") == model == client.models.retrieve("sd-cpp-local")


def test_a_picture(server: RunningServer) -> None:
    answer = connect(server).images.generate(prompt=PROMPT, extra_body=FEW)
    assert answer.data
    image = read(answer.data[0].b64_json)
    assert (image.format, image.size) == ("PNG", (256, 256))
    assert (answer.size, answer.output_format, answer.quality) == ("256x256", "png", "medium")
    assert answer.background == "opaque"
    settings = read_infotext(image.info["parameters"]).settings
    assert (settings["Seed"], settings["Steps"]) == ("7", "2")
    extra: Any = answer.data[0]
    assert extra.seed == 7
    assert extra.metadata["Seed"] == "7"
    assert extra.metadata["parameters"] == image.info["parameters"]


def test_usage_is_counted(server: RunningServer) -> None:
    def usage(prompt: str, size: str = "auto") -> Any:  # noqa: ANN401
        made = connect(server).images.generate(prompt=prompt, size=size, n=2, extra_body=FEW).usage
        assert made
        return made

    short, long = usage("a cat", "128x128"), usage("a cat and a dog", "128x64")
    assert long.input_tokens_details.text_tokens - short.input_tokens_details.text_tokens == 3
    assert short.input_tokens_details.image_tokens == 0
    assert (short.output_tokens, long.output_tokens) == (2 * 16 * 16, 2 * 16 * 8)
    assert short.total_tokens == short.input_tokens + short.output_tokens


def test_seeds_count_up_and_repeat(server: RunningServer) -> None:
    images = connect(server).images
    pair: Any = images.generate(prompt=PROMPT, n=2, size="128x128", extra_body=FEW).data
    assert [image.seed for image in pair] == [7, 8]
    again: Any = images.generate(prompt=PROMPT, size="128x128", extra_body=FEW | {"seed": 8}).data
    assert read(again[0].b64_json).tobytes() == read(pair[1].b64_json).tobytes()
    assert read(pair[0].b64_json).tobytes() != read(pair[1].b64_json).tobytes()


def test_without_a_seed_pictures_differ(server: RunningServer) -> None:
    images = connect(server).images
    first, second = (
        images.generate(prompt=PROMPT, size="64x64", extra_body={"steps": 1}).data for _ in range(2)
    )
    assert first
    assert second
    assert first[0].model_dump()["seed"] != second[0].model_dump()["seed"]


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_formats(server: RunningServer, format: Literal["png", "jpeg", "webp"]) -> None:
    answer = connect(server).images.generate(
        prompt=PROMPT, output_format=format, size="64x64", extra_body=FEW
    )
    assert answer.data
    assert answer.output_format == format
    assert read(answer.data[0].b64_json).format == format.upper()


def test_compression_makes_it_smaller(server: RunningServer) -> None:
    def length(compression: int) -> int:
        data = connect(server).images.generate(
            prompt=PROMPT, output_format="jpeg", output_compression=compression, size="64x64", extra_body=FEW
        ).data  # fmt: skip
        assert data
        assert data[0].b64_json
        return len(data[0].b64_json)

    assert length(5) < length(100)


def test_urls(server: RunningServer) -> None:
    answer = connect(server).images.generate(
        prompt=PROMPT, n=2, response_format="url", output_format="webp", size="64x64", extra_body=FEW
    )
    assert answer.data
    urls = [image.url or "" for image in answer.data]
    assert len(set(urls)) == 2
    assert [image.b64_json for image in answer.data] == [None, None]
    for url in urls:
        assert url.startswith(server.url)
        file = server.http.get(url)
        assert (file.status_code, file.headers["content-type"]) == (200, "image/webp")
        assert file.headers["x-content-type-options"] == "nosniff"
    forged = server.http.get(urls[0].replace("sig=", "sig=0"))
    assert (forged.status_code, forged.json()["error"]["code"]) == (404, "file_not_found")


def test_quality_is_steps(server: RunningServer) -> None:
    answer = connect(server).images.generate(prompt=PROMPT, quality="low", size="64x64")
    assert answer.quality == "low"
    assert answer.data
    extra: Any = answer.data[0]
    assert extra.metadata["Steps"] == "10"


def test_headers(server: RunningServer) -> None:
    recorder = Recorder()
    images = connect(server, recorder=recorder).images
    images.generate(prompt=PROMPT, size="64x64", extra_body={"steps": 1, "foo": 1, "bä\r": 2, "": 3, " ": 4})
    assert int(recorder.headers["openai-processing-ms"]) > 0
    assert recorder.headers["x-ignored-params"] == "foo, b??, ?, ?"
    assert recorder.headers["x-request-id"].startswith("req_")


def test_request_ids(server: RunningServer) -> None:
    for given, is_kept in (("abc-1", True), ("a b", False), ("x" * 200, False), ("", False)):
        answer = server.http.get("/v1/models/other", headers={"x-request-id": given})
        assert answer.status_code == 404
        assert (answer.headers["x-request-id"] == given) is is_kept


def test_open_webui_sends_empty_strings(server: RunningServer) -> None:
    body = {
        "model": "", "prompt": PROMPT, "n": 1, "size": "", "response_format": "", "quality": "", "style": "",
        "background": "", "output_format": "", "user": "", "negative_prompt": "", "steps": 1,
    }  # fmt: skip
    answer = server.http.post("/v1/images/generations", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"][0]["b64_json"]
    assert "x-ignored-params" not in answer.headers


def test_extensions_change_the_picture(server: RunningServer) -> None:
    images = connect(server).images
    given = {"negative_prompt": "green", "cfg_scale": 2.5, "sampler": "euler", "scheduler": "karras"}
    data: Any = images.generate(prompt=PROMPT, model="any", size="64x64", extra_body=FEW | given).data
    parameters = read_infotext(data[0].metadata["parameters"])
    assert parameters.negative_prompt == "green"
    assert parameters.settings["CFG scale"] == "2.500000"
    assert parameters.settings["Sampler"] == "euler karras"


def test_who_asks_is_echoed(server: RunningServer) -> None:
    images = connect(server).images
    few = {"steps": 1}
    both = images.generate(prompt=PROMPT, size="64x64", user="u", safety_identifier="s", extra_body=few)
    assert both.safety_identifier == "s"
    assert images.generate(prompt=PROMPT, size="64x64", user="u", extra_body=few).safety_identifier == "u"


def test_several_clients_at_once(server: RunningServer) -> None:
    def draw(seed: int) -> tuple[int, bytes]:
        data: Any = connect(server).images.generate(
            prompt=PROMPT, size="64x64", extra_body={"steps": 1, "seed": seed}
        ).data  # fmt: skip
        return data[0].seed, read(data[0].b64_json).tobytes()

    with ThreadPoolExecutor(6) as pool:
        drawn = list(pool.map(draw, range(6)))
    assert [seed for seed, _ in drawn] == list(range(6))
    assert len({pixels for _, pixels in drawn}) == 6
    assert draw(3) == drawn[3]


def test_any_json_body_is_answered(server: RunningServer) -> None:
    for content in (b"", b"{", b"[]", b"5", b"null", b'{"prompt": NaN}', b"\xff\xfe", b"[" * 100_000):
        answer = server.http.post("/v1/images/generations", content=content)
        assert answer.status_code == 400, (content[:20], answer.text)
        assert answer.json()["error"]["message"]
    answer = server.http.post("/v1/images/generations", content=b"x", headers={"content-type": "text/plain"})
    assert answer.status_code == 415
    assert isinstance(answer, httpx2.Response)
