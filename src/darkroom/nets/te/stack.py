"""Several text encoders as one module."""

from __future__ import annotations

from torch import nn


class TextEncoders(nn.Module):
    """Holds text encoders under their roles: `stack.clip_l`, `stack.t5xxl`. A family calls each by itself."""

    def __init__(self, **encoders: nn.Module) -> None:
        super().__init__()
        for role, encoder in encoders.items():
            self.add_module(role, encoder)
