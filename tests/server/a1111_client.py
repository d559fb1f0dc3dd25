"""The webuiapi package, connected to a server of the tests."""

from __future__ import annotations

import base64
import io
from typing import Any

import webuiapi
from PIL import Image
from tests.server.conftest import RunningServer

PROMPT = "a red circle on a blue background"


def connect(server: RunningServer, **options: Any) -> webuiapi.WebUIApi:  # noqa: ANN401
    """A client whose pictures are small and quick."""
    return webuiapi.WebUIApi(baseurl=f"{server.url}/sdapi/v1", **{"steps": 2, **options})


def read(data: str) -> Image.Image:
    """A picture of an answer."""
    image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
    image.load()
    return image


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> str:
    """A picture for a request."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return base64.b64encode(buffer.getvalue()).decode()
