from __future__ import annotations

import torch
from training.captions import BOS, EOS, FILLER, LENGTH, PIECES, WORDS, encode
from training.domain import COLOURS, SHAPES, Triple, held_out
from training.scenes import Dice, describe, random_scenes

from darkroom.tokenizers.clip import ClipTokenizer

CPU = torch.device("cpu")


def test_words_have_the_tokenizers_ids() -> None:
    tokenizer = ClipTokenizer()
    known = {word: (token,) for word, token in WORDS.items()} | PIECES
    assert {word: tuple(tokenizer.encode(word)) for word in known} == known


def test_a_batch_of_captions_is_tokenized_as_its_sentences_are() -> None:
    dice = Dice(11, CPU)
    captions = describe(random_scenes(200, dice), dice)
    tokenizer = ClipTokenizer()
    for i, row in enumerate(captions.tokens().tolist()):
        words = tokenizer.encode(captions.text(i))
        assert row == [BOS, *words] + [EOS] * (LENGTH - 1 - len(words)), captions.text(i)


def test_an_unknown_word_becomes_the_filler() -> None:
    assert encode(["a furry circle"]).tolist() == encode([f"a {FILLER} circle"]).tolist()


def test_training_never_shows_a_held_out_combination() -> None:
    scenes = random_scenes(50_000, Dice(12, CPU))
    secret = {
        (SHAPES.index(shape), COLOURS.index(colour), COLOURS.index(background))
        for shape, colour, background in held_out()
    }
    for i in (0, 1):
        columns = (scenes.shape[:, i], scenes.colour[:, i], scenes.background)
        shown = set(zip(*(column.tolist() for column in columns), strict=True))
        assert len(shown) > 1000  # nearly all of the others
        assert not shown & secret


def test_held_out_combinations_stay_the_same() -> None:
    assert len(set(held_out())) == 120
    assert held_out()[0] == Triple("square", "blue", "black")
