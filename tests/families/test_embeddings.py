"""Textual inversion files in all the shapes that people have them."""

from __future__ import annotations

import logging
from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from darkroom.api.errors import CheckpointError, RequestError
from darkroom.families.embeddings import find_embeddings, load_embedding

WIDTH = 64
VECTORS = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))


class TestFind:
    def test_no_folder(self) -> None:
        assert find_embeddings(None) == {}

    def test_names_and_formats(self, tmp_path: Path) -> None:
        names = [
            "EasyNegative.pt",
            "a.safetensors",
            "b.BIN",
            "c.ckpt",
            "d v1.5.gguf",
            "note.txt",
            "b.preview.png",
        ]
        for name in names:
            (tmp_path / name).touch()
        (tmp_path / "folder.pt").mkdir()
        found = find_embeddings(tmp_path)
        assert sorted(found) == ["a", "b", "c", "d v1.5", "easynegative"]
        assert found["easynegative"] == tmp_path / "EasyNegative.pt"

    def test_same_name_twice(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        for name in ("style.pt", "style.safetensors"):
            (tmp_path / name).touch()
        with caplog.at_level(logging.WARNING):
            assert find_embeddings(tmp_path) == {"style": tmp_path / "style.safetensors"}
        assert "style.pt is left out" in caplog.text

    @pytest.mark.parametrize("kind", ["missing", "file"])
    def test_not_a_folder(self, tmp_path: Path, kind: str) -> None:
        folder = tmp_path / "embeddings"
        if kind == "file":
            folder.touch()
        with pytest.raises(RequestError, match=r"--embd-dir: .*embeddings is not a folder"):
            find_embeddings(folder)


class TestLoad:
    def check(self, path: Path, expected: torch.Tensor = VECTORS) -> None:
        out = load_embedding(path, WIDTH)
        assert out.dtype == torch.float32
        torch.testing.assert_close(out, expected, rtol=0, atol=0)

    def test_safetensors(self, tmp_path: Path) -> None:
        save_file({"emb_params": VECTORS}, tmp_path / "x.safetensors")
        self.check(tmp_path / "x.safetensors")

    def test_single_vector_in_half_precision(self, tmp_path: Path) -> None:
        save_file({"<word>": VECTORS[0].half()}, tmp_path / "x.safetensors")
        self.check(tmp_path / "x.safetensors", VECTORS[:1].half().float())

    def test_sdxl_file_gives_the_fitting_encoder(self, tmp_path: Path) -> None:
        save_file({"clip_g": torch.zeros(3, 80), "clip_l": VECTORS}, tmp_path / "x.safetensors")
        self.check(tmp_path / "x.safetensors")

    @pytest.mark.parametrize("legacy", [False, True])
    def test_webui_pickle(self, tmp_path: Path, legacy: bool) -> None:
        data = {
            "string_to_token": {"*": torch.tensor(265)},
            "string_to_param": nn.ParameterDict({"*": nn.Parameter(VECTORS)}),
            "name": "style",
            "step": 5000,
            "sd_checkpoint": "7460a6fa",
            "sd_checkpoint_name": None,
        }
        torch.save(data, tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
        self.check(tmp_path / "x.pt")

    def test_webui_pickle_with_plain_dict(self, tmp_path: Path) -> None:
        data = {"string_to_token": {"*": 265}, "string_to_param": {"*": VECTORS}, "step": 1}
        torch.save(data, tmp_path / "x.pt")
        self.check(tmp_path / "x.pt")

    def test_diffusers_pickle(self, tmp_path: Path) -> None:
        torch.save({"<word>": nn.Parameter(VECTORS)}, tmp_path / "x.bin")
        self.check(tmp_path / "x.bin")

    def test_bare_tensor(self, tmp_path: Path) -> None:
        torch.save(VECTORS, tmp_path / "x.ckpt")
        self.check(tmp_path / "x.ckpt")

    def test_gguf_quantized(self, tmp_path: Path) -> None:
        writer = gguf.GGUFWriter(tmp_path / "x.gguf", "embedding")
        packed = gguf.quants.quantize(VECTORS.numpy(), gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor("emb_params", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        expected = torch.from_numpy(gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q8_0))
        self.check(tmp_path / "x.gguf", expected)

    def test_outlives_its_file(self, tmp_path: Path) -> None:
        path = tmp_path / "x.safetensors"
        save_file({"emb_params": VECTORS}, path)
        out = load_embedding(path, WIDTH)
        save_file({"emb_params": VECTORS * 2}, path)
        torch.testing.assert_close(out, VECTORS)

    def test_wrong_width(self, tmp_path: Path) -> None:
        save_file({"clip_g": torch.zeros(3, 80), "clip_l": torch.zeros(2, 48)}, tmp_path / "x.safetensors")
        with pytest.raises(
            CheckpointError, match=r"x\.safetensors: embedding of width 48 and 80; .* takes 64"
        ):
            load_embedding(tmp_path / "x.safetensors", WIDTH)

    def test_no_vectors(self, tmp_path: Path) -> None:
        save_file({"conv": torch.zeros(2, 3, 4, 64), "step": torch.tensor([5])}, tmp_path / "x.safetensors")
        with pytest.raises(CheckpointError, match=r"x\.safetensors: no embedding in this file"):
            load_embedding(tmp_path / "x.safetensors", WIDTH)

    def test_whole_model(self, tmp_path: Path) -> None:
        save_file({f"layer.{i}": torch.zeros(WIDTH, WIDTH) for i in range(5)}, tmp_path / "x.safetensors")
        with pytest.raises(CheckpointError, match="5 tensors of width 64"):
            load_embedding(tmp_path / "x.safetensors", WIDTH)

    @pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".gguf"])
    def test_garbage(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"x{suffix}"
        path.write_bytes(b"<!DOCTYPE html><html>404</html>")
        with pytest.raises(CheckpointError, match="x\\" + suffix):
            load_embedding(path, WIDTH)
