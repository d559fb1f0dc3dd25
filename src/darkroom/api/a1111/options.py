"""A1111's settings, as far as they mean something here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from darkroom.api.errors import RequestError


class Options(BaseModel):
    """The settings that can be changed. They last until the server ends; null leaves the choice to the model.

    samples_format: of finished pictures. jpeg_quality: of JPEG and WebP.
    enable_pnginfo: whether pictures carry their `parameters` text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples_format: Literal["png", "jpeg", "jpg", "webp"] = "png"
    jpeg_quality: Annotated[int, Field(ge=0, le=100)] = 80
    enable_pnginfo: bool = True
    CLIP_stop_at_last_layers: Annotated[int, Field(ge=0, le=12)] | None = None
    eta_ancestral: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    eta_ddim: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    live_previews_enable: bool = True
    show_progress_every_n_steps: Annotated[int, Field(ge=1, le=10_000)] = 1

    def changed(self, wishes: Mapping[str, Any], fixed: Mapping[str, Any], subject: str) -> Options:
        """These options with `wishes` granted; null says nothing.

        fixed: what cannot be changed here and how it is; a wish for just that is granted.
        Raises RequestError that names the first setting which cannot be.
        """
        said = {name: value for name, value in wishes.items() if value is not None}
        for name, value in said.items():
            if name in fixed and value != fixed[name]:
                raise RequestError(
                    f"{subject}: {name} is {fixed[name]!r} and cannot be changed to {value!r} here"
                )
            if name not in fixed and name not in Options.model_fields:
                names = ", ".join((*Options.model_fields, *fixed))
                raise RequestError(f"{subject}: this server has no setting '{name}'; it has {names}")
        chosen = {name: value for name, value in said.items() if name not in fixed}
        try:
            return Options.model_validate(self.model_dump() | chosen)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise RequestError(f"{subject}: {first['loc'][0]}: {first['msg']}") from None
