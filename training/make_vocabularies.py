"""Packs tokenizer vocabularies into src/darkroom/tokenizers/data/.

The source is stable-diffusion.cpp's C headers (src/tokenizers/vocab/ of its repository or of the
stable-diffusion-cpp-python source distribution), which carry the published vocabularies byte by byte:

    python training/make_vocabularies.py path/to/stable-diffusion.cpp/src/tokenizers/vocab
"""

from __future__ import annotations

import argparse
import hashlib
import lzma
import re
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).parent.parent / "src" / "darkroom" / "tokenizers" / "data"


@dataclass(frozen=True)
class Vocabulary:
    """One array of bytes in the headers, its digest, and the packed file it becomes."""

    array: str
    sha256: str
    output: str


VOCABULARIES = (
    Vocabulary(
        "clip_merges_utf8_c_str",
        "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a",
        "clip_merges.txt.xz",
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
        packed = lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)
        (DATA / vocabulary.output).write_bytes(packed)
        print(f"{vocabulary.output}: {len(raw)} bytes packed into {len(packed)}")


if __name__ == "__main__":
    main()
