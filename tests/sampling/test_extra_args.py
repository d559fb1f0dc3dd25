from __future__ import annotations

import pytest

from darkroom.sampling.extra_args import parse_extra_args


def test_entries_are_split_on_commas_and_semicolons() -> None:
    extra = parse_extra_args(" gamma = 1.5, apg_eta=0.5;lms_shift=0 ,,stretch=off")
    assert extra.number("gamma", 2.0) == 1.5
    assert extra.number("apg_eta", 1.0) == 0.5
    assert extra.integer("lms_shift", 1) == 0
    assert extra.switch("stretch", True) is False


def test_nothing_given_is_all_defaults() -> None:
    extra = parse_extra_args("")
    assert extra.number("gamma", 2.0) == 2.0
    assert extra.text("guidance_schedule") == ""


def test_the_last_of_equal_keys_wins() -> None:
    assert parse_extra_args("gamma=1,gamma=3").number("gamma", 2.0) == 3.0


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("gamma", "ignoring 'gamma'; an entry is written key=value"),
        ("gama=3", "ignoring unknown key 'gama'; did you mean 'gamma'?"),
    ],
)
def test_bad_entries_are_warned_about_and_ignored(
    text: str, warning: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert parse_extra_args(f"{text},apg_eta=0").values == {"apg_eta": "0"}
    assert warning in caplog.text


@pytest.mark.parametrize("value", ["much", "", "nan", "inf", "1.5x"])
def test_a_value_that_is_no_number_gives_the_default(value: str, caplog: pytest.LogCaptureFixture) -> None:
    assert parse_extra_args(f"gamma={value}").number("gamma", 2.0) == 2.0
    assert f"ignoring 'gamma={value}'; 2.0 is used" in caplog.text


def test_a_value_out_of_range_gives_the_default(caplog: pytest.LogCaptureFixture) -> None:
    extra = parse_extra_args("lms_divisions=0")
    assert extra.integer("lms_divisions", 1000, valid=lambda n: n > 0) == 1000
    assert "lms_divisions=0" in caplog.text


@pytest.mark.parametrize(
    ("word", "value"), [("1", True), ("YES", True), ("on", True), ("False", False), ("no", False)]
)
def test_switches(word: str, value: bool) -> None:
    assert parse_extra_args(f"stretch={word}").switch("stretch", not value) is value
