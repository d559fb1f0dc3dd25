"""Options written as key=value: `--extra-sample-args` of samplers, schedules and guidance, and their like."""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)

KNOWN_KEYS = frozenset(
    {
        *(
            "guidance_schedule",
            "keep_norm",
            "apg_eta",
            "apg_momentum",
            "apg_norm_threshold",
            "apg_norm_threshold_smoothing",
        ),
        *("noise_clip_std", "noise_scale_start", "noise_scale_end"),
        *("gamma", "lms_max_order", "lms_shift", "lms_divisions"),
        *("base_shift", "max_shift", "stretch", "terminal", "alpha", "beta"),
        *("mu", "std", "logsnr_min", "logsnr_max", "resolution_aware"),
        *("strength_as_noise_level", "force_first_sigma"),
    }
)
"""What guidance, samplers, schedules and image-to-image read, in this order."""


@dataclass(frozen=True)
class ExtraArgs:
    """Parsed key=value options. A getter warns, once, of a value it cannot take and returns the default.

    flag: the option they are from, for warnings.
    """

    values: Mapping[str, str] = field(default_factory=dict)
    flag: str = "--extra-sample-args"
    _refused: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def text(self, key: str, default: str = "") -> str:
        """The value as written."""
        return self.values.get(key, default)

    def number(self, key: str, default: float, valid: Callable[[float], bool] = math.isfinite) -> float:
        """A float that `valid` accepts."""
        return self._get(key, default, float, valid)

    def integer(self, key: str, default: int, valid: Callable[[int], bool] = lambda _: True) -> int:
        """An integer that `valid` accepts."""
        return self._get(key, default, int, valid)

    def switch(self, key: str, default: bool) -> bool:
        """A truth value: 1/0, true/false, yes/no or on/off in any case."""
        return self._get(key, default, lambda text: _SWITCHES[text.lower()], lambda _: True)

    def choice(self, key: str, choices: Mapping[str, T]) -> T | None:
        """What the value stands for, in any case; None where it is not given."""
        return self._get(key, None, lambda text: choices[text.lower()], lambda _: True)

    def _get(self, key: str, default: T, parse: Callable[[str], T], valid: Callable[[T], bool]) -> T:
        text = self.values.get(key)
        if text is None:
            return default
        try:
            value = parse(text)
        except (ValueError, KeyError):
            pass
        else:
            if valid(value):
                return value
        if key not in self._refused:
            self._refused.add(key)
            used = "the model's own way" if default is None else default
            logger.warning("%s: ignoring '%s=%s'; %s is used", self.flag, key, text, used)
        return default


_SWITCHES = {"1": True, "true": True, "yes": True, "on": True} | {
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


def parse_extra_args(
    text: str, flag: str = "--extra-sample-args", known: Collection[str] = KNOWN_KEYS
) -> ExtraArgs:
    """Split `text` on `,` or `;` into key=value pairs; the last of equal keys wins.

    An entry without `=` and a key that is not known are warned about and ignored.
    """
    values: dict[str, str] = {}
    for entry in text.replace(";", ",").split(","):
        if not (entry := entry.strip()):
            continue
        key, equals, value = (part.strip() for part in entry.partition("="))
        if not equals:
            logger.warning("%s: ignoring '%s'; an entry is written key=value", flag, entry)
        elif key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            names = f"known keys: {', '.join(sorted(known)) or 'none'}"
            hint = f"did you mean '{close[0]}'?" if close else names
            logger.warning("%s: ignoring unknown key '%s'; %s", flag, key, hint)
        else:
            values[key] = value
    return ExtraArgs(values, flag)
