"""The packing script on headers like stable-diffusion.cpp's, and what it has packed."""

from __future__ import annotations

import base64
import json
import lzma
import struct
from pathlib import Path

import pytest
from training.make_vocabularies import DATA, VOCABULARIES, extract, sentencepiece_files

TOKENIZER = {
    "model": {"vocab": [["<pad>", 0.0], ["▁a", -1.5]]},
    "normalizer": {
        "normalizers": [
            {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(b"\x01\x02").decode()},
            {"type": "Replace"},
        ]
    },
}


def test_bytes_of_an_array_are_found(tmp_path: Path) -> None:
    body = ", ".join(f"0x{byte:02x}" for byte in "Ġ t\n".encode())
    (tmp_path / "a.hpp").write_text("static const unsigned char other[] = {0x41};\n")
    (tmp_path / "b.hpp").write_text(f"static const unsigned char merges[] = {{\n  {body}}};\n")
    assert extract(tmp_path, "merges").decode() == "Ġ t\n"
    with pytest.raises(SystemExit, match="no header has the array missing"):
        extract(tmp_path, "missing")


def test_parts_of_a_sentencepiece_tokenizer() -> None:
    assert sentencepiece_files(json.dumps(TOKENIZER).encode()) == {
        "t5_pieces.txt.xz": "<pad>\n▁a".encode(),
        "t5_scores.f32.xz": struct.pack("<2f", 0.0, -1.5),
        "t5_charsmap.bin.xz": b"\x01\x02",
    }


def test_everything_packed_comes_from_the_script() -> None:
    made = {name for vocabulary in VOCABULARIES for name in vocabulary.files(json.dumps(TOKENIZER).encode())}
    assert made == {path.name for path in DATA.iterdir()}
    assert all(lzma.decompress(path.read_bytes()) for path in DATA.iterdir())
