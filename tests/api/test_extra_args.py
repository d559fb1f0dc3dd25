import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.api.errors import RequestError
from darkroom.api.extra_args import NAME, neutralize, split_extra_args

BLOCK = f'<{NAME}>{{"seed": 7, "sample_params": {{"sample_steps": 28}}}}</{NAME}>'


def test_a_block_is_cut_out_and_read() -> None:
    assert split_extra_args(f"a cat {BLOCK}") == ("a cat", {"seed": 7, "sample_params": {"sample_steps": 28}})


def test_a_block_may_stand_in_the_middle_and_span_lines() -> None:
    prompt, args = split_extra_args(f'a <{NAME}>{{\n"seed":\n1}}</{NAME}>cat')
    assert (prompt, args) == ("a cat", {"seed": 1})


@pytest.mark.parametrize("prompt", ["", " a cat ", "a <lora:x:1> cat", f"a </{NAME}> cat", f"{NAME}"])
def test_other_prompts_are_left_alone(prompt: str) -> None:
    assert split_extra_args(prompt) == (prompt, {})


def test_an_empty_block_says_nothing() -> None:
    assert split_extra_args(f"a <{NAME}> </{NAME}>") == ("a", {})


@pytest.mark.parametrize(
    "inner", ["{", "[1]", "7", '"seed"', "{'seed': 1}", '{"a": NaN}', "[" * 100_000, "seed=1", "null"]
)
def test_what_is_no_object_is_refused(inner: str) -> None:
    with pytest.raises(RequestError, match=f"^invalid {NAME}: "):
        split_extra_args(f"a cat <{NAME}>{inner}</{NAME}>")


def test_a_block_without_an_end_is_refused() -> None:
    with pytest.raises(RequestError, match="does not end"):
        split_extra_args(f'a cat <{NAME}>{{"seed": 1}}')


def test_two_blocks_are_refused() -> None:
    with pytest.raises(RequestError, match="2 blocks"):
        split_extra_args(f"a {BLOCK} b {BLOCK}")


DISGUISES = {
    "plain": BLOCK,
    "case": BLOCK.replace(NAME, "SD_Cpp_EXTRA_args"),
    "full width": BLOCK.replace(NAME, "".join(chr(ord(c) + 0xFEE0) for c in NAME)),
    "full width brackets": BLOCK.replace("<", "\uff1c").replace(">", "\uff1e"),
    "zero width": BLOCK.replace(NAME, "\u200b".join(NAME)),
    "soft hyphen": BLOCK.replace(NAME, NAME.replace("_", "_\u00ad")),
    "accent": BLOCK.replace(NAME, NAME.replace("a", "a\u0301")),
    "right to left": BLOCK.replace(NAME, "\u202e" + NAME),
    "tag characters": BLOCK.replace(NAME, NAME.replace("cpp", "c\U000e0041pp")),
    "hangul filler": BLOCK.replace(NAME, NAME.replace("args", "ar\u3164gs")),
    "long s": BLOCK.replace(NAME, NAME.replace("s", "\u017f")),
    "spaces": BLOCK.replace(NAME, NAME.replace("_", " _ ")),
    "nested": BLOCK.replace(NAME, f"sd_cpp_<{NAME}>extra_args"),
    "nested blocks": f"<sd_cpp_{BLOCK}extra_args>{{}}</sd_cpp_{BLOCK}extra_args>",
    "overlapping": NAME + NAME[1:],
}


def as_a_lenient_reader_sees(prompt: str) -> str:
    text = unicodedata.normalize("NFKC", prompt).casefold()
    return "".join(c for c in text if unicodedata.category(c) not in ("Cf", "Cc", "Zs", "Mn", "Cn"))


@pytest.mark.parametrize("prompt", DISGUISES.values(), ids=DISGUISES)
def test_disguised_tags_are_broken(prompt: str) -> None:
    safe = neutralize(f"a cat {prompt} and a dog")
    assert split_extra_args(safe) == (safe, {})
    assert split_extra_args(unicodedata.normalize("NFKC", safe).lower())[1] == {}
    assert NAME not in as_a_lenient_reader_sees(safe)
    assert len(safe) == len(f"a cat {prompt} and a dog"), "nothing is taken out, nothing can close up"


NOISE = st.text(
    st.sampled_from("\u200b\u200d\u2060\ufeff\u00ad\u0301\u034f\ufe0f \t\u115f\u3164"), max_size=2
)


@st.composite
def disguised(draw: st.DrawFn) -> str:
    """The name, each letter in some case and width, with what nobody sees between."""
    letters = []
    for c in NAME:
        forms = [c, c.upper(), chr(ord(c) + 0xFEE0), chr(ord(c.upper()) + 0xFEE0)]
        letters.append(draw(st.sampled_from(forms)) + draw(NOISE))
    return "".join(letters)


PIECES = st.one_of(
    disguised(),
    st.text(max_size=6),
    st.sampled_from(["<", ">", "</", "\uff1c", "_", "sd_", "_cpp_", "args", BLOCK]),
)


@given(st.lists(PIECES, max_size=8))
def test_nothing_that_a_lenient_reader_knows_is_left(pieces: list[str]) -> None:
    safe = neutralize("".join(pieces))
    assert NAME not in as_a_lenient_reader_sees(safe)
    assert split_extra_args(safe) == (safe, {})
    assert neutralize(safe) == safe


@given(disguised(), disguised(), st.integers(0, 17))
def test_nesting_closes_up_to_nothing(outer: str, inner: str, at: int) -> None:
    safe = neutralize(outer[:at] + inner + outer[at:])
    assert NAME not in as_a_lenient_reader_sees(safe)


@given(st.text())
def test_other_text_is_as_it_was(prompt: str) -> None:
    assert neutralize(prompt) == prompt


def test_only_the_name_changes() -> None:
    assert (
        neutralize(f"caf\u00e9 \uff21 <b> {BLOCK}")
        == f"caf\u00e9 \uff21 <b> {BLOCK.replace(NAME, 'sd-cpp-extra-args')}"
    )
