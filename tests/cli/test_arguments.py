from __future__ import annotations

from pathlib import Path

import pytest

from darkroom.api.names import Mode, RngType, SampleMethod, Scheduler
from darkroom.cli.arguments import OPTIONS, Arguments, UsageError, options_of, parse
from darkroom.cli.help import usage_error_text
from darkroom.cli.options import SECTIONS


def refused(*argv: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse(argv)
    return str(caught.value)


def request_of(*argv: str) -> object:
    return parse(argv).request


def test_every_kind_of_value_is_read() -> None:
    line = (
        "-p cat -n dog -W 320 -H 256 --steps 8 --cfg-scale 5.5 --eta 0.5 --sampling-method dpm++2m "
        "--scheduler karras --strength 0.4 -s -1 -b 3 --clip-skip -1 -t 2 --rng cpu --vae v.safetensors "
        "-v -o x.jpg --mmap --list-devices --disable-image-metadata"
    )
    arguments: Arguments = parse(line.split())
    request, config = arguments.request, arguments.config
    assert (request.prompt, request.negative_prompt) == ("cat", "dog")
    assert (request.width, request.height, request.steps, request.batch_count) == (320, 256, 8, 3)
    assert (request.cfg_scale, request.eta, request.strength) == (5.5, 0.5, 0.4)
    assert (request.sampling_method, request.scheduler) == (SampleMethod.DPMPP_2M, Scheduler.KARRAS)
    assert (request.seed, request.clip_skip) == (-1, -1)
    assert (config.threads, config.rng, config.vae) == (2, RngType.CPU, Path("v.safetensors"))
    assert (arguments.cli.verbose, arguments.cli.output, arguments.cli.mode) == (True, "x.jpg", Mode.IMG_GEN)
    assert arguments.context.list_devices
    assert arguments.picture.disable_image_metadata


def test_what_is_not_given_keeps_its_default() -> None:
    request = parse(["-p", "x"]).request
    assert (request.width, request.steps, request.seed, request.strength) == (None, None, 42, 0.75)


def test_a_value_may_begin_with_a_dash() -> None:
    assert parse(["-p", "-n"]).request.prompt == "-n"
    assert parse(["-p", "--help"]).request.prompt == "--help"


def test_the_last_value_wins() -> None:
    assert parse(["--steps", "3", "--steps", "4"]).request.steps == 4


def test_lists_are_joined() -> None:
    line = "--backend te=cpu --extra-sample-args a=1 --backend cuda0 --params-backend disk"
    line += " --extra-sample-args b=2"
    arguments = parse(line.split())
    assert arguments.config.backend == "te=cpu,cuda0"
    assert arguments.config.params_backend == "disk"
    assert arguments.request.extra_sample_args == "a=1,b=2"


def test_normal_is_another_name_of_discrete() -> None:
    assert parse(["--scheduler", "normal"]).request.scheduler is Scheduler.DISCRETE


@pytest.mark.parametrize("text", ["14.6,7.8,0", "[14.6, 7.8,0 ]", " 14.6 ,7.8,,0"])
def test_sigmas_are_a_list(text: str) -> None:
    assert parse(["--sigmas", text]).request.sigmas == (14.6, 7.8, 0)


@pytest.mark.parametrize("token", ["--stpes", "--step", "--steps=3", "-vb", "cat", "", "-"])
def test_unknown_arguments(token: str) -> None:
    assert refused(token, "3") == f"unknown argument: {token}"


def test_the_option_that_was_meant_is_named() -> None:
    with pytest.raises(UsageError) as caught:
        parse(["--stpes", "3"])
    assert "Did you mean --steps?" in usage_error_text(caught.value)
    with pytest.raises(UsageError) as caught:
        parse(["--steps=3"])
    assert "--steps 3" in usage_error_text(caught.value)


@pytest.mark.parametrize(
    "argv",
    [
        ("--steps",),
        ("--steps", "many"),
        ("--steps", "0"),
        ("--steps", "2.5"),
        ("--steps", ""),
        ("--steps", "1_0"),
        ("--steps", "9" * 5000),
        ("-W", "-8"),
        ("-W", "0"),
        ("-H", "1e3"),
        ("-s", str(2**63)),
        ("-s", "abc"),
        ("-b", "0"),
        ("-b", "-1"),
        ("--cfg-scale", "-1"),
        ("--cfg-scale", "nan"),
        ("--cfg-scale", "inf"),
        ("--cfg-scale", "1e307"),
        ("--strength", "1.5"),
        ("--eta", "x"),
        ("--sigmas", "1"),
        ("--sigmas", "1,x"),
        ("--sigmas", ""),
        ("--timestep-shift", "1001"),
        ("--output-begin-idx", "-1"),
        ("-m", ""),
        ("-t", "two"),
        ("--vae-tile-size", "32x"),
        ("--vae-tile-size", "1.5"),
        ("--vae-tile-size", "32x32x32"),
        ("--vae-relative-tile-size", "half"),
        ("--vae-tile-overlap", "nan"),
        ("-t", "100000"),
    ],
)
def test_values_that_cannot_be(argv: tuple[str, ...]) -> None:
    message = refused("-p", "x", *argv)
    assert message.startswith(f"invalid parameter for argument: {argv[0]}: ")
    assert "expected a" in message


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--rng", "invalid rng type none_such, must be one of [std_default, cuda, cpu]"),
        ("--sampler-rng", "invalid sampler rng type none_such, must be one of [std_default, cuda, cpu]"),
        ("--prediction", "invalid prediction type none_such, must be one of [eps, v, "),
        ("--sampling-method", "invalid sample method none_such, must be one of [euler, euler_a, "),
        ("--scheduler", "invalid scheduler none_such, must be one of [discrete, karras, "),
        ("--compute-type", "invalid compute type none_such, must be one of [auto, f32, bf16, f16]"),
        ("--mode", "invalid mode none_such, must be one of [img_gen, convert, metadata]"),
        ("--metadata-format", "invalid metadata format none_such, must be one of [text, json]"),
    ],
)
def test_wrong_names_list_the_right_ones(option: str, message: str) -> None:
    assert refused(option, "none_such").startswith(message)


def test_a_prompt_can_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_bytes("\ufeffein Käfer\r\n".encode())
    request = parse(["-p", "x", "--prompt-file", str(file), "--negative-prompt-file", str(file)]).request
    assert (request.prompt, request.negative_prompt) == ("ein Käfer", "ein Käfer")


def test_a_prompt_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert refused("--prompt-file", "no-such") == (
        "failed to read prompt file 'no-such': No such file or directory"
    )
    binary = tmp_path / "b"
    binary.write_bytes(b"\xff\xfe\xff")
    assert refused("--negative-prompt-file", str(binary)).startswith("failed to read negative prompt file")


def test_required_arguments() -> None:
    assert refused() == "the following arguments are required: prompt (-p)"
    assert refused("-p", "x", "-o", "") == "the following arguments are required: output_path (-o)"
    assert refused("-M", "metadata") == "metadata mode needs an image path (--image)"


def test_help_and_version_end_the_reading_where_they_stand() -> None:
    assert parse(["-p", "x", "-h", "--no-such"]).cli.help
    assert parse(["--version", "--no-such"]).cli.version
    assert refused("--no-such", "-h") == "unknown argument: --no-such"


def test_bytes_that_are_no_utf8_do_not_reach_the_tokenizer_as_surrogates() -> None:
    assert parse(["-p", "caf\udce9"]).request.prompt == "caf\ufffd"


def test_no_option_of_a_later_capability_is_there() -> None:
    later = "--lora-model-dir --control-net --upscale-model --hires"
    assert not set(later.split()) & set(OPTIONS)


def test_no_spelling_is_taken_twice() -> None:
    flags = [option.flag for section in SECTIONS for option in options_of(section)]
    assert sum(len(flag.names + flag.file_names + flag.aliases) for flag in flags) == len(OPTIONS)


def test_spellings_of_stable_diffusion_cpp() -> None:
    theirs = (
        "-o --output -M --mode --output-begin-idx --image --metadata-format --metadata-raw "
        "--metadata-brief --metadata-all -v --verbose --color -h --help -m --model --vae --embd-dir "
        "--backend --split-mode --params-backend --offload-to-cpu --clip-on-cpu --vae-on-cpu "
        "--control-net-cpu --eager-load --mmap --fa --diffusion-fa --diffusion-conv-direct "
        "--vae-conv-direct -t --threads "
        "--rng --sampler-rng --prediction --list-devices -p --prompt -n --negative-prompt --prompt-file "
        "--negative-prompt-file -i --init-img --mask -W --width -H --height --steps --cfg-scale --eta "
        "--timestep-shift --sampling-method --scheduler --sigmas -s --seed -b --batch-count --clip-skip "
        "--strength --extra-sample-args --disable-image-metadata "
        "--vae-tiling --vae-tile-size --vae-relative-tile-size --vae-tile-overlap"
    )
    assert set(theirs.split()) <= set(OPTIONS)


def test_tiles_have_two_sides() -> None:
    line = "-p x --vae-tiling --vae-tile-size 48 --vae-relative-tile-size 0.5x3 --vae-tile-overlap 0.25"
    request = parse(line.split()).request
    assert request.vae_tiling
    assert (request.vae_tile_size, request.vae_relative_tile_size) == ((48, 48), (0.5, 3.0))
    assert parse(["-p", "x", "--vae-tile-size", "32x64"]).request.vae_tile_size == (32, 64)
    assert not parse(["-p", "x"]).request.vae_tiling


def test_reference_images_are_a_list() -> None:
    arguments = parse(["-p", "x", "-r", "a.png", "--ref-image", "b.png"])
    assert arguments.request.ref_images == (Path("a.png"), Path("b.png"))


def test_older_spellings_are_taken() -> None:
    assert parse(["-p", "x", "--qwen2vl", "a.gguf"]).config.llm == Path("a.gguf")
