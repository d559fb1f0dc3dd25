"""The T5 tokenizer against sentencepiece's and transformers' ids, and against published ones."""

from __future__ import annotations

import lzma
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import T5Tokenizer as Reference

import darkroom.tokenizers
from darkroom.tokenizers.t5 import EOS, PAD, VOCAB_SIZE, T5Tokenizer

DATA = Path(darkroom.tokenizers.__file__).parent / "data"


def unpacked(name: str) -> bytes:
    return lzma.decompress((DATA / name).read_bytes())


@pytest.fixture(scope="module")
def reference() -> Reference:
    """Built by transformers' own rules, which cut the text into words before anything else."""
    pieces = unpacked("t5_pieces.txt.xz").decode().split("\n")
    scores = struct.unpack(f"<{len(pieces)}f", unpacked("t5_scores.f32.xz"))
    vocab = list(zip(pieces, scores, strict=True))
    return Reference(vocab=vocab, _spm_precompiled_charsmap=unpacked("t5_charsmap.bin.xz"))


# From transformers' tests of T5, and the example of the T5 paper.
PUBLISHED = {
    "The quick brown fox jumps over the lazy dog.": [
        *(37, 1704, 4216, 3, 20400, 4418, 7, 147, 8, 19743, 1782, 5),
    ],
    "A long paragraph for summarization.": [71, 307, 8986, 21, 4505, 1635, 1707, 5],
    "Summary of the text.": [20698, 13, 8, 1499, 5],
    "<pad> Today is <unk> nice day </s>": [0, 1960, 19, 2, 1245, 239, 1],
    "translate English to German: The house is wonderful.": [
        *(13959, 1566, 12, 2968, 10, 37, 629, 19, 1627, 5),
    ],
    "BERT is designed to pre-train deep bidirectional representations from unlabeled text by jointly "
    "conditioning on both left and right context in all layers.": [
        *(272, 24203, 19, 876, 12, 554, 18, 9719, 1659, 2647, 26352, 6497, 7, 45, 73, 9339, 400, 26, 1499),
        *(57, 22801, 10760, 30, 321, 646, 11, 269, 2625, 16, 66, 7500, 5),
    ],
    "<extra_id_0> and <extra_id_99>": [32099, 11, 32000],
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), PUBLISHED.items())
def test_published(text: str, expected: list[int]) -> None:
    assert T5Tokenizer().encode(text) == expected


def test_equals_sentencepiece(texts: list[dict[str, Any]]) -> None:
    assert [T5Tokenizer().encode(case["text"]) for case in texts] == [case["t5"] for case in texts]


# U+0085 ends a word for transformers, for sentencepiece it is an unknown sign.
@settings(max_examples=1000, derandomize=True)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x85"), max_size=60))
def test_equals_transformers_on_any_text(text: str, reference: Reference) -> None:
    assert T5Tokenizer().encode(text) == reference(text, add_special_tokens=False)["input_ids"]


def test_blanks_around_change_nothing() -> None:
    assert T5Tokenizer().encode(" \n a   cat\t") == T5Tokenizer().encode("a cat")


def test_lone_surrogates_are_replaced() -> None:
    assert T5Tokenizer().encode("a \ud800 cat") == T5Tokenizer().encode("a \ufffd cat")


def test_special_tokens(reference: Reference) -> None:
    assert (reference.pad_token_id, reference.eos_token_id, len(reference)) == (PAD, EOS, VOCAB_SIZE)


def test_needs_no_torch() -> None:
    code = "import sys; from darkroom.tokenizers.t5 import T5Tokenizer as T; T().encode('x'); "
    code += "print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
