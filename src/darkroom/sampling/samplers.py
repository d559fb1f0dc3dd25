"""The samplers by name, and the choices that depend on the sampler."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from darkroom.api.names import SampleMethod
from darkroom.sampling.er_sde import er_sde
from darkroom.sampling.solvers import (
    dpm2,
    dpmpp_2m,
    dpmpp_2m_v2,
    euler,
    euler_cfg_pp,
    heun,
    ipndm,
    ipndm_v,
    lms,
)
from darkroom.sampling.steps import Denoise, Denoised, SampleOptions, Sampler, Step
from darkroom.sampling.stochastic import (
    dpmpp_2m_sde,
    dpmpp_2m_sde_brownian,
    dpmpp_2s_ancestral,
    euler_ancestral,
    euler_ancestral_cfg_pp,
    euler_gradient_estimation,
    lcm,
    res_2s,
    res_multistep,
    tcd,
)

__all__ = [
    "NEEDS_UNCOND",
    "SAMPLERS",
    "Denoise",
    "Denoised",
    "SampleOptions",
    "Sampler",
    "Step",
    "default_eta",
]

SAMPLERS: Mapping[SampleMethod, Sampler] = MappingProxyType(
    {
        SampleMethod.EULER: euler,
        SampleMethod.EULER_A: euler_ancestral,
        SampleMethod.HEUN: heun,
        SampleMethod.DPM2: dpm2,
        SampleMethod.DPMPP_2S_A: dpmpp_2s_ancestral,
        SampleMethod.DPMPP_2M: dpmpp_2m,
        SampleMethod.DPMPP_2M_V2: dpmpp_2m_v2,
        SampleMethod.IPNDM: ipndm,
        SampleMethod.IPNDM_V: ipndm_v,
        SampleMethod.LCM: lcm,
        SampleMethod.DDIM_TRAILING: euler_ancestral,
        SampleMethod.TCD: tcd,
        SampleMethod.RES_MULTISTEP: res_multistep,
        SampleMethod.RES_2S: res_2s,
        SampleMethod.ER_SDE: er_sde,
        SampleMethod.EULER_CFG_PP: euler_cfg_pp,
        SampleMethod.EULER_A_CFG_PP: euler_ancestral_cfg_pp,
        SampleMethod.EULER_GE: euler_gradient_estimation,
        SampleMethod.DPMPP_2M_SDE: dpmpp_2m_sde,
        SampleMethod.DPMPP_2M_SDE_BT: dpmpp_2m_sde_brownian,
        SampleMethod.LMS: lms,
    }
)

NEEDS_UNCOND = frozenset({SampleMethod.EULER_CFG_PP, SampleMethod.EULER_A_CFG_PP})
"""Samplers that use the unconditional prediction itself, so that it is computed even at cfg 1."""

_NOISY_BY_DEFAULT = frozenset(
    {
        SampleMethod.EULER_A,
        SampleMethod.DPMPP_2S_A,
        SampleMethod.ER_SDE,
        SampleMethod.EULER_A_CFG_PP,
        SampleMethod.DPMPP_2M_SDE,
        SampleMethod.DPMPP_2M_SDE_BT,
    }
)


def default_eta(method: SampleMethod) -> float:
    """The share of fresh noise where the request names none."""
    return 1.0 if method in _NOISY_BY_DEFAULT else 0.0
