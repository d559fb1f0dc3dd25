"""Mode convert: model files into one file of other types."""

from __future__ import annotations

from pathlib import Path

from darkroom.api.config import EngineConfig, check_files
from darkroom.api.errors import Cancelled, DarkroomError
from darkroom.api.result import Progress
from darkroom.cli.arguments import Arguments
from darkroom.cli.console import Console
from darkroom.cli.interrupt import Interrupt
from darkroom.cli.options import CliOptions
from darkroom.cli.output import check_writable
from darkroom.cli.progress import progress_for

DEFAULT_OUTPUT = "output.gguf"


def convert(arguments: Arguments, console: Console, interrupt: Interrupt) -> None:
    """Writes `--output` from the model files. Raises DarkroomError, Cancelled on Ctrl+C."""
    config = arguments.config
    output = Path(output_name(arguments.cli))
    names = f"convert '{_name(config)}'/'{config.vae or ''}' to '{output}'"
    try:
        check_writable([output], "a model")
        check_files(config)
        _convert(config, output, arguments.cli.convert_name, console, interrupt)
    except Cancelled:
        raise
    except DarkroomError:
        console.settle()
        console.line(f"{names} failed")
        raise
    console.line(f"{names} success")


def output_name(cli: CliOptions) -> str:
    """Where the model goes; the default name of a picture is none for a model."""
    return DEFAULT_OUTPUT if cli.output == CliOptions.model_fields["output"].default else cli.output


def _convert(
    config: EngineConfig, output: Path, native_names: bool, console: Console, interrupt: Interrupt
) -> None:
    from darkroom.engine.convert import convert_model, describe  # torch

    show = progress_for(console)

    def on_progress(progress: Progress) -> None:
        interrupt.check()
        show(progress)

    conversion = convert_model(
        config, output, native_names=native_names, on_progress=on_progress, is_cancelled=interrupt
    )
    console.line(describe(conversion))


def _name(config: EngineConfig) -> Path | str:
    return next(iter(config.files.values()), "")
