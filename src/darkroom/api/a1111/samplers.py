"""Samplers and schedules as A1111 and its relatives spell them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from darkroom.api.a1111.answers import SamplerItem, SchedulerItem
from darkroom.api.errors import RequestError
from darkroom.api.names import SampleMethod, Scheduler

N = TypeVar("N", bound=StrEnum)

DEFAULT = "default"
"""Leaves the choice to the model."""


@dataclass(frozen=True)
class Spelling(Generic[N]):
    """One name and how it is written. label: A1111's own way. aliases: others; case does not matter."""

    value: N
    label: str
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every spelling, A1111's first."""
        return (self.label, self.value, *self.aliases)


SAMPLERS = (
    Spelling(SampleMethod.EULER_A, "Euler a", ("k_euler_a", "k_euler_ancestral", "euler_ancestral")),
    Spelling(SampleMethod.EULER, "Euler", ("k_euler",)),
    Spelling(SampleMethod.DPMPP_2M, "DPM++ 2M", ("k_dpmpp_2m", "dpmpp_2m")),
    Spelling(SampleMethod.DPMPP_2M_V2, "DPM++ 2M v2", ("k_dpmpp_2m_v2", "dpmpp_2m_v2")),
    Spelling(SampleMethod.DPMPP_2M_SDE, "DPM++ 2M SDE", ("k_dpmpp_2m_sde", "dpmpp_2m_sde")),
    Spelling(
        SampleMethod.DPMPP_2M_SDE_BT,
        "DPM++ 2M SDE BT",
        ("dpm++ 2m sde gpu", "k_dpmpp_2m_sde_gpu", "dpmpp_2m_sde_gpu"),
    ),
    Spelling(SampleMethod.DPMPP_2S_A, "DPM++ 2S a", ("k_dpmpp_2s_a", "dpmpp_2s_ancestral")),
    Spelling(SampleMethod.HEUN, "Heun", ("k_heun",)),
    Spelling(SampleMethod.DPM2, "DPM2", ("k_dpm_2", "dpm_2")),
    Spelling(SampleMethod.LMS, "LMS", ("k_lms",)),
    Spelling(SampleMethod.DDIM_TRAILING, "DDIM", ("ddim trailing",)),
    Spelling(SampleMethod.LCM, "LCM", ("k_lcm",)),
    Spelling(SampleMethod.TCD, "TCD"),
    Spelling(SampleMethod.IPNDM, "iPNDM"),
    Spelling(SampleMethod.IPNDM_V, "iPNDM V"),
    Spelling(SampleMethod.RES_MULTISTEP, "Res Multistep"),
    Spelling(SampleMethod.RES_2S, "Res 2S"),
    Spelling(SampleMethod.ER_SDE, "ER SDE"),
    Spelling(SampleMethod.EULER_CFG_PP, "Euler CFG++"),
    Spelling(SampleMethod.EULER_A_CFG_PP, "Euler a CFG++", ("euler_ancestral_cfg_pp",)),
    Spelling(SampleMethod.EULER_GE, "Euler GE", ("gradient_estimation",)),
)

SCHEDULERS = (
    Spelling(Scheduler.DISCRETE, "Uniform", ("normal",)),
    Spelling(Scheduler.KARRAS, "Karras"),
    Spelling(Scheduler.EXPONENTIAL, "Exponential"),
    Spelling(Scheduler.SGM_UNIFORM, "SGM Uniform", ("SGMUniform",)),
    Spelling(Scheduler.KL_OPTIMAL, "KL Optimal"),
    Spelling(Scheduler.AYS, "Align Your Steps", ("align_your_steps",)),
    Spelling(Scheduler.SIMPLE, "Simple"),
    Spelling(Scheduler.BETA, "Beta"),
    Spelling(Scheduler.GITS, "GITS"),
    Spelling(Scheduler.SMOOTHSTEP, "Smoothstep"),
    Spelling(Scheduler.LCM, "LCM"),
    Spelling(Scheduler.BONG_TANGENT, "Bong Tangent"),
    Spelling(Scheduler.LTX2, "LTX-2"),
    Spelling(Scheduler.LOGIT_NORMAL, "Logit Normal"),
    Spelling(Scheduler.FLUX, "Flux"),
    Spelling(Scheduler.FLUX2, "Flux.2"),
)

_DEFAULTS = {DEFAULT, "automatic", "none", ""}


def _by_name(spellings: Iterable[Spelling[N]]) -> Mapping[str, N]:
    return {name.lower(): spelling.value for spelling in spellings for name in spelling.names}


_METHODS = _by_name(SAMPLERS)
_SCHEDULES = _by_name(SCHEDULERS)
_ENDINGS = sorted(_SCHEDULES.keys() | {"automatic"}, key=len, reverse=True)


def sampler_items() -> list[SamplerItem]:
    """Every sampler, as clients list them."""
    items = [SamplerItem(name=each.label, aliases=list(each.names[1:]), options={}) for each in SAMPLERS]
    return [SamplerItem(name=DEFAULT, aliases=["automatic"], options={}), *items]


def scheduler_items() -> list[SchedulerItem]:
    """Every schedule, as clients list them."""
    items = [
        SchedulerItem(name=each.value, label=each.label, aliases=list(each.aliases)) for each in SCHEDULERS
    ]
    return [SchedulerItem(name="automatic", label="Automatic", aliases=[DEFAULT]), *items]


def label_of(value: SampleMethod | Scheduler) -> str:
    """A1111's way to write it."""
    return next(spelling.label for spelling in (*SAMPLERS, *SCHEDULERS) if spelling.value is value)


def parse_sampler(sampler: str | None, scheduler: str | None) -> tuple[SampleMethod | None, Scheduler | None]:
    """What the two names of a request mean; None leaves it to the model, as `Automatic` and `default` do.

    A schedule at the end of the sampler's name ("DPM++ 2M Karras") counts more than `scheduler`.
    Raises RequestError with the names that there are.
    """
    schedule = _schedule(scheduler or "")
    name = " ".join((sampler or "").lower().split())
    if name in _DEFAULTS:
        return None, schedule
    if name in _METHODS:
        return _METHODS[name], schedule
    for ending in _ENDINGS:
        if (method := _METHODS.get(name.removesuffix(f" {ending}"))) is not None:
            return method, _SCHEDULES.get(ending)
    raise RequestError(
        f"sampler_name: no sampler is called '{sampler}'; there are {_list(SAMPLERS)}, also followed by the "
        "name of a scheduler"
    )


def _schedule(name: str) -> Scheduler | None:
    key = " ".join(name.lower().split())
    if key in _DEFAULTS:
        return None
    if key not in _SCHEDULES:
        raise RequestError(
            f"scheduler: no scheduler is called '{name}'; there are Automatic, {_list(SCHEDULERS)}"
        )
    return _SCHEDULES[key]


def _list(spellings: Iterable[Spelling[N]]) -> str:
    return ", ".join(spelling.label for spelling in spellings)
