from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from darkroom.cli.arguments import UsageError, parse
from darkroom.cli.convert import output_name
from darkroom.weights.checkpoint import open_checkpoint

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def run(*argv: str, cwd: Path) -> tuple[int, str]:
    """Exit code and standard error."""
    command = [sys.executable, "-m", "darkroom.cli.main", "-M", "convert", *argv]
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_a_model_is_converted_and_summed_up(checkpoint: Path, tmp_path: Path) -> None:
    argv = ("-m", str(checkpoint), "--type", "q8_0", "--tensor-type-rules", "first_stage_model=f32")
    code, said = run(*argv, "-t", "1", cwd=tmp_path)
    assert code == 0, said
    count = len(load_file(checkpoint))
    assert f"output.gguf: {count} tensors, " in said
    assert said.endswith(f"convert '{checkpoint}'/'' to 'output.gguf' success\n")
    with open_checkpoint(tmp_path / "output.gguf") as model:
        assert {"q8_0", "f32", "f16"} == {info.dtype for info in model.index.values()}
    assert [path.name for path in tmp_path.iterdir()] == ["output.gguf"]


def test_a_mistake_is_named_and_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    model = ("-m", str(checkpoint))
    for argv, message in (
        (("-m", "no.gguf"), "--model: 'no.gguf' does not exist"),
        ((*model, "-o", "x.png"), "--output: 'x.png' ends in neither .gguf nor .safetensors"),
        ((*model, "--type", "q4_0", "-o", "x.safetensors"), "--type: a safetensors file holds no q4_0"),
        ((*model, "-o", "."), "--output: '.' is a folder; expected the name of a model"),
    ):
        code, said = run(*argv, cwd=tmp_path)
        assert code == 1
        assert f" failed\nerror: {message}" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent differently there")
def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    tensor = torch.zeros(4096, 4096, dtype=torch.float16)
    save_file({f"{i}.weight": tensor.clone() for i in range(4)}, tmp_path / "model.safetensors")
    command = [sys.executable, "-m", "darkroom.cli.main", "-M", "convert", "-m", "model.safetensors"]
    process = subprocess.Popen(
        [*command, "--type", "q5_K", "-t", "1"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=ENVIRONMENT,
    )
    while process.poll() is None and len(list(tmp_path.iterdir())) < 2:
        pass
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "stopping; Ctrl+C again stops at once\n" in said
    assert said.endswith("stopped; no model was written\n")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_type_that_cannot_be_written_is_explained() -> None:
    with pytest.raises(UsageError) as error:
        parse(["-M", "convert", "-m", "x", "--type", "iq2_xxs"])
    assert str(error.value).startswith(
        "invalid weight format iq2_xxs, must be one of [f32, f16, bf16, q4_0, "
    )
    assert error.value.option is not None
    assert "iq1, iq2 and iq3 types" in (error.value.option.field.description or "")


def test_no_model() -> None:
    with pytest.raises(UsageError, match="no input model path provided for convert"):
        parse(["-M", "convert", "-o", "x.gguf"])


def test_the_default_name_is_no_pictures() -> None:
    assert output_name(parse(["-M", "convert", "-m", "x"]).cli) == "output.gguf"
    assert output_name(parse(["-M", "convert", "-m", "x", "-o", "y.safetensors"]).cli) == "y.safetensors"
