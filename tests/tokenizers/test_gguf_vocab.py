"""Tokenizers from GGUF metadata, on files that the gguf package wrote as llama.cpp's converter does."""

from __future__ import annotations

import lzma
import struct
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter
from gguf import TokenType as Kind
from transformers import AddedToken, Qwen2Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

import darkroom.tokenizers
from darkroom.api.errors import CheckpointError
from darkroom.tokenizers import qwen, t5
from darkroom.tokenizers.gguf_vocab import GGUFTokenizer, TokenType
from darkroom.tokenizers.qwen import QwenTokenizer
from darkroom.tokenizers.t5 import T5Tokenizer
from darkroom.weights.checkpoint import open_checkpoint
from darkroom.weights.index import Metadata

DATA = Path(darkroom.tokenizers.__file__).parent / "data"
MERGES = 3000
ADDED = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>")


def unpacked(name: str) -> bytes:
    return lzma.decompress((DATA / name).read_bytes())


def finished(writer: GGUFWriter, path: Path) -> Metadata:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_checkpoint(path) as checkpoint:
        return checkpoint.index.metadata


@pytest.fixture(scope="module")
def t5_metadata(tmp_path_factory: pytest.TempPathFactory) -> Metadata:
    """As llama.cpp's converter writes T5: sentinels are the user's, and the table's rows are filled up."""
    path = tmp_path_factory.mktemp("t5") / "t5.gguf"
    pieces = unpacked("t5_pieces.txt.xz").decode().split("\n")
    scores = struct.unpack(f"<{len(pieces)}f", unpacked("t5_scores.f32.xz"))
    writer = GGUFWriter(path, "t5encoder")
    writer.add_tokenizer_model("t5")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([*pieces, *(f"[PAD{i}]" for i in range(32100, 32128))])
    writer.add_token_scores([*scores[:32000], *[-1000.0] * 100, *[-10000.0] * 28])
    kinds = [Kind.CONTROL] * 2 + [Kind.UNKNOWN] + [Kind.NORMAL] * 31997
    writer.add_token_types([*kinds, *[Kind.USER_DEFINED] * 100, *[Kind.UNUSED] * 28])
    writer.add_precompiled_charsmap(unpacked("t5_charsmap.bin.xz"))
    writer.add_unk_token_id(2)
    return finished(writer, path)


def byte_level_vocabulary() -> tuple[list[str], list[str]]:
    """The first of Qwen's tokens, and their merges."""
    merges = unpacked("qwen_merges.txt.xz").decode().split("\n")[:MERGES]
    return [*bytes_to_unicode().values(), *(merge.replace(" ", "") for merge in merges), *ADDED], merges


def byte_level_metadata(path: Path, pre: str) -> Metadata:
    tokens, merges = byte_level_vocabulary()
    writer = GGUFWriter(path, "qwen2")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([*tokens, "[PAD9999]"])
    kinds = [Kind.NORMAL] * (len(tokens) - len(ADDED)) + [Kind.CONTROL] * 3 + [Kind.USER_DEFINED]
    writer.add_token_types([*kinds, Kind.UNUSED])
    writer.add_token_merges(merges)
    return finished(writer, path)


def test_t5_equals_sentencepiece(t5_metadata: Metadata, texts: list[dict[str, Any]]) -> None:
    tokenizer = GGUFTokenizer(t5_metadata)
    assert [tokenizer.encode(case["text"]) for case in texts] == [case["t5"] for case in texts]
    assert tokenizer.encode("<extra_id_0> cat</s>") == [32099, 1712, 1]


def test_qwen2_equals_transformers(tmp_path: Path, texts: list[dict[str, Any]]) -> None:
    tokens, merges = byte_level_vocabulary()
    plain = {token: i for i, token in enumerate(tokens[: -len(ADDED)])}
    reference = Qwen2Tokenizer(vocab=plain, merges=[tuple(merge.split(" ")) for merge in merges])
    reference.add_tokens([AddedToken(token, special=True, normalized=False) for token in ADDED])
    tokenizer = GGUFTokenizer(byte_level_metadata(tmp_path / "qwen.gguf", "qwen2"))
    for text in (*(case["text"] for case in texts), "<|im_start|>user\ncafe\u0301 <think>\n<|im_end|>"):
        assert tokenizer.encode(text) == reference(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("pre", "words"), [("qwen2", ["1", "2", "3", "4"]), ("llama-bpe", ["123", "4"]), ("gpt-2", ["1234"])]
)
def test_rules_of_words_differ(pre: str, words: list[str], tmp_path: Path) -> None:
    """With merges of digits, what is a word decides."""
    path = tmp_path / "x.gguf"
    tokens = [*bytes_to_unicode().values(), "12", "123", "1234"]
    writer = GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([Kind.NORMAL] * len(tokens))
    writer.add_token_merges(["1 2", "12 3", "123 4"])
    tokenizer = GGUFTokenizer(finished(writer, path))
    assert [tokens[i] for i in tokenizer.encode("1234")] == words


def test_numbers_of_token_types_are_llama_cpps() -> None:
    assert {kind.name: kind.value for kind in TokenType} == {kind.name: kind.value for kind in Kind}


def test_a_file_without_a_tokenizer_gets_the_packed_one(t5_metadata: Metadata, tmp_path: Path) -> None:
    qwen_metadata = byte_level_metadata(tmp_path / "qwen.gguf", "qwen2")
    assert isinstance(t5.load_tokenizer(t5_metadata), GGUFTokenizer)
    assert isinstance(qwen.load_tokenizer(qwen_metadata), GGUFTokenizer)
    assert t5.load_tokenizer({}) == t5.load_tokenizer(qwen_metadata) == T5Tokenizer()
    assert qwen.load_tokenizer({"format": "pt"}) == qwen.load_tokenizer(t5_metadata) == QwenTokenizer()
    unknown = {**qwen_metadata, "tokenizer.ggml.pre": "new-rules"}
    assert qwen.load_tokenizer(unknown) == QwenTokenizer()


@pytest.mark.parametrize(
    "metadata",
    [{}, {"tokenizer.ggml.model": "bert"}, {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "x"}],
)
def test_other_kinds_are_refused(metadata: dict[str, str]) -> None:
    with pytest.raises(
        CheckpointError, match="what can be read is t5, and gpt2 with qwen2, llama-bpe, gpt-2"
    ):
        GGUFTokenizer(metadata)


DAMAGES: dict[str, dict[str, object]] = {
    "no tokens": {"tokens": None},
    "types of fewer tokens": {"token_type": [1, 1]},
    "merges of no token": {"merges": ["猫 犬"]},
    "merges that are none": {"merges": ["abc"]},
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_metadata_is_refused(damage: dict[str, object], tmp_path: Path) -> None:
    metadata = byte_level_metadata(tmp_path / "x.gguf", "qwen2")
    broken = {**metadata, **{f"tokenizer.ggml.{key}": value for key, value in damage.items()}}
    with pytest.raises(CheckpointError, match=r"^tokenizer\.ggml"):
        GGUFTokenizer(broken).encode("cat")


def test_a_damaged_character_map_is_refused(t5_metadata: Metadata) -> None:
    with pytest.raises(CheckpointError, match="damaged"):
        GGUFTokenizer({**t5_metadata, "tokenizer.ggml.precompiled_charsmap": [1, 2]}).encode("cat")
