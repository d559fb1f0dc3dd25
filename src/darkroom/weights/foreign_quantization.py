"""Quantizations of other programs, told by the tensors that they put beside the weights; none is read."""

from __future__ import annotations

import re

from darkroom.api.errors import CheckpointError
from darkroom.weights.index import TensorIndex

# Whose quantization the end of a name tells of; the more telling come first.
_MARKS = {
    "bitsandbytes' 4 bits (nf4 or fp4)": r"quant_state\.bitsandbytes__\w+|(?:nested_)?(?:absmax|quant_map)",
    "bitsandbytes' 8 bits": r"SCB",
    "SVDQuant (Nunchaku)": r"wscales|wcscales|wtscale",
    "NVFP4": r"weight_scale_2",
    "fp8 with scales for blocks": r"weight_scale_inv",
    "GPTQ or AWQ": r"qweight|qzeros",
    "optimum-quanto": r"weight\._data",
}
_ENDINGS = {title: re.compile(rf"\.(?:{ending})\Z") for title, ending in _MARKS.items()}
_ANY = re.compile(rf"\.(?:{'|'.join(_MARKS.values())})\Z")


def refuse_foreign_quantization(index: TensorIndex, subject: str) -> None:
    """Raises CheckpointError, with `subject` in front, for weights that only another program can unpack."""
    marks = [name for name in index if _ANY.search(name)]
    for title, ending in _ENDINGS.items():
        if mark := next((name for name in marks if ending.search(name)), None):
            raise CheckpointError(
                f"{subject}: its weights are quantized as {title}, which is not read (tensor {mark!r}); "
                "the same model in bf16, fp16, fp8 (plain or scaled) or GGUF is needed"
            )
