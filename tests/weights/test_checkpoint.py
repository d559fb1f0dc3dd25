"""Opening: what is found inside a file decides, and what is no model is named."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save, save_file

from darkroom.api.errors import CheckpointError
from darkroom.quant.packed import PackedTensor
from darkroom.weights.checkpoint import open_checkpoint
from darkroom.weights.save import write_gguf

LFS = """version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 4265146304
"""
HTML = "<!DOCTYPE html>\n<html><head><title>Sign in to\n continue</title></head><body></body></html>"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty .0 bytes.; download it again"),
        (LFS.encode(), "is a git-lfs pointer for a file of 4265146304 bytes, not the model"),
        (HTML.encode(), r"is an HTML page \('Sign in to\\n continue'\), not a model"),
        ("\ufeff\n <html><body>M\u00fcll".encode(), "is an HTML page, not a model"),
        ("<!doctype HTML><title>Z\u00fcrich".encode("latin-1"), "is an HTML page"),
        (b'{"error": "Access to model is restricted"}', 'is JSON, not a model: {"error": "Access to model'),
        (b"Entry not found", "is a text file, not a model: 'Entry not found'"),
        (
            b"\x00\x01\x02\x03binary",
            "no known format .its first bytes are 00 01 02 03 62 69 6e 61.; expected saf",
        ),
        (b"\xff" * 7 + b"\x7f{" + bytes(100), "header claims 9223372036854775807 bytes; at most 100000000"),
        ((99_999_999).to_bytes(8, "little") + b'{"x":', "is truncated: its header takes 100000007 bytes"),
        (b"GGUF\x03\x00", "GGUF header breaks off"),
        (b"PK\x03\x04 and then nothing", "truncated or damaged zip"),
    ],
    ids=["empty", "lfs", "html", "bom", "latin1", "json", "text", "binary", "bomb", "short", "gguf", "zip"],
)
def test_what_is_no_model_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as raised:
        open_checkpoint(path)
    assert str(raised.value).startswith(f"{path}: ")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.gguf: there is no such file"):
        open_checkpoint(tmp_path / "nowhere.gguf")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF")
    path.chmod(0)
    with pytest.raises(CheckpointError, match=r"cannot be read \(Permission denied\)"):
        open_checkpoint(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are POSIX's")
def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.gguf")
    with pytest.raises(CheckpointError, match=r"x.gguf: is a device or a pipe"):
        open_checkpoint(tmp_path / "x.gguf")


def test_the_content_counts_and_not_the_ending(tmp_path: Path) -> None:
    save_file({"x": torch.ones(2)}, tmp_path / "a.ckpt")
    write_gguf(tmp_path / "b.safetensors", {"x": torch.ones(2)})
    torch.save({"x": torch.ones(2)}, tmp_path / "c.gguf")
    for name in ("a.ckpt", "b.safetensors", "c.gguf"):
        with open_checkpoint(tmp_path / name) as checkpoint:
            assert torch.equal(checkpoint.read("x"), torch.ones(2))


def test_opening_24_gb_reads_only_the_header(tmp_path: Path) -> None:
    """A sparse file of 2000 tensors: well under a second, and no memory for the tensors."""
    size, count = 24_000_000_000, 2000
    each = size // count // 2 * 2
    header = json.dumps(
        {
            f"block.{i}.weight": {
                "dtype": "BF16",
                "shape": [each // 2],
                "data_offsets": [i * each, (i + 1) * each],
            }
            for i in range(count)
        }
    ).encode()
    path = tmp_path / "big.safetensors"
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + count * each)
    process = psutil.Process()
    before = process.memory_info().rss
    with open_checkpoint(path) as checkpoint:
        tensors = [checkpoint.read(name) for name in checkpoint.index]
        grown = process.memory_info().rss - before
        assert checkpoint.nbytes == count * each
        assert len(tensors) == count
    assert grown < 32_000_000


def test_shards_are_one_model(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2), "stray": torch.ones(1)}, tmp_path / "m-1-of-2.safetensors")
    save_file({"b": torch.zeros(3)}, tmp_path / "m-2-of-2.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "m-1-of-2.safetensors", "b": "m-2-of-2.safetensors"}}
    path = tmp_path / "m.safetensors.index.json"
    path.write_text(json.dumps(index))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.index.shapes() == {"a": (2,), "b": (3,)}
        assert torch.equal(checkpoint.read("b"), torch.zeros(3))


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "gone.safetensors"}, "its shard gone.safetensors is missing"),
        (
            {"a": "m.safetensors", "b": "m.safetensors"},
            r"promises 1 tensors in m.safetensors that are not there \(b",
        ),
        ({"a": "../m.safetensors"}, "names the shard '../m.safetensors'; shards lie beside their index"),
        ({"a": "/m.safetensors"}, "shards lie beside their index"),
        (["a"], "no map of tensor names to file names"),
    ],
)
def test_a_wrong_shard_index_is_one_clear_error(tmp_path: Path, weight_map: object, message: str) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "m.safetensors")
    path = tmp_path / "m.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(path)


def diffusers_folder(root: Path) -> Path:
    for name in ("unet", "vae", "text_encoder", "scheduler"):
        (root / name).mkdir(parents=True)
    (root / "model_index.json").write_text("{}")
    save_file({"conv_in.weight": torch.ones(1)}, root / "unet" / "diffusion_pytorch_model.safetensors")
    save_file({"conv_in.weight": torch.ones(2)}, root / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    torch.save({"encoder.x": torch.ones(3)}, root / "vae" / "diffusion_pytorch_model.bin")
    save_file({"text_model.x": torch.ones(4)}, root / "text_encoder" / "model.safetensors")
    return root


def test_one_shard_says_where_the_others_are(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(2)}
    save_file(tensors, tmp_path / "model-00002-of-00003.safetensors")
    with pytest.raises(
        CheckpointError, match=r"is file 2 of 3 .*; give their index, model\.safetensors\.index"
    ):
        open_checkpoint(tmp_path / "model-00002-of-00003.safetensors")
    write_gguf(tmp_path / "model-00001-of-00002.gguf", tensors)
    with pytest.raises(CheckpointError, match=r"is file 1 of 2 .*; join them with llama-gguf-split --merge"):
        open_checkpoint(tmp_path / "model-00001-of-00002.gguf")
    save_file(tensors, tmp_path / "model-00001-of-00001.safetensors")
    open_checkpoint(tmp_path / "model-00001-of-00001.safetensors").close()


def test_a_diffusers_folder_is_one_model_with_prefixes(tmp_path: Path) -> None:
    with open_checkpoint(diffusers_folder(tmp_path / "model")) as checkpoint:
        assert checkpoint.index.shapes() == {
            "unet.conv_in.weight": (1,),
            "vae.encoder.x": (3,),
            "te.text_model.x": (4,),
        }
        assert torch.equal(checkpoint.read("vae.encoder.x"), torch.ones(3))


def test_a_component_folder_is_opened_without_a_prefix(tmp_path: Path) -> None:
    folder = diffusers_folder(tmp_path / "model") / "vae"
    with open_checkpoint(folder) as checkpoint:
        assert list(checkpoint.index) == ["encoder.x"]


def test_a_folder_without_a_model_says_what_belongs_there(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    with pytest.raises(
        CheckpointError, match=r"is a folder without a model; expected unet, transformer, vae"
    ):
        open_checkpoint(tmp_path)


def test_an_error_inside_a_folder_names_the_file(tmp_path: Path) -> None:
    folder = diffusers_folder(tmp_path / "model")
    (folder / "vae" / "diffusion_pytorch_model.bin").write_text(LFS)
    with pytest.raises(CheckpointError, match=r"vae/diffusion_pytorch_model.bin: is a git-lfs pointer"):
        open_checkpoint(folder)


def whole_file(kind: str, path: Path) -> bytes:
    tensors = {"a.weight": torch.ones(8, 32), "b": torch.arange(5), "c": torch.ones(4, 4, 3, 3).half()}
    if kind == "safetensors":
        return save(tensors, {"key": "value"})
    if kind == "gguf":
        write_gguf(
            path, tensors | {"q": PackedTensor.encode(torch.ones(4, 4, 2, 2), "q8_0")}, {"key": "value"}
        )
        return path.read_bytes()
    buffer = io.BytesIO()
    torch.save({"state_dict": tensors}, buffer, _use_new_zipfile_serialization=kind == "zip")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["safetensors", "gguf", "zip", "legacy"])
def test_a_file_with_flipped_bytes_is_read_or_refused_but_nothing_else(tmp_path: Path, kind: str) -> None:
    rng, path, whole = random.Random(kind), tmp_path / "x", whole_file(kind, tmp_path / "whole")
    for _ in range(150):
        broken = bytearray(whole)
        for _ in range(rng.choice([1, 2, 8])):
            at = rng.randrange(len(broken) if kind == "zip" else min(len(broken), 1500))
            broken[at : at + 1] = rng.choice([rng.randbytes(1), b"", b"\xff" * 8, bytes(8)])
        path.write_bytes(broken)
        with contextlib.suppress(CheckpointError), open_checkpoint(path) as checkpoint:
            for name in checkpoint.index:
                checkpoint.read(name)
