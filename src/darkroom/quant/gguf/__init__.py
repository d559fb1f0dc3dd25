"""GGUF's block formats as vectorised torch, on any device."""

from darkroom.quant.gguf.codecs import BLOCK_TYPES, ENCODERS, BlockType, decode, encode

__all__ = ["BLOCK_TYPES", "ENCODERS", "BlockType", "decode", "encode"]
