"""`<sd_cpp_extra_args>` in the prompts of the other APIs: the native request inside them."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from darkroom.api.errors import RequestError
from darkroom.api.extra_args import NAME, split_extra_args
from darkroom.api.native import NativeRequest
from darkroom.server.errors import InvalidField
from darkroom.server.pictures import read_picture


def take_extra_args(prompt: str) -> tuple[str, NativeRequest]:
    """The prompt without its block, and what the block asks for; nothing where there is none.

    Raises InvalidField for a block that is no native request or asks for what cannot be. Pictures in it are
    base64; nothing in it names a file of this machine.
    """
    try:
        rest, given = split_extra_args(prompt)
        request = NativeRequest.model_validate(given)
        request.require_possible()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidField(f"invalid {NAME}: {where}: {first['msg']}", param="prompt") from None
    except RequestError as error:
        text = str(error) if str(error).startswith("invalid") else f"invalid {NAME}: {error}"
        raise InvalidField(text, param="prompt") from None
    return rest, request


def fields_of(request: NativeRequest) -> dict[str, Any]:
    """The fields of GenerationRequest that were given, pictures decoded; not for the event loop's thread.

    Raises RequestError for what cannot be, and for pictures that are none.
    """
    fields = request.fields()
    if request.init_image:
        fields["init_image"] = read_picture(request.init_image, "init_image")
    if request.mask_image:
        fields["mask_image"] = read_picture(request.mask_image, "mask_image", mask=True)
    if request.ref_images:
        pictures = enumerate(request.ref_images)
        fields["ref_images"] = tuple(read_picture(data, f"ref_images[{i}]") for i, data in pictures)
    return fields
