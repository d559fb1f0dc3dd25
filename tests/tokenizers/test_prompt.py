"""The prompt language against stable-diffusion-webui's documented values and stable-diffusion.cpp's rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.api.errors import RequestError
from darkroom.tokenizers.clip import BOS, EOS, ClipTokenizer
from darkroom.tokenizers.prompt import (
    MaskedChunks,
    PromptChunks,
    chunk,
    chunk_t5,
    find_words,
    parse_weights,
    weigh,
)
from darkroom.tokenizers.qwen import QwenTokenizer
from darkroom.tokenizers.t5 import T5Tokenizer

UP, DOWN = 1.1, 1 / 1.1

# The first eight are the examples in the docstring of stable-diffusion-webui's parse_prompt_attention.
WEIGHTS = {
    "normal text": [("normal text", 1)],
    "an (important) word": [("an ", 1), ("important", UP), (" word", 1)],
    "(unbalanced": [("unbalanced", UP)],
    r"\(literal\]": [("(literal]", 1)],
    "(unnecessary)(parens)": [("unnecessaryparens", UP)],
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).": [
        ("a ", 1),
        ("house", 1.573),
        (" ", UP),
        ("on", 1),
        (" a ", UP),
        ("hill", 0.55),
        (", sun, ", UP),
        ("sky", 1.4641),
        (".", UP),
    ],
    "": [],
    "a [dim] light": [("a ", 1), ("dim", DOWN), (" light", 1)],
    "[[x]]": [("x", DOWN**2)],
    "[unclosed": [("unclosed", DOWN)],
    "((a [b": [("a ", UP**2), ("b", UP**2 * DOWN)],
    "(a:-0.5)(b:+2)(c:.25)(d:3.)": [("a", -0.5), ("b", 2), ("c", 0.25), ("d", 3)],
    "(spaced : 1.5 )": [("spaced ", 1.5)],
    "(ratio 16:9)": [("ratio 16", 9)],
    "time: 10:30": [("time: 10:30", 1)],
    "stray ) and ] and :2)": [("stray ) and ] and :2)", 1)],
    r"\( \) \[ \] \\": [("( ) [ ] \\", 1)],
    r"(smile \(face\):1.2)": [("smile (face)", 1.2)],
    r"back\slash": [(r"back\slash", 1)],
    r"\\(x)": [("\\", 1), ("x", UP)],
    "(x:.)(y:1.2.3)(z:)": [("x:.y:1.2.3z:", UP)],
    "Big Bad BREAKER aBREAK": [("Big Bad BREAKER aBREAK", 1)],
    "()[](:2)": [],
    "(a [b) c]": [("a ", UP), ("b", UP * DOWN), (" c", DOWN)],
    "line\none (two\nthree)": [("line\none ", 1), ("two\nthree", UP)],
}


@pytest.mark.parametrize(("prompt", "expected"), WEIGHTS.items())
def test_weights(prompt: str, expected: list[tuple[str, float]]) -> None:
    (segments,) = parse_weights(prompt)
    assert [segment.text for segment in segments] == [text for text, _ in expected]
    assert [segment.weight for segment in segments] == pytest.approx([weight for _, weight in expected])


BREAKS = {
    "a BREAK b": [["a "], [" b"]],
    "a BREAK BREAK b": [["a "], [" "], [" b"]],
    "BREAK": [[], []],
    "(a BREAK b:1.3) c": [["a "], [" b", " c"]],
    "[BREAK]": [[], []],
    "猫BREAK犬": [["猫"], ["犬"]],
    "a,BREAK,b": [["a,"], [",b"]],
}


@pytest.mark.parametrize(("prompt", "expected"), BREAKS.items())
def test_break(prompt: str, expected: list[list[str]]) -> None:
    assert [[segment.text for segment in part] for part in parse_weights(prompt)] == expected


def test_break_keeps_the_brackets_around_it() -> None:
    first, second = parse_weights("(a BREAK b:1.3) c")
    assert first[0].weight == second[0].weight == 1.3
    assert second[1].weight == 1


@pytest.mark.parametrize("prompt", ["(x:1" + "0" * 50 + ")", "(" * 1000 + "x", "(x:" + "9" * 400 + ")"])
def test_absurd_weights_are_refused(prompt: str) -> None:
    with pytest.raises(RequestError, match="the weight of 'x' is"):
        parse_weights(prompt)


@settings(max_examples=300, derandomize=True)
@given(st.text(st.sampled_from("ab :.,12()[]\\BREAK\n猫"), max_size=40))
def test_any_text_parses_and_loses_no_words(prompt: str) -> None:
    segments = [segment for part in parse_weights(prompt) for segment in part]
    assert all(segment.text for segment in segments)
    assert "".join(segment.text for segment in segments).count("猫") == prompt.count("猫")


def laid_out(prompt: str, pad: int = EOS, length: int = 77) -> PromptChunks:
    return chunk(parse_weights(prompt), ClipTokenizer(), pad=pad, length=length)


# Rows made by stable-diffusion.cpp 0.4.7 (its parse_prompt_attention, CLIPTokenizer and pad_tokens, called as
# its conditioner calls them), as runs: [value, count].
SDCPP = json.loads((Path(__file__).parent / "data" / "sdcpp_prompts.json").read_text())


@pytest.mark.parametrize("golden", SDCPP, ids=[golden["prompt"][:30] for golden in SDCPP])
@pytest.mark.parametrize(("family", "pad"), [("sd1", EOS), ("sd2", 0)])
def test_rows_are_stable_diffusion_cpps(golden: dict[str, Any], family: str, pad: int) -> None:
    def flat(runs: list[tuple[float, int]]) -> list[float]:
        return [value for value, count in runs for _ in range(count)]

    out = laid_out(golden["prompt"], pad=pad)
    assert [token for row in out.tokens for token in row] == flat(golden[family])
    assert [weight for row in out.weights for weight in row] == pytest.approx(flat(golden["weights"]))


CAT = [320, 1125, 539, 320, 2368]


def test_one_chunk() -> None:
    chunks = laid_out("a photo of a (cat:1.5)", pad=0)
    assert chunks.tokens == [[BOS, *CAT, EOS, *[0] * 70]]
    assert chunks.weights == [[1.0] * 5 + [1.5] + [1.0] * 71]


@pytest.mark.parametrize("prompt", ["", "   ", "()", "BREAK", "BREAK BREAK"])
def test_empty_prompts_make_one_chunk(prompt: str) -> None:
    assert laid_out(prompt).tokens == [[BOS, *[EOS] * 76]]


@pytest.mark.parametrize(("words", "chunks"), [(1, 1), (75, 1), (76, 2), (150, 2), (151, 3), (500, 7)])
def test_long_prompts_make_chunks_of_75(words: int, chunks: int) -> None:
    out = laid_out("cat " * words, pad=0)
    assert len(out.tokens) == len(out.weights) == chunks
    assert all(len(row) == 77 for row in (*out.tokens, *out.weights))
    assert [row.count(2368) for row in out.tokens] == [75] * (chunks - 1) + [(words - 1) % 75 + 1]
    assert all(row[0] == BOS and EOS in row for row in out.tokens)


def test_break_fills_with_eos_and_the_end_with_padding() -> None:
    out = laid_out("(cat:2) BREAK cat", pad=0)
    assert out.tokens == [[BOS, 2368, *[EOS] * 75], [BOS, 2368, EOS, *[0] * 74]]
    assert out.weights == [[1.0, 2.0, *[1.0] * 75], [1.0] * 77]


def test_break_on_a_full_chunk_adds_nothing() -> None:
    assert laid_out("cat " * 75 + "BREAK cat") == laid_out("cat " * 76)


def test_adjacent_breaks_are_one() -> None:
    assert laid_out("cat BREAK BREAK dog") == laid_out("cat BREAK dog")


def test_trailing_break_makes_no_new_chunk() -> None:
    assert laid_out("cat BREAK", pad=0).tokens == [[BOS, 2368, *[EOS] * 75]]


def test_other_lengths() -> None:
    assert laid_out("cat cat cat", length=4).tokens == [[BOS, 2368, 2368, EOS], [BOS, 2368, EOS, EOS]]


def test_emoji_and_control_characters() -> None:
    (row,) = laid_out("🐈\x00\x1b\u202e").tokens
    assert len(row) == 77
    assert len(set(row)) > 2


class TestWords:
    IDS: ClassVar = {"easynegative": [60001, 60002], "my style": [60003], "my style two": [60004]}

    def tokens(self, prompt: str) -> list[int]:
        (row,) = chunk(parse_weights(prompt), ClipTokenizer(), pad=0, words=self.IDS).tokens
        return row[1 : row.index(EOS)]

    def test_word_becomes_its_vectors(self) -> None:
        assert self.tokens("cat, EasyNegative cat") == [2368, 267, 60001, 60002, 2368]

    def test_weight_goes_to_every_vector(self) -> None:
        out = chunk(parse_weights("(easynegative:0.8)"), ClipTokenizer(), pad=0, words=self.IDS)
        assert out.weights[0][:4] == [1.0, 0.8, 0.8, 1.0]

    def test_longest_name_wins(self) -> None:
        assert self.tokens("my  style two, my\nstyle") == [60004, 267, 60003]

    def test_part_of_a_word_is_no_trigger(self) -> None:
        assert not set(self.tokens("easynegatives not_easynegative xmy style")) & {60001, 60002, 60003}

    def test_between_other_scripts_and_signs(self) -> None:
        assert self.tokens("猫easynegative,")[-3:-1] == [60001, 60002]

    def test_find_words(self) -> None:
        parts = parse_weights("a BREAK (My Style) EASYNEGATIVE my style")
        assert find_words(parts, self.IDS) == ["my style", "easynegative"]

    def test_no_words(self) -> None:
        assert find_words(parse_weights("a cat"), []) == []


class TestT5:
    def laid_out(self, prompt: str, length: int = 8) -> MaskedChunks:
        return chunk_t5(parse_weights(prompt), T5Tokenizer(), length=length)

    def test_one_chunk(self) -> None:
        chunks = self.laid_out("cat (dog:1.5)")
        assert chunks.tokens == [[1712, 1782, 1, 0, 0, 0, 0, 0]]
        assert chunks.weights == [[1.0, 1.5] + [1.0] * 6]
        assert chunks.mask == [[True] * 3 + [False] * 5]

    @pytest.mark.parametrize("prompt", ["", "  ", "()", "BREAK", "BREAK BREAK"])
    def test_empty_prompts_make_one_chunk(self, prompt: str) -> None:
        chunks = self.laid_out(prompt)
        assert chunks.tokens == [[1] + [0] * 7]
        assert chunks.mask == [[True] + [False] * 7]

    @pytest.mark.parametrize(("words", "rows"), [(1, 1), (7, 1), (8, 2), (14, 2), (15, 3)])
    def test_long_prompts_make_chunks(self, words: int, rows: int) -> None:
        chunks = self.laid_out("cat " * words)
        assert [len(row) for row in (*chunks.tokens, *chunks.weights, *chunks.mask)] == [8] * (3 * rows)
        assert [row.count(1712) for row in chunks.tokens] == [7] * (rows - 1) + [(words - 1) % 7 + 1]
        assert all(row.count(1) == 1 for row in chunks.tokens)
        assert sum(map(sum, chunks.mask)) == words + rows

    def test_break_begins_a_chunk(self) -> None:
        chunks = self.laid_out("(cat BREAK dog:2) BREAK")
        assert chunks.tokens == [[1712, 1] + [0] * 6, [1782, 1] + [0] * 6]
        assert chunks.weights == [[2.0] + [1.0] * 7] * 2


class TestWeigh:
    TEMPLATE: ClassVar = {"before": "<|im_start|>user\n", "after": "<|im_end|>\n"}

    @pytest.mark.parametrize("prompt", ["a cat", "", "\n indented", "16:9", "\\(x\\)"])
    def test_plain_prompts_are_tokenized_with_the_template(self, prompt: str) -> None:
        tokens, weights = weigh(parse_weights(prompt), QwenTokenizer(), **self.TEMPLATE)
        plain = prompt.replace("\\(", "(").replace("\\)", ")")
        assert tokens == QwenTokenizer().encode(f"<|im_start|>user\n{plain}<|im_end|>\n")
        assert weights == [1.0] * len(tokens)

    def test_weights(self) -> None:
        tokens, weights = weigh(parse_weights("a (cat:1.5)"), QwenTokenizer(), **self.TEMPLATE)
        assert tokens == [151644, 872, 198, 64, 220, 4616, 151645, 198]
        assert weights == [1.0] * 5 + [1.5] + [1.0] * 2

    def test_break_means_nothing(self) -> None:
        tokens, _ = weigh(parse_weights("a BREAK b"), QwenTokenizer())
        assert tokens == QwenTokenizer().encode("a  b")
