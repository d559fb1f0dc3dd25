"""sd-cli's own options, and the sections of its help. The others are declared in api/."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from darkroom.api.arguments import Section
from darkroom.api.config import EngineConfig
from darkroom.api.names import Mode
from darkroom.api.options import opt
from darkroom.api.request import GenerationRequest
from darkroom.api.switches import ContextSwitches, PictureSwitches


class MetadataFormat(StrEnum):
    """How `-M metadata` prints."""

    TEXT = "text"
    JSON = "json"


class CliOptions(BaseModel):
    """What one run of sd-cli does with its picture and its terminal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str = opt(
        "output.png",
        "path of the picture; %d or %03d in it becomes the number of the image; .png, .jpg and .webp choose "
        "the format, .png is added to any other name (default: output.png). Convert mode: path of the model, "
        ".gguf or .safetensors (default: output.gguf)",
        "-o",
        "--output",
        metavar="PATH",
    )
    mode: Mode = opt(Mode.IMG_GEN, "run mode", "-M", "--mode", metavar="MODE", label="mode")
    output_begin_idx: int = opt(0, "number of the first image", "--output-begin-idx", metavar="N", ge=0)
    preview_path: str = opt(
        "preview.png",
        "where previews are written, each in the place of the one before (default: preview.png)",
        "--preview-path",
        metavar="PATH",
    )
    image: Path | None = opt(None, "picture to inspect in metadata mode", "--image", metavar="PATH")
    metadata_format: MetadataFormat = opt(
        MetadataFormat.TEXT,
        "output of metadata mode",
        "--metadata-format",
        metavar="FORMAT",
        label="metadata format",
    )
    metadata_raw: bool = opt(
        False, "metadata mode: show the first bytes of what is not understood", "--metadata-raw"
    )
    metadata_brief: bool = opt(False, "metadata mode: cut long texts short", "--metadata-brief")
    metadata_all: bool = opt(
        False, "metadata mode: also list the parts of the file that hold no metadata", "--metadata-all"
    )
    convert_name: bool = opt(
        False,
        "convert mode: give tensors the names that their model's authors gave them",
        "--convert-name",
    )
    verbose: bool = opt(False, "log each phase with its seconds and bytes", "-v", "--verbose")
    color: bool = opt(False, "colour the tags of log lines", "--color")
    version: bool = opt(False, "print the version and exit", "--version")
    help: bool = opt(False, "show this help and exit", "-h", "--help")


SECTIONS = (
    Section("CLI Options", (CliOptions,)),
    Section("Context Options", (EngineConfig, ContextSwitches)),
    Section("Generation Options", (GenerationRequest, PictureSwitches)),
)
