"""Mode img_gen: check everything that can be checked, load, draw, save."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from PIL.Image import Image

from darkroom.api.config import EngineConfig, check_files
from darkroom.api.errors import RequestError
from darkroom.api.names import PreviewMode
from darkroom.api.request import GenerationRequest
from darkroom.api.result import GenerationResult, OnPreview, OnProgress, Preview, Progress
from darkroom.cli.arguments import Arguments
from darkroom.cli.console import Console
from darkroom.cli.interrupt import Interrupt
from darkroom.cli.output import check_writable, output_paths, preview_path, write_atomically
from darkroom.cli.progress import progress_for
from darkroom.core.image_files import ImageFormat, encode_image
from darkroom.runtime.assignment import Assignments

logger = logging.getLogger(__name__)


def generate(arguments: Arguments, console: Console, interrupt: Interrupt) -> None:
    """Draws the pictures of the request and saves them. Raises DarkroomError, Cancelled on Ctrl+C."""
    request = arguments.request
    paths = output_paths(arguments.cli.output, request.batch_count, arguments.cli.output_begin_idx)
    check_writable(paths)
    on_preview = preview_file(arguments)
    Assignments.of(arguments.config)
    check_files(arguments.config)
    request = _with_pictures(request)
    show = progress_for(console, phases_are_logged=arguments.cli.verbose)
    tell = _nothing if arguments.cli.verbose else console.line  # what is logged is not said twice
    result = _draw(arguments.config, request, show, interrupt, on_preview, tell)
    interrupt.check()
    _save(result, paths, not arguments.picture.disable_image_metadata, console)


def _draw(
    config: EngineConfig,
    request: GenerationRequest,
    show: OnProgress,
    interrupt: Interrupt,
    on_preview: OnPreview | None,
    tell: Callable[[str], None],
) -> GenerationResult:
    start = time.perf_counter()
    from darkroom.engine.engine import Engine  # torch and all that is heavy

    logger.debug("import: %.2f s", time.perf_counter() - start)

    def on_progress(progress: Progress) -> None:
        interrupt.check()
        show(progress)

    interrupt.check()
    with Engine.load(config, on_progress=on_progress) as engine:
        for line in engine.fit.lines() if engine.fit else ():
            tell(line)
        return engine.generate(request, on_progress, interrupt, on_preview)


def preview_file(arguments: Arguments) -> OnPreview | None:
    """Writes previews where they are to be, each in the place of the one before; None where none are wanted.

    Raises RequestError where that cannot be. A preview that cannot be written later on ends no picture.
    """
    if arguments.request.preview is PreviewMode.NONE:
        return None
    path = preview_path(arguments.cli.preview_path)
    check_writable([path], flag="--preview-path")
    image_format = ImageFormat.of(path) or ImageFormat.PNG

    def write(preview: Preview) -> None:
        try:
            write_atomically(path, encode_image(preview.image, image_format))
        except RequestError as error:
            logger.warning("%s", str(error).replace("--output", "--preview-path", 1))

    return write


def _nothing(line: str) -> None:
    """Nobody is told."""


def _with_pictures(request: GenerationRequest) -> GenerationRequest:
    """The request with its image files opened, so that a bad one is named at once."""
    if request.mask_image is not None and request.init_image is None:
        raise RequestError("--mask: a mask needs the image it belongs to; add --init-img")
    if request.init_image is None and not request.ref_images:
        return request
    from darkroom.core.images import load_image, load_mask  # numpy

    references = tuple(load_image(image, "--ref-image") for image in request.ref_images)
    opened: dict[str, Image | tuple[Image, ...]] = {"ref_images": references}
    if request.init_image is not None:
        opened["init_image"] = load_image(request.init_image, "--init-img")
    if request.mask_image is not None:
        opened["mask_image"] = load_mask(request.mask_image, "--mask")
    return request.model_copy(update=opened)


def _save(result: GenerationResult, paths: list[Path], with_infotext: bool, console: Console) -> None:
    for i, (path, image, seed) in enumerate(zip(paths, result.images, result.seeds, strict=True)):
        start = time.perf_counter()
        infotext = result.infotexts[i] if with_infotext and result.infotexts else ""
        data = encode_image(image, ImageFormat.of(path) or ImageFormat.PNG, infotext)
        write_atomically(path, data)
        logger.info("save: %s, %d bytes, %.2f s", path, len(data), time.perf_counter() - start)
        console.line(f"saved {path} ({image.width}x{image.height}, seed {seed})")
