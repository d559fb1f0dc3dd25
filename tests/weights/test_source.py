from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from darkroom.weights.checkpoint import open_checkpoint
from darkroom.weights.keys import KeyRules, Rename, SplitRows
from darkroom.weights.source import MemorySource, TensorView, open_source

RULES = KeyRules((Rename("^vae", "first_stage_model"), SplitRows(r"(.*)qkv", (r"\1q", r"\1k", r"\1v"))))


def view(path: Path, tensors: dict[str, torch.Tensor], rules: KeyRules | None = None) -> TensorView:
    save_file(tensors, path)
    return open_source(open_checkpoint(path), rules)


def test_reads_under_native_names(tmp_path: Path) -> None:
    fused = torch.arange(12.0).view(6, 2)
    source = view(tmp_path / "x", {"vae.qkv": fused, "other": torch.ones(1)}, RULES).under(
        "first_stage_model."
    )
    assert source.index.shapes() == {"q": (2, 2), "k": (2, 2), "v": (2, 2)}
    assert torch.equal(source.read("k"), fused[2:4])


def test_a_companion_file_replaces_everything_under_its_prefix(tmp_path: Path) -> None:
    model = view(
        tmp_path / "a", {"unet.x": torch.zeros(1), "vae.x": torch.zeros(2), "vae.old": torch.zeros(2)}
    )
    vae = view(tmp_path / "b", {"vae.x": torch.ones(2), "vae.new": torch.ones(3)})
    merged = model.replaced("vae.", vae)
    assert merged.index.shapes() == {"unet.x": (1,), "vae.x": (2,), "vae.new": (3,)}
    assert torch.equal(merged.read("vae.x"), torch.ones(2))
    assert torch.equal(merged.under("unet.").read("x"), torch.zeros(1))


def test_parts_are_left_out_and_renamed(tmp_path: Path) -> None:
    whole = view(tmp_path / "a", {"unet.x": torch.zeros(1), "vae.x": torch.ones(2), "te.x": torch.zeros(3)})
    assert set(whole.without("vae.", "te.").index) == {"unet.x"}
    names = {"vae.x": "first_stage_model.x", "te.x": "te.x"}
    renamed = whole.renamed(names.get)
    assert renamed.index.shapes() == {"first_stage_model.x": (2,), "te.x": (3,)}
    assert torch.equal(renamed.read("first_stage_model.x"), torch.ones(2))


def test_what_files_say_about_themselves_is_joined(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "a", {"title": "model", "author": "me"})
    save_file({"te.x": torch.zeros(1)}, tmp_path / "b", {"title": "encoder", "tokens": "many"})
    model, te = (open_source(open_checkpoint(tmp_path / name)) for name in "ab")
    joined = model.replaced("te.", te).index.metadata
    assert joined == {"title": "encoder", "author": "me", "tokens": "many"}


def test_memory_source_is_a_state_dict() -> None:
    source = MemorySource({"a.x": torch.ones(2), "b.x": torch.zeros(3, dtype=torch.bfloat16)})
    assert {name: info.dtype for name, info in source.index.items()} == {"a.x": "f32", "b.x": "bf16"}
    assert torch.equal(source.under("a.").read("x"), torch.ones(2))
