"""Texts and what the tokenizers of the models' authors make of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def texts() -> list[dict[str, Any]]:
    """250 varied texts. `t5`: their ids by Google's sentencepiece 0.2.3; `qwen`: by tiktoken 0.14.

    sentencepiece had T5's pieces and character map in a model of its own format, tiktoken the ranks and the
    pattern that the package dashscope 2.0.2 carries.
    """
    loaded: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "texts.json").read_text())
    return loaded
