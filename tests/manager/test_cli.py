"""The command line, as people start it."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from PIL import Image
from tests.manager.gateway.conftest import Served, serving

from darkroom.manager.cli.program import app

ROOT = Path(__file__).parents[2]

MAIN = "import sys; from darkroom.manager.cli import main; sys.argv[0] = 'darkroom'; main()"


def darkroom(home: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = os.environ | {"DARKROOM_HOME": str(home), "COLUMNS": "200", "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(
        [sys.executable, "-c", MAIN, *words],
        env=given,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("home")) as running:
        yield running


def test_help_imports_little(tmp_path: Path) -> None:
    script = MAIN.replace("main()", "\ntry: main()\nexcept SystemExit: print(sorted(sys.modules))")
    command = [sys.executable, "-c", script, "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "serve" in shown
    assert not {"'torch'", "'fastapi'", "'pydantic'", "'numpy'"} & set(shown.replace(",", " ").split())


def test_the_manager_never_imports_torch() -> None:
    script = "import sys; import darkroom.manager.app, darkroom.manager.doctor; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"


def test_a_fresh_machine_has_the_builtin_model(tmp_path: Path) -> None:
    listed = darkroom(tmp_path, "list", "--json")
    assert listed.returncode == 0, listed.stderr
    assert [model["id"] for model in json.loads(listed.stdout)] == ["darkroom"]


def test_exit_codes_and_lines_of_errors(tmp_path: Path) -> None:
    unknown = darkroom(tmp_path, "show", "nope")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert len(unknown.stderr.strip().splitlines()) == 1
    assert unknown.stderr.startswith("darkroom: model 'nope'")
    assert darkroom(tmp_path, "lst").returncode == 2
    assert darkroom(tmp_path, "settings", "darkroom", "steps").returncode == 2
    nobody = darkroom(tmp_path, "ps")
    assert nobody.returncode == 1
    assert "darkroom serve" in nobody.stderr
    open_door = darkroom(tmp_path, "serve", "--host", "0.0.0.0", "--port", "0")
    assert open_door.returncode == 1
    assert "--insecure" in open_door.stderr


def test_keys(tmp_path: Path) -> None:
    made = darkroom(tmp_path, "keys", "create", "mine", "--scope", "images", "--rate", "5")
    text = made.stdout.strip()
    assert text.startswith("dk-")
    listed = json.loads(darkroom(tmp_path, "keys", "list", "--json").stdout)
    assert [(key["name"], key["scopes"], key["rate"]) for key in listed] == [("mine", ["images"], 5)]
    assert text.rpartition("-")[2] not in json.dumps(listed)
    assert darkroom(tmp_path, "keys", "revoke", listed[0]["id"]).returncode == 0
    assert darkroom(tmp_path, "keys", "create", "x", "--scope", "all").returncode == 2


def test_settings_load_ps_logs_unload(served: Served) -> None:
    home = served.home
    changed = darkroom(home, "settings", "other", "steps=7", "sampler=DPM++ 2M Karras", "--json")
    assert json.loads(changed.stdout)["saved"]["steps"] == 7
    assert darkroom(home, "settings", "other", "stepz=7").returncode == 1
    loaded = darkroom(home, "load", "other", "--json")
    assert json.loads(loaded.stdout)["state"] == "ready", loaded.stderr
    models = {model["model"]: model for model in json.loads(darkroom(home, "ps", "--json").stdout)}
    assert models["other"]["settings"]["steps"] == {"requested": 7, "engaged": 7, "reason": ""}
    later = json.loads(darkroom(home, "settings", "other", "steps=9", "pin=true", "--json").stdout)[
        "settings"
    ]
    assert (later["steps"]["engaged"], later["steps"]["reason"]) == (7, "counts from the next load")
    assert later["pin"]["engaged"] is True
    assert not any(setting["pending"] for name, setting in later.items() if name != "steps")
    assert "pinned" in darkroom(home, "ps").stdout
    assert "loading tensors" in darkroom(home, "logs", "other").stdout
    assert darkroom(home, "unload", "other").returncode == 0
    states = {model["model"]: model["state"] for model in json.loads(darkroom(home, "ps", "--json").stdout)}
    assert states["other"] == "absent"


def test_generate(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "out.png"
    drawn = darkroom(served.home, "generate", "other", "a cat", "-o", str(file), "--steps", "2")
    assert drawn.returncode == 0, drawn.stderr
    assert drawn.stdout.strip() == str(file)
    assert Image.open(file).size == (1, 1)
    refused = darkroom(served.home, "generate", "nope", "a cat")
    assert refused.returncode == 1


def test_generate_with_a_pool_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "out.webp"
    drawn = darkroom(tmp_path / "home", "generate", "darkroom", "a cat", "-o", str(file), "--steps", "1")
    assert drawn.returncode == 0, drawn.stderr
    assert Image.open(file).format == "WEBP"


def test_components_doctor_gc_show(served: Served) -> None:
    assert darkroom(served.home, "components", "darkroom").returncode == 0
    checks = json.loads(darkroom(served.home, "doctor", "--json").stdout)["checks"]
    assert {"python", "torch", "ports", "disk"} <= {check["name"] for check in checks}
    assert json.loads(darkroom(served.home, "gc", "--json").stdout)["dry_run"] is True
    shown = json.loads(darkroom(served.home, "show", "other", "--json").stdout)
    assert shown["family"] == "sd1"


def test_import_takes_a_file_in(served: Served, tmp_path: Path) -> None:
    from importlib.resources import files

    model = tmp_path / "mine.gguf"
    model.write_bytes(files("darkroom").joinpath("data/builtin.gguf").read_bytes())
    done = darkroom(served.home, "import", str(model), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["models"] == ["mine"]
    assert darkroom(served.home, "rm", "mine").returncode == 0
    assert model.exists()
    assert darkroom(served.home, "rm", "other").returncode == 1  # a file of the user's own


def test_one_manager_for_a_home(served: Served) -> None:
    second = darkroom(served.home, "serve", "--port", "0")
    assert second.returncode == 1
    assert "runs here already" in second.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_cleanly(tmp_path: Path, number: int) -> None:
    with serving(tmp_path) as running:
        darkroom(tmp_path, "load", "other")
        assert running.sidecars()
        assert running.process
        running.process.send_signal(number)
        assert running.process.wait(timeout=30) == 0
        assert not running.sidecars()


def documented() -> list[list[str]]:
    """Every `darkroom` command in a block of code of the documentation."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    lines = [line for page in pages for line in page.read_text(encoding="utf-8").splitlines()]
    return [
        shlex.split(line, comments=True)[1:]
        for line in lines
        if line.startswith("darkroom ") and "──" not in line
    ]


def test_documented_commands_are_understood() -> None:
    group = typer.main.get_command(app)
    commands = [words for words in documented() if words and words[0] in group.commands]  # type: ignore[attr-defined]
    assert len(commands) > 5
    for name, *rest in commands:
        command = group.commands[name]  # type: ignore[attr-defined]
        while rest and rest[0] in getattr(command, "commands", {}):
            name, *rest = rest
            command = command.commands[name]
        command.make_context(name, rest)
