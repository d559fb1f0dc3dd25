"""Remembers what prompts became, so that the same prompt twice costs nothing."""

from __future__ import annotations

from collections import OrderedDict

from darkroom.families.base import Conditioning, TextPrompt

CAPACITY = 32


class PromptCache:
    """The conditionings of the last prompts, the least recently used one leaving first."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[tuple[str, int], Conditioning] = OrderedDict()

    def get(self, prompt: TextPrompt) -> Conditioning | None:
        """What `prompt` became, or None when it is not remembered."""
        key = (prompt.text, prompt.clip_skip)
        if key in self._entries:
            self._entries.move_to_end(key)
        return self._entries.get(key)

    def put(self, prompt: TextPrompt, conditioning: Conditioning) -> None:
        """Remembers what `prompt` became."""
        self._entries[(prompt.text, prompt.clip_skip)] = conditioning
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)
