"""The Qwen tokenizer against tiktoken's and transformers' ids, and against published ones."""

from __future__ import annotations

import lzma
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AddedToken, Qwen2Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

import darkroom.tokenizers
from darkroom.tokenizers import qwen
from darkroom.tokenizers.qwen import ADDED, VOCAB_SIZE, QwenTokenizer


@pytest.fixture(scope="module")
def reference() -> Qwen2Tokenizer:
    packed = Path(darkroom.tokenizers.__file__).parent / "data" / "qwen_merges.txt.xz"
    lines = lzma.decompress(packed.read_bytes()).decode().strip().split("\n")
    merges = [tuple(line.split(" ")) for line in lines]
    tokens = [*bytes_to_unicode().values(), *("".join(merge) for merge in merges)]
    tokenizer = Qwen2Tokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=merges)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in ADDED])
    assert len(tokenizer) == VOCAB_SIZE
    return tokenizer


# From transformers' tests of Qwen2 and llama.cpp's of the qwen2 vocabulary; the last is Qwen3's template.
PUBLISHED = {
    "Hello, world!": [9707, 11, 1879, 0],
    "🤗 Transformers 提供了可以轻松地下载并且训练先进的预训练模型的 API 和工具。"
    "使用预训练模型可以减少计算消耗和碳排放，并且节省从头训练所需要的时间和资源。": [
        *(144834, 80532, 93685, 83744, 34187, 73670, 104261, 29490, 62189, 103937, 104034, 102830, 98841),
        *(104034, 104949, 9370, 5333, 58143, 102011, 1773, 37029, 98841, 104034, 104949, 73670, 101940),
        *(100768, 104997, 33108, 100912, 105054, 90395, 100136, 106831, 45181, 64355, 104034, 113521, 101975),
        *(33108, 85329, 1773),
    ],
    '```python\ntokenizer = AutoTokenizer.from_pretrained("Qwen/Qwen-tokenizer")\n'
    'tokenizer("世界，你好！")```': [
        *(73594, 12669, 198, 85593, 284, 8979, 37434, 6387, 10442, 35722, 445, 48, 16948, 45274, 16948),
        *(34841, 3135, 1138, 85593, 445, 99489, 3837, 108386, 6313, 899, 73594),
    ],
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n": [
        *(151644, 8948, 198, 2610, 525, 264, 10950, 17847, 13, 151645, 198, 151644, 872, 198),
    ],
    "<|vision_start|><|image_pad|><|vision_end|>": [151652, 151655, 151653],
    "<|im_start|>assistant\n<think>\n\n</think>\n\n": [151644, 77091, 198, 151667, 271, 151668, 271],
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), PUBLISHED.items())
def test_published(text: str, expected: list[int]) -> None:
    assert QwenTokenizer().encode(text) == expected


def test_equals_tiktoken(texts: list[dict[str, Any]]) -> None:
    assert [QwenTokenizer().encode(case["text"]) for case in texts] == [case["qwen"] for case in texts]


@settings(max_examples=1000, derandomize=True)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_equals_transformers_on_any_text(text: str, reference: Qwen2Tokenizer) -> None:
    assert QwenTokenizer().encode(text) == reference(text, add_special_tokens=False)["input_ids"]


def test_characters_are_composed() -> None:
    assert QwenTokenizer().encode("cafe\u0301") == QwenTokenizer().encode("café")


def test_lone_surrogates_are_replaced() -> None:
    assert QwenTokenizer().encode("a \ud800 cat") == QwenTokenizer().encode("a \ufffd cat")


@pytest.mark.parametrize("token", ADDED)
def test_added_tokens_are_found_inside_text(token: str, reference: Qwen2Tokenizer) -> None:
    number = reference.convert_tokens_to_ids(token)
    assert QwenTokenizer().encode(f"cat{token}cat") == [4616, number, 4616]


def test_names_of_added_tokens(reference: Qwen2Tokenizer) -> None:
    names = ["ENDOFTEXT", "IM_START", "IM_END", "VISION_START", "VISION_END", "IMAGE_PAD"]
    for name in names:
        assert getattr(qwen, name) == reference.convert_tokens_to_ids(f"<|{name.lower()}|>")


def test_needs_no_torch() -> None:
    code = "import sys; from darkroom.tokenizers.qwen import QwenTokenizer as T; T().encode('x'); "
    code += "print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
