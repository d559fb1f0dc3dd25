"""The CLIP tokenizer against transformers' own, over a vocabulary rebuilt here."""

from __future__ import annotations

import lzma
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

import darkroom.tokenizers
from darkroom.tokenizers.clip import BOS, EOS, VOCAB_SIZE, ClipTokenizer


@pytest.fixture(scope="module")
def reference() -> CLIPTokenizer:
    packed = Path(darkroom.tokenizers.__file__).parent / "data" / "clip_merges.txt.xz"
    lines = lzma.decompress(packed.read_bytes()).decode().strip().split("\n")
    merges = [tuple(line.split(" ")) for line in lines[1:]]
    letters = list(bytes_to_unicode().values())
    tokens = letters + [c + "</w>" for c in letters] + ["".join(m) for m in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    assert len(tokens) == VOCAB_SIZE
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=merges)


# Published ids of openai/clip-vit-large-patch14.
KNOWN = {
    "a photo of a cat": [320, 1125, 539, 320, 2368],
    "a photo of an astronaut riding a horse on mars": [
        320,
        1125,
        539,
        550,
        18376,
        6765,
        320,
        4558,
        525,
        7496,
    ],
    "": [],
    "   ": [],
}


@pytest.mark.parametrize(("text", "ids"), KNOWN.items())
def test_known_ids(text: str, ids: list[int]) -> None:
    assert ClipTokenizer().encode(text) == ids


TEXTS = [
    "A Photo OF a CAT",
    "it's they're we've I'm you'll he'd don't",
    "masterpiece, best quality, ultra-detailed, 8k, (((bokeh)))",
    "1girl 2023 3.14159 1,000,000",
    "naïve café, Ångström, straße, ΑΒΓ, Привет мир",
    "高品質な写真、猫 고양이 บ้าน बिल्ली مرحبا",
    "a 🐈 on the 🌙, 👩‍👩‍👧‍👦 🇫🇷 ❤️",
    "tabs\tand\nnewlines\r\n\u00a0\u2003and\u3000wide spaces",
    "zero\x00width\x07controls\x1b[31m \u200b\ufeff\u202e",
    "cafe\u0301 A\u030a \ufb01ne \u212b",
    "“curly quotes” — dashes… & &amp; <b>html</b>",
    "<|startoftext|> and <|endoftext|> inside, <|EndOfText|>",
    "İstanbul ǅ ſ K",
    "x" * 500,
    "...!?!?###$$$%%%^^^&&&***___+++===~~~```",
    "½ ² Ⅷ ٣ 五",
]


@pytest.mark.parametrize("text", TEXTS)
def test_equals_transformers(text: str, reference: CLIPTokenizer) -> None:
    assert ClipTokenizer().encode(text) == reference(text, add_special_tokens=False)["input_ids"]


@settings(max_examples=1000, derandomize=True)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_equals_transformers_on_any_text(text: str, reference: CLIPTokenizer) -> None:
    assert ClipTokenizer().encode(text) == reference(text, add_special_tokens=False)["input_ids"]


def test_lone_surrogates_are_replaced() -> None:
    assert ClipTokenizer().encode("a \ud800 cat") == ClipTokenizer().encode("a \ufffd cat")


def test_special_tokens_are_the_last_two(reference: CLIPTokenizer) -> None:
    assert (BOS, EOS) == (reference.bos_token_id, reference.eos_token_id) == (VOCAB_SIZE - 2, VOCAB_SIZE - 1)


def test_needs_no_torch() -> None:
    code = "import sys; from darkroom.tokenizers.clip import ClipTokenizer as T; T().encode('x'); "
    code += "print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
