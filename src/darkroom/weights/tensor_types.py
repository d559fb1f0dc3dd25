"""Which type each weight gets when a model is requantized: stable-diffusion.cpp's rules."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

from darkroom.api.errors import RequestError
from darkroom.api.names import WeightType
from darkroom.quant import fp8
from darkroom.quant.gguf import BLOCK_TYPES
from darkroom.weights.index import TensorInfo

logger = logging.getLogger(__name__)

FLOATS = ("f64", "f32", "f16", "bf16", *fp8.DTYPES)

KEPT_ENDINGS = (".bias", ".scale", ".weight_scale")
KEPT_PARTS = (
    # Flux
    "img_in.", "txt_in.", "time_in.", "vector_in.", "guidance_in.", "final_layer.",
    # Stable Diffusion 3
    "x_embedder.", "t_embedder.", "y_embedder.", "pos_embed", "context_embedder.",
    # UNets
    "time_embed.", "label_emb.",
    "embedding",
)  # fmt: skip
"""Parts of names of tensors that are small and sensitive; they keep the type that they have."""


@dataclass(frozen=True)
class TypeRules:
    """What --type and --tensor-type-rules say.

    default: the type of weights that no rule is about, None to leave them as they are. rules: the first whose
    pattern is found in a tensor's name decides. Types are those of `TensorInfo.dtype`.
    """

    default: str | None = None
    rules: tuple[tuple[re.Pattern[str], str], ...] = ()

    @classmethod
    def parse(cls, type: WeightType | None, rules: str) -> TypeRules:
        """rules: `pattern=type` items with commas between them. Raises RequestError for a broken pattern.

        An item that is no rule, or whose type cannot be written, is named in a warning and left out.
        """
        parsed = []
        for item in filter(None, rules.split(",")):
            pattern, equals, name = item.partition("=")
            try:
                wanted = WeightType(name)
            except ValueError:
                wanted = None
            if not equals or wanted is None:
                logger.warning('ignoring invalid quant override "%s"', item)
                continue
            try:
                parsed.append((re.compile(pattern), wanted.dtype))
            except re.error as error:
                raise RequestError(
                    f"--tensor-type-rules: '{pattern}' is no regular expression ({error}); "
                    r'expected pattern=type, for example "^vae\.=f16"'
                ) from None
        return cls(None if type is None else type.dtype, tuple(parsed))

    def __bool__(self) -> bool:
        return self.default is not None or bool(self.rules)

    @property
    def types(self) -> frozenset[str]:
        """Every type that is asked for."""
        return frozenset(wanted for wanted in (self.default, *(rule[1] for rule in self.rules)) if wanted)

    def wanted(self, info: TensorInfo) -> str:
        """The type that this tensor is to have: its own, if it is none to convert."""
        rule = (wanted for pattern, wanted in self.rules if pattern.search(info.name))
        wanted = next(rule, self.default)
        return wanted if wanted is not None and _may_become(info, wanted) else info.dtype


def _may_become(info: TensorInfo, wanted: str) -> bool:
    if info.dtype not in FLOATS and info.dtype not in BLOCK_TYPES:
        return False
    if info.name.endswith(KEPT_ENDINGS) or any(part in info.name for part in KEPT_PARTS):
        return False
    block = BLOCK_TYPES.get(wanted)
    return block is None or (len(info.shape) > 0 and info.shape[-1] % block.elements == 0)
