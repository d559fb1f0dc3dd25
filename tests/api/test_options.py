from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from darkroom.api.config import EngineConfig
from darkroom.api.options import flag_of, flags
from darkroom.api.request import GenerationRequest


@pytest.mark.parametrize("model", [EngineConfig, GenerationRequest])
def test_every_option_has_a_flag_and_a_help_text(model: type[EngineConfig] | type[GenerationRequest]) -> None:
    assert set(flags(model)) == set(model.model_fields)
    assert all(field.description for field in model.model_fields.values())


def test_a_flag_knows_its_spellings() -> None:
    flag = flag_of(GenerationRequest.model_fields["prompt"])
    assert flag is not None
    assert (flag.names, flag.file_names) == (("-p", "--prompt"), ("--prompt-file",))


def test_spellings_do_not_leak_into_the_json_schema() -> None:
    assert "--threads" not in json.dumps(EngineConfig.model_json_schema())


def test_ranges_hold_for_every_caller() -> None:
    for wrong in (
        {"steps": 0},
        {"width": -1},
        {"strength": 2},
        {"cfg_scale": float("inf")},
        {"eta": float("inf")},
        {"seed": 2**63},
        {"batch_count": 0},
        {"no": 1},
    ):
        with pytest.raises(ValidationError):
            GenerationRequest(**wrong)


def test_more_threads_than_openmp_survives_are_refused() -> None:
    with pytest.raises(ValidationError):
        EngineConfig(threads=100_000)
