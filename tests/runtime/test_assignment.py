"""The grammar of --backend and --params-backend, as docs/backends.md tells it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.api.config import EngineConfig
from darkroom.api.errors import PlacementError
from darkroom.api.names import MODULE_ALIASES, Module, SplitMode
from darkroom.runtime.assignment import Assignment, Assignments, device_list, split_mode

DEVICE_NAMES = st.from_regex(r"[a-zA-Z]{1,8}[0-9]{0,2}", fullmatch=True)
BLANKS = st.text(" \t", max_size=2)


def test_single_name_is_for_every_module() -> None:
    assignment = Assignment.parse("cpu")
    assert {assignment.get(module) for module in Module} == {"cpu"}


def test_modules_are_assigned_one_by_one() -> None:
    assignment = Assignment.parse("te=cpu,vae=cuda0,diffusion=vulkan0")
    assert assignment.modules == {Module.TE: "cpu", Module.VAE: "cuda0", Module.DIFFUSION: "vulkan0"}
    assert assignment.get(Module.UPSCALER) == ""


@pytest.mark.parametrize("key", ["all", "default", "*", "ALL", "Default"])
def test_default_inside_a_mixed_assignment(key: str) -> None:
    assignment = Assignment.parse(f"{key}=cuda0,te=cpu")
    assert assignment.get(Module.TE) == "cpu"
    assert assignment.get(Module.VAE) == "cuda0"


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (Module.DIFFUSION, "diffusion model unet dit"),
        (Module.TE, "te clip text textencoder textencoders conditioner cond llm t5 t5xxl"),
        (Module.CLIP_VISION, "clip_vision clipvision clip-vision vision"),
        (Module.VAE, "vae firststage autoencoder tae"),
        (Module.CONTROLNET, "controlnet control"),
        (Module.PHOTOMAKER, "photomaker photomakerid pmid photo"),
        (Module.UPSCALER, "upscaler esrgan hires"),
        (Module.DETECTOR, "detector adetailer yolo"),
    ],
)
def test_accepted_names_of_a_module(module: Module, names: str) -> None:
    for name in names.split():
        assert Assignment.parse(f"{name}=cpu").modules == {module: "cpu"}


@given(st.data())
def test_case_hyphens_and_underscores_of_a_module_name_do_not_matter(data: st.DataObject) -> None:
    alias = data.draw(st.sampled_from(sorted(MODULE_ALIASES)))
    spelled = "".join(
        data.draw(st.sampled_from(["", "-", "_"])) + data.draw(st.sampled_from([letter, letter.upper()]))
        for letter in alias
    )
    assert Assignment.parse(f"{spelled}=cuda0").modules == {MODULE_ALIASES[alias]: "cuda0"}


@given(DEVICE_NAMES | st.just(""), st.dictionaries(st.sampled_from(Module), DEVICE_NAMES))
def test_what_is_written_is_read_back(default: str, modules: dict[Module, str]) -> None:
    assignment = Assignment("--backend", default, modules)
    assert Assignment.parse(str(assignment)) == assignment


@given(st.lists(st.tuples(st.sampled_from(Module), DEVICE_NAMES), min_size=1), BLANKS, BLANKS)
def test_last_word_about_a_module_holds(pairs: list[tuple[Module, str]], before: str, after: str) -> None:
    text = ",".join(f"{before}{module}{after}={before}{name}{after}" for module, name in pairs)
    assert Assignment.parse(text).modules == dict(pairs)


@given(st.lists(DEVICE_NAMES, min_size=1))
def test_last_default_holds(names: list[str]) -> None:
    assert Assignment.parse(",".join(names)).default == names[-1]


@given(st.text(max_size=30))
def test_any_text_is_either_read_or_refused(text: str) -> None:
    try:
        assignment = Assignment.parse(text)
    except PlacementError:
        return
    assert Assignment.parse(str(assignment)) == assignment


def test_empty_parts_are_skipped() -> None:
    assert Assignment.parse(" , te=cpu,, ") == Assignment.parse("te=cpu")


@pytest.mark.parametrize("part", ["te=", "=cpu", "=", "te= "])
def test_half_an_assignment(part: str) -> None:
    with pytest.raises(PlacementError) as error:
        Assignment.parse(f"vae=cpu, {part}")
    assert str(error.value) == (
        f"--backend: invalid backend assignment '{part.strip()}'; write module=device, for example te=cpu"
    )


def test_unknown_module_is_quoted_as_written() -> None:
    with pytest.raises(PlacementError) as error:
        Assignment.parse(" Tokenizer = cpu", "--params-backend")
    assert str(error.value) == (
        "--params-backend: unknown backend module 'Tokenizer'; known: diffusion, te, clip_vision, vae, "
        "controlnet, photomaker, upscaler, detector, and all, default or * for the rest"
    )


def test_disk_is_no_place_to_run() -> None:
    with pytest.raises(
        PlacementError, match=r"^--backend: backend 'disk' is only supported by params_backend; "
    ):
        Assignments.of(EngineConfig(backend="te=DISK"))


def test_disk_is_a_place_for_weights() -> None:
    assert Assignments.of(EngineConfig(params_backend="te=disk")).params.get(Module.TE) == "disk"


def test_device_list_to_run_on() -> None:
    runtime = Assignments.of(EngineConfig(backend="diffusion= cuda0 & cuda1 &,te=cpu")).runtime
    assert device_list(runtime.get(Module.DIFFUSION)) == ["cuda0", "cuda1"]
    assert device_list(runtime.get(Module.TE)) == ["cpu"]


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("te=&", "--backend: invalid backend device list '&'; write cuda0&cuda1, for example"),
        (
            "a&Auto",
            "--backend: default backend token is not allowed in a device list 'a&Auto'; name each device",
        ),
        (
            "te=a&disk",
            "--backend: backend 'disk' is only supported by params_backend; write --params-backend disk to "
            "leave weights in the file",
        ),
    ],
)
def test_device_lists_that_are_none(backend: str, message: str) -> None:
    with pytest.raises(PlacementError) as error:
        Assignments.of(EngineConfig(backend=backend))
    assert str(error.value) == message


def test_split_mode_is_said_as_backends_are() -> None:
    split = Assignments.of(EngineConfig(split_mode="Row,te=layer")).split
    assert split_mode(split.get(Module.DIFFUSION)) is SplitMode.ROW
    assert split_mode(split.get(Module.TE)) is SplitMode.LAYER
    assert split_mode(Assignment.parse("").get(Module.TE)) is SplitMode.LAYER


def test_split_mode_that_is_none() -> None:
    with pytest.raises(PlacementError) as error:
        Assignments.of(EngineConfig(split_mode="diffusion=rows"))
    assert str(error.value) == "--split-mode: invalid split mode 'rows' (expected layer or row)"
    with pytest.raises(PlacementError, match=r"^--split-mode: unknown backend module 'x'; "):
        Assignments.of(EngineConfig(split_mode="x=row"))


def test_device_list_for_weights() -> None:
    with pytest.raises(PlacementError) as error:
        Assignments.of(EngineConfig(params_backend="cpu&disk"))
    assert str(error.value) == (
        "--params-backend: params_backend does not accept device lists ('cpu&disk'); name one device or disk"
    )


@pytest.mark.parametrize(
    ("backend", "params_backend", "complaint"),
    [
        ("te=", "nothing=cpu", "--backend: invalid"),
        ("te=disk", "nothing=cpu", "--params-backend: unknown"),
        ("te=disk", "cpu&cpu", "--params-backend: params_backend"),
        ("vae=disk,diffusion=a&auto", "te=a&b", "--backend: default backend token"),
    ],
    ids=["grammar first", "grammar of both flags", "defaults before modules", "modules in their order"],
)
def test_first_of_several_mistakes_is_reported(backend: str, params_backend: str, complaint: str) -> None:
    with pytest.raises(PlacementError, match=f"^{complaint}"):
        Assignments.of(EngineConfig(backend=backend, params_backend=params_backend))


def test_old_flags_are_assignments() -> None:
    config = EngineConfig(clip_on_cpu=True, vae_on_cpu=True, control_net_cpu=True, offload_to_cpu=True)
    runtime, params, _ = Assignments.of(config)
    assert runtime == Assignment.parse("te=cpu,vae=cpu,controlnet=cpu", "--backend")
    assert params == Assignment.parse("cpu", "--params-backend")


def test_old_runtime_flags_do_not_count_beside_backend() -> None:
    config = EngineConfig(backend="diffusion=cuda0", clip_on_cpu=True, vae_on_cpu=True, control_net_cpu=True)
    assert Assignments.of(config).runtime == Assignment.parse("diffusion=cuda0")


def test_offload_to_cpu_does_not_count_beside_params_backend() -> None:
    config = EngineConfig(params_backend="te=disk", offload_to_cpu=True)
    assert Assignments.of(config).params == Assignment.parse("te=disk", "--params-backend")


def test_each_old_flag_looks_at_its_own_new_one() -> None:
    config = EngineConfig(backend="cuda0", clip_on_cpu=True, offload_to_cpu=True)
    runtime, params, _ = Assignments.of(config)
    assert (runtime.get(Module.TE), params.get(Module.TE)) == ("cuda0", "cpu")


def test_mistakes_are_found_without_torch() -> None:
    script = (
        "import sys; from darkroom.api.config import EngineConfig; "
        "from darkroom.runtime.assignment import Assignments; import darkroom.runtime.devices; "
        "Assignments.of(EngineConfig(backend='te=cpu')); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
