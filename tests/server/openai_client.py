"""The openai package's own client before a server, and pictures to send."""

from __future__ import annotations

import base64
import io

import httpx2
from openai import DefaultHttpxClient, OpenAI
from PIL import Image, ImageDraw
from tests.server.conftest import DEADLINE, RunningServer


class Recorder:
    """Answers and requests of a client, seen from outside."""

    def __init__(self) -> None:
        self.answers: list[httpx2.Response] = []

    def __call__(self, answer: httpx2.Response) -> None:
        self.answers.append(answer)

    @property
    def headers(self) -> httpx2.Headers:
        """Of the last answer."""
        return self.answers[-1].headers


def connect(
    server: RunningServer, key: str = "none", retries: int = 0, recorder: Recorder | None = None
) -> OpenAI:
    """A client that does not look at this machine's proxies."""
    hooks = {"response": [recorder]} if recorder else {}
    http = DefaultHttpxClient(trust_env=False, event_hooks=hooks)
    return OpenAI(
        base_url=f"{server.url}/v1", api_key=key, max_retries=retries, timeout=DEADLINE, http_client=http
    )


def picture(width: int = 256, height: int = 256) -> Image.Image:
    """A red disk on blue."""
    image = Image.new("RGB", (width, height), "blue")
    ImageDraw.Draw(image).ellipse((width // 4, height // 4, width * 3 // 4, height * 3 // 4), "red")
    return image


def png(image: Image.Image, name: str = "picture.png") -> tuple[str, bytes, str]:
    """A picture as the client takes a file."""
    return name, file_bytes(image), "image/png"


def file_bytes(image: Image.Image, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


def data_url(image: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(file_bytes(image)).decode()


def read(b64_json: str | None) -> Image.Image:
    """The picture of an answer."""
    assert b64_json
    image = Image.open(io.BytesIO(base64.b64decode(b64_json)))
    image.load()
    return image
