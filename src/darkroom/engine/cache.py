"""Remembers what prompts became, so that the same prompt twice costs nothing."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from pathlib import Path

from darkroom.families.base import Conditioning, TextPrompt

CAPACITY = 32

Key = tuple[str, int, bool, tuple[tuple[Path, int, int], ...], tuple[tuple[int, int, bytes], ...]]


def key_of(prompt: TextPrompt) -> Key:
    """What a conditioning depends on: the prompt, its images, and the embedding files as they are now."""
    text = " ".join(prompt.text.lower().split())
    used = (path for word, path in prompt.embeddings.items() if word in text)
    files = tuple((path, *_version(path)) for path in used)
    images = tuple((*image.size, blake2b(image.tobytes()).digest()) for image in prompt.images)
    return prompt.text, prompt.clip_skip, prompt.negative, files, images


def _version(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:  # whoever reads it says what is wrong
        return 0, 0
    return status.st_mtime_ns, status.st_size


class PromptCache:
    """The conditionings of the last prompts, the least recently used one leaving first."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[Key, Conditioning] = OrderedDict()

    def get(self, key: Key) -> Conditioning | None:
        """What the prompt of `key` became, or None when it is not remembered."""
        if key in self._entries:
            self._entries.move_to_end(key)
        return self._entries.get(key)

    def put(self, key: Key, conditioning: Conditioning) -> None:
        """Remembers what the prompt of `key` became."""
        self._entries[key] = conditioning
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)
