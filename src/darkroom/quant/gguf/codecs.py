"""GGUF block types by name, and conversion of whole tensors in chunks that stay in the processor's cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from darkroom.quant.gguf import encode_k, encode_legacy, encode_small, iq, k, legacy, small

Codec = Callable[[Tensor], Tensor]

CHUNK = 1 << 18
"""Elements at a time: 1 MiB of float32 and temporaries of that order, whatever the tensor's size."""

THREADS = 8
"""As many work on so few: torch gives each no less than 2^15."""


@dataclass(frozen=True)
class BlockType:
    """elements: weights in a block. nbytes: its size. decode: uint8 (n, nbytes) -> float32 (n, elements).

    scales: bytes of a block at which the float16 stand that all its weights depend on.
    """

    elements: int
    nbytes: int
    decode: Codec
    scales: tuple[int, ...] = (0,)

    def size(self, numel: int) -> int:
        """Bytes of `numel` weights, which must be whole blocks."""
        return numel // self.elements * self.nbytes


BLOCK_TYPES: dict[str, BlockType] = {
    "q1_0": BlockType(128, 18, legacy.decode_q1_0),
    "q4_0": BlockType(32, 18, legacy.decode_q4_0),
    "q4_1": BlockType(32, 20, legacy.decode_q4_1, (0, 2)),
    "q5_0": BlockType(32, 22, legacy.decode_q5_0),
    "q5_1": BlockType(32, 24, legacy.decode_q5_1, (0, 2)),
    "q8_0": BlockType(32, 34, legacy.decode_q8_0),
    "q2_k": BlockType(256, 84, k.decode_q2_k, (80, 82)),
    "q3_k": BlockType(256, 110, k.decode_q3_k, (108,)),
    "q4_k": BlockType(256, 144, k.decode_q4_k, (0, 2)),
    "q5_k": BlockType(256, 176, k.decode_q5_k, (0, 2)),
    "q6_k": BlockType(256, 210, k.decode_q6_k, (208,)),
    "iq1_s": BlockType(256, 50, iq.decode_iq1_s),
    "iq1_m": BlockType(256, 56, iq.decode_iq1_m, ()),
    "iq2_xxs": BlockType(256, 66, iq.decode_iq2_xxs),
    "iq2_xs": BlockType(256, 74, iq.decode_iq2_xs),
    "iq2_s": BlockType(256, 82, iq.decode_iq2_s),
    "iq3_xxs": BlockType(256, 98, iq.decode_iq3_xxs),
    "iq3_s": BlockType(256, 110, iq.decode_iq3_s),
    "iq4_nl": BlockType(32, 18, small.decode_iq4_nl),
    "iq4_xs": BlockType(256, 136, small.decode_iq4_xs),
    "tq1_0": BlockType(256, 54, small.decode_tq1_0, (52,)),
    "tq2_0": BlockType(256, 66, small.decode_tq2_0, (64,)),
    "mxfp4": BlockType(32, 17, small.decode_mxfp4, ()),
    "nvfp4": BlockType(64, 36, small.decode_nvfp4, ()),
}

ENCODERS: dict[str, Codec] = {
    "q4_0": encode_legacy.encode_q4_0,
    "q4_1": encode_legacy.encode_q4_1,
    "q5_0": encode_legacy.encode_q5_0,
    "q5_1": encode_legacy.encode_q5_1,
    "q8_0": encode_legacy.encode_q8_0,
    "q2_k": encode_k.encode_q2_k,
    "q3_k": encode_k.encode_q3_k,
    "q4_k": encode_k.encode_q4_k,
    "q5_k": encode_k.encode_q5_k,
    "q6_k": encode_k.encode_q6_k,
    "iq4_nl": encode_small.encode_iq4_nl,
    "iq4_xs": encode_small.encode_iq4_xs,
    "tq1_0": encode_small.encode_tq1_0,
    "tq2_0": encode_small.encode_tq2_0,
    "mxfp4": encode_small.encode_mxfp4,
    "nvfp4": encode_small.encode_nvfp4,
}
"""The types that can be written; the iq1, iq2 and iq3 types would need statistics of the model in use."""


def decode(data: Tensor, format: str, dtype: torch.dtype) -> Tensor:
    """Every weight in `data`, in order.

    data: uint8 (nbytes,), whole blocks. Gives (numel,) of `dtype`, rounded once from float32.
    """
    block = BLOCK_TYPES[format]
    blocks = data.view(-1, block.nbytes)
    out = torch.empty(blocks.shape[0], block.elements, dtype=dtype, device=data.device)
    step = _chunk(data.device) // block.elements
    for start in range(0, blocks.shape[0], step):
        out[start : start + step] = block.decode(blocks[start : start + step])
    return out.flatten()


@torch.no_grad()
def encode(weight: Tensor, format: str) -> Tensor:
    """The blocks of `weight`, uint8 (nbytes,), on its device.

    weight: any shape and float type; its number of elements must be whole blocks.
    """
    block, encoder = BLOCK_TYPES[format], ENCODERS[format]
    if weight.numel() % block.elements:
        raise ValueError(
            f"{tuple(weight.shape)} is not a whole number of {format} blocks of {block.elements}"
        )
    rows = weight.reshape(-1, block.elements)
    out = torch.empty(rows.shape[0], block.nbytes, dtype=torch.uint8, device=weight.device)
    step = _chunk(weight.device) // block.elements
    for start in range(0, rows.shape[0], step):
        out[start : start + step] = encoder(rows[start : start + step].to(torch.float32))
    return out.flatten()


def _chunk(device: torch.device) -> int:
    """Elements for one step: a GPU wants few large launches, a CPU temporaries that fit its cache."""
    if device.type != "cpu":
        return 64 * CHUNK
    return CHUNK * max(1, torch.get_num_threads() // THREADS)
