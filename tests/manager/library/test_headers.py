"""Headers: whole ones, damaged ones, and files that are no models at all."""

from __future__ import annotations

import json
import struct
import zipfile
from contextlib import suppress
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from darkroom.manager.library.headers import read_header
from darkroom.manager.library.identify import identify
from darkroom.manager.library.limited import HeaderError, LimitedFile
from darkroom.manager.library.parts import FileFormat

READ_LIMIT = 1 << 20


def safetensors(header: object, data: int = 0) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def gguf_bytes(
    version: int = 3, tensors: int = 0, pairs: bytes = b"", count: int = 0, rest: bytes = b""
) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, count) + pairs + rest


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def one_tensor(shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(b"x") + dims + struct.pack("<IQ", kind, offset)


BAD = {
    "empty": (b"", "is empty"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 6938078334\n",
        "6938078334 bytes",
    ),
    "html": (b"<!DOCTYPE html><html><title>Sign in</title></html>", "HTML page \\('Sign in'\\)"),
    "json": (b'{"error": "not found"}', "is JSON"),
    "text": (b"Access denied. You must be logged in.", "text file"),
    "noise": (bytes(range(1, 200)), "no known format"),
    "header bomb": (struct.pack("<Q", 1 << 60) + b"{}", "claims 1152921504606846976 bytes"),
    "header past the end": (struct.pack("<Q", 5000) + b"{}", "truncated"),
    "no json": (safetensors(b"{" + b"x" * 20), "not valid JSON"),
    "deep json": (safetensors(b'{"a":' + b"[" * 200_000), "not valid JSON"),
    "list": (struct.pack("<Q", 2) + b"{]", "not valid JSON"),
    "truncated": (safetensors({"a": entry([4], 0, 16)}, 8), "truncated: tensor 'a' ends at"),
    "overlap": (safetensors({"a": entry([4], 0, 16), "b": entry([4], 8, 24)}, 24), "overlap"),
    "twice": (safetensors(b'{"a":{},"a":{}}'), "twice"),
    "negative": (safetensors({"a": entry([4], -16, 0)}, 16), "offsets -16, 0"),
    "backwards": (safetensors({"a": entry([4], 16, 0)}, 16), "offsets 16, 0"),
    "wrong size": (safetensors({"a": entry([4], 0, 8)}, 16), "takes 16"),
    "overflow": (safetensors({"a": entry([1 << 40, 1 << 40], 0, 16)}, 16), "more numbers than"),
    "many axes": (safetensors({"a": entry([1] * 40, 0, 4)}, 4), "40 dimensions"),
    "malformed": (safetensors({"a": {"dtype": "F32"}}), "malformed"),
    "bool shape": (safetensors({"a": entry([True], 0, 4)}, 4), "a side of True"),
    "gguf of another version": (gguf_bytes(version=9), "version 9"),
    "big-endian gguf": (b"GGUF" + struct.pack(">I", 3) + bytes(16), "big-endian"),
    "gguf without end": (b"GGUF" + struct.pack("<I", 3), "breaks off"),
    "gguf tensor bomb": (gguf_bytes(tensors=1 << 62), "claims"),
    "gguf text bomb": (gguf_bytes(count=1, pairs=text(b"k") + struct.pack("<IQ", 8, 1 << 62)), "text of"),
    "gguf array bomb": (
        gguf_bytes(count=1, pairs=text(b"k") + struct.pack("<IIQ", 9, 8, 1 << 62)),
        "breaks off",
    ),
    "gguf number array bomb": (
        gguf_bytes(count=1, pairs=text(b"k") + struct.pack("<IIQ", 9, 4, 1 << 62)),
        "breaks off",
    ),
    "gguf nested array": (
        gguf_bytes(count=1, pairs=text(b"k") + struct.pack("<IIQ", 9, 9, 1)),
        "unknown type",
    ),
    "gguf unknown value": (gguf_bytes(count=1, pairs=text(b"k") + struct.pack("<I", 77)), "unknown type 77"),
    "gguf truncated": (gguf_bytes(tensors=1, rest=one_tensor((64, 64))), "truncated: tensor 'x'"),
    "gguf unknown type": (gguf_bytes(tensors=1, rest=one_tensor((32,), kind=99)), "ggml type 99"),
    "gguf overflow": (gguf_bytes(tensors=1, rest=one_tensor((1 << 40, 1 << 40))), "more numbers"),
    "gguf no whole blocks": (gguf_bytes(tensors=1, rest=one_tensor((33,), kind=8)), "whole number of q8_0"),
    "gguf far offset": (gguf_bytes(tensors=1, rest=one_tensor((1,), offset=1 << 63)), "truncated"),
    "gguf many axes": (gguf_bytes(tensors=1, rest=text(b"x") + struct.pack("<I", 1 << 30)), "dimensions"),
    "gguf overlap": (
        gguf_bytes(tensors=2, rest=one_tensor((16,)) + one_tensor((16,), offset=8).replace(b"x", b"y", 1))
        + bytes(200),
        "overlap",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_say_what_is_wrong(name: str, tmp_path: Path) -> None:
    content, message = BAD[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(HeaderError, match=message):
        read_header(path)


def test_no_more_is_read_than_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    path.write_bytes(safetensors({"__metadata__": {"thumbnail": "x" * 3_000_000}}))
    with pytest.raises(HeaderError, match="more than 1 MB"):
        read_header(path, READ_LIMIT)
    with LimitedFile(path, READ_LIMIT) as file:
        with pytest.raises(HeaderError):
            file.read(READ_LIMIT + 1)
        assert file.taken == 0


def test_safetensors_of_the_library(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(3, 5, dtype=torch.bfloat16), "b": torch.zeros(()), "c": torch.zeros(0, 4)}
    save_file(tensors, tmp_path / "x.safetensors", {"author": "me"})
    header = read_header(tmp_path / "x.safetensors")
    assert {name: (t.shape, t.dtype, t.nbytes) for name, t in header.tensors.items()} == {
        "a": ((3, 5), "bf16", 30),
        "b": ((), "f32", 4),
        "c": ((0, 4), "f32", 0),
    }
    assert header.metadata == {"author": "me"}
    assert header.format is FileFormat.SAFETENSORS


@pytest.mark.parametrize("length", [0x280, 0x480, 0x580])
def test_a_length_that_looks_like_a_pickle(length: int, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    text = json.dumps({"a": entry([4], 0, 16)}).encode()
    path.write_bytes(safetensors(text.ljust(length)) + bytes(16))
    assert read_header(path).tensors["a"].shape == (4,)


def test_gguf_of_the_package_with_a_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_token_list([f"token{number}" for number in range(200_000)])
    writer.add_array("numbers", list(range(1000)))
    writer.add_tensor("a", np.zeros((4, 8), np.float32))
    writer.add_tensor("b", np.zeros((2, 34), np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = read_header(path)
    assert {name: (t.shape, t.dtype) for name, t in header.tensors.items()} == {
        "a": ((4, 8), "f32"),
        "b": ((2, 32), "q8_0"),
    }
    assert header.metadata["general.architecture"] == "qwen3"


def test_gguf_version_1(tmp_path: Path) -> None:
    """It counts with 32 bits."""
    path = tmp_path / "x.gguf"
    content = b"GGUF" + struct.pack("<III", 1, 1, 1)
    content += struct.pack("<I", 1) + b"k" + struct.pack("<II", 4, 7)
    content += struct.pack("<I", 1) + b"x" + struct.pack("<III", 2, 8, 4) + struct.pack("<IQ", 1, 0)
    path.write_bytes(content + bytes(200))
    header = read_header(path)
    assert header.tensors["x"].shape == (4, 8)
    assert header.metadata == {"k": "7"}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"GGUF\x03\0\0\0", b"PK\x03\x04", b"\x80\x02", b"\x80\x04\x95"]),
)
def test_noise_never_crashes_a_reader(tmp_path: Path, noise: bytes, start: bytes) -> None:
    path = tmp_path / "noise.ckpt"
    path.write_bytes(start + noise)
    with suppress(HeaderError):
        identify(read_header(path, READ_LIMIT))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets"]), JSON, max_size=3)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(max_size=10), FIELDS | JSON, max_size=4), st.integers(0, 64))
def test_any_json_is_read_or_refused(tmp_path: Path, header: dict[str, object], data: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors(header, data))
    with suppress(HeaderError):
        identify(read_header(path, READ_LIMIT))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_whole_file_with_bytes_changed(tmp_path: Path, data: st.DataObject) -> None:
    pairs = text(b"a") + struct.pack("<I", 8) + text(b"vocabulary")
    pairs += text(b"t") + struct.pack("<IIQ", 9, 8, 2) + text(b"one") + text(b"two")
    whole = gguf_bytes(tensors=1, count=2, pairs=pairs, rest=one_tensor((8, 4))) + bytes(300)
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(4, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "x.gguf"
    path.write_bytes(bytes(changed[: data.draw(st.integers(8, len(whole)))]))
    with suppress(HeaderError):
        identify(read_header(path, READ_LIMIT))


def test_a_zip_bomb_is_not_inflated(tmp_path: Path) -> None:
    path = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(40 << 20))
    with pytest.raises(HeaderError, match="claims 41943040 bytes"):
        read_header(path)


def test_a_zip_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photo.jpg", b"jpeg")
    with pytest.raises(HeaderError, match=r"zip archive \(photo.jpg, ...\) but no torch checkpoint"):
        read_header(path)
