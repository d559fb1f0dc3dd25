import pytest

from darkroom.api.a1111.samplers import SAMPLERS, SCHEDULERS, label_of, parse_sampler
from darkroom.api.errors import RequestError
from darkroom.api.names import SampleMethod, Scheduler

M, S = SampleMethod, Scheduler


@pytest.mark.parametrize(
    ("sampler", "scheduler", "expected"),
    [
        ("Euler a", None, (M.EULER_A, None)),
        ("euler a", "Automatic", (M.EULER_A, None)),
        ("k_euler_ancestral", "automatic", (M.EULER_A, None)),
        ("DPM++ 2M Karras", None, (M.DPMPP_2M, S.KARRAS)),
        ("DPM++ 2M Karras", "Automatic", (M.DPMPP_2M, S.KARRAS)),
        ("DPM++ 2M", "Karras", (M.DPMPP_2M, S.KARRAS)),
        ("DPM++ 2M SDE Exponential", None, (M.DPMPP_2M_SDE, S.EXPONENTIAL)),
        ("DPM++ 2S a Karras", None, (M.DPMPP_2S_A, S.KARRAS)),
        ("DPM++ 2M Align Your Steps", None, (M.DPMPP_2M, S.AYS)),
        ("DPM++ 2M SGMUniform", None, (M.DPMPP_2M, S.SGM_UNIFORM)),
        ("Euler automatic", "karras", (M.EULER, None)),
        ("dpm++2m", "sgm_uniform", (M.DPMPP_2M, S.SGM_UNIFORM)),
        ("dpmpp_2m", "normal", (M.DPMPP_2M, S.DISCRETE)),
        ("k_dpmpp_2m_sde_gpu", "Uniform", (M.DPMPP_2M_SDE_BT, S.DISCRETE)),
        ("DDIM", "Simple", (M.DDIM_TRAILING, S.SIMPLE)),
        ("LCM", "LCM", (M.LCM, S.LCM)),
        ("  heun ", "", (M.HEUN, None)),
        ("default", "beta", (None, S.BETA)),
        (None, None, (None, None)),
        ("", "Automatic", (None, None)),
    ],
)
def test_spellings(
    sampler: str | None, scheduler: str | None, expected: tuple[SampleMethod | None, Scheduler | None]
) -> None:
    assert parse_sampler(sampler, scheduler) == expected


def test_every_sampler_and_schedule_has_its_own_names() -> None:
    assert {each.value for each in SAMPLERS} == set(SampleMethod)
    assert {each.value for each in SCHEDULERS} == set(Scheduler)
    for spellings in (SAMPLERS, SCHEDULERS):
        names = [name.lower() for each in spellings for name in {name.lower() for name in each.names}]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("method", SampleMethod)
def test_labels_lead_back(method: SampleMethod) -> None:
    for scheduler in Scheduler:
        label = f"{label_of(method)} {label_of(scheduler)}"
        assert parse_sampler(label, None) == (method, scheduler)
        assert parse_sampler(method, scheduler) == (method, scheduler)


@pytest.mark.parametrize("name", ["Restart", "PLMS", "DPM++ 2M Karras Karras", "Karras", "DPM++ SDE"])
def test_unknown_samplers_are_refused_with_the_list(name: str) -> None:
    with pytest.raises(RequestError, match=r"sampler_name: .* there are Euler a, Euler, DPM\+\+ 2M"):
        parse_sampler(name, None)


@pytest.mark.parametrize("name", ["Polyexponential", "x", "DDIM"])
def test_unknown_schedulers_are_refused_with_the_list(name: str) -> None:
    with pytest.raises(RequestError, match=r"scheduler: .* there are Automatic, Uniform, Karras"):
        parse_sampler("Euler", name)
