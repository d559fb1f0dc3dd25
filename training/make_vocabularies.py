"""Packs tokenizer vocabularies into src/darkroom/tokenizers/data/.

The source is stable-diffusion.cpp's C headers (src/tokenizers/vocab/ of its repository or of the
stable-diffusion-cpp-python source distribution), which carry the published vocabularies byte by byte:

    python training/make_vocabularies.py path/to/stable-diffusion.cpp/src/tokenizers/vocab
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import lzma
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).parent.parent / "src" / "darkroom" / "tokenizers" / "data"


@dataclass(frozen=True)
class Vocabulary:
    """One array of bytes in the headers, its digest, and the packed files it becomes."""

    array: str
    sha256: str
    files: Callable[[bytes], Mapping[str, bytes]]


def sentencepiece_files(tokenizer_json: bytes) -> Mapping[str, bytes]:
    """Of a Unigram tokenizer.json the pieces by lines, their scores, and the map that normalises text."""
    tokenizer = json.loads(tokenizer_json)
    pieces, scores = zip(*tokenizer["model"]["vocab"], strict=True)
    (charsmap,) = (
        normalizer["precompiled_charsmap"]
        for normalizer in tokenizer["normalizer"]["normalizers"]
        if normalizer["type"] == "Precompiled"
    )
    return {
        "t5_pieces.txt.xz": "\n".join(pieces).encode(),
        "t5_scores.f32.xz": struct.pack(f"<{len(scores)}f", *scores),
        "t5_charsmap.bin.xz": base64.b64decode(charsmap),
    }


VOCABULARIES = (
    Vocabulary(
        "clip_merges_utf8_c_str",
        "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a",
        lambda merges: {"clip_merges.txt.xz": merges},
    ),
    Vocabulary(
        "t5_tokenizer_json_str",
        "fe2ebbbbde2985be723e0ce18217853e4020c5e9d35bd07be2c27ab9d3ead57a",
        sentencepiece_files,
    ),
    Vocabulary(
        "qwen2_merges_utf8_c_str",
        "599bab54075088774b1733fde865d5bd747cbcc7a547c5bc12610e874e26f5e3",
        lambda merges: {"qwen_merges.txt.xz": merges},
    ),
)


def extract(headers: Path, array: str) -> bytes:
    """The bytes of the C array `array`, searched for in every header of the folder."""
    start = re.compile(rf"\b{array}\s*\[\]\s*=\s*\{{")
    for header in sorted(headers.glob("*.hpp")):
        text = header.read_text()
        if match := start.search(text):
            body = text[match.end() : text.index("}", match.end())]
            return bytes(int(byte, 16) for byte in re.findall(r"0x([0-9a-fA-F]{2})", body))
    raise SystemExit(
        f"{headers}: no header has the array {array}; give stable-diffusion.cpp's src/tokenizers/vocab"
    )


def main() -> None:
    """Extract, check and pack every vocabulary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("headers", type=Path, help="stable-diffusion.cpp's src/tokenizers/vocab")
    args = parser.parse_args()
    DATA.mkdir(parents=True, exist_ok=True)
    for vocabulary in VOCABULARIES:
        raw = extract(args.headers, vocabulary.array)
        digest = hashlib.sha256(raw).hexdigest()
        if digest != vocabulary.sha256:
            raise SystemExit(f"{vocabulary.array}: sha256 is {digest}; expected {vocabulary.sha256}")
        for name, content in vocabulary.files(raw).items():
            packed = lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)
            (DATA / name).write_bytes(packed)
            print(f"{name}: {len(content)} bytes packed into {len(packed)}")


if __name__ == "__main__":
    main()
