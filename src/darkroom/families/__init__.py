"""The model families, one folder each."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from darkroom.families.base import Family


@functools.cache
def discover() -> tuple[Family[Any], ...]:
    """Every family: what each folder here calls `FAMILY`, by folder name. Imports torch at the first call."""
    folders = sorted(found.name for found in pkgutil.iter_modules(__path__) if found.ispkg)
    return tuple(importlib.import_module(f"{__name__}.{folder}").FAMILY for folder in folders)
