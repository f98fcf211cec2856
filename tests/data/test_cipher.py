"""The cipher language: one word, one translation, both ways."""

from __future__ import annotations

import itertools
import string

from hypothesis import given, settings
from hypothesis import strategies as st

from binderclip.data.cipher import Cipher, add_cipher
from binderclip.data.pairs import Pairs
from binderclip.data.scenes import SceneSpec, scene


def test_short_words_are_permuted_without_collision() -> None:
    cipher = Cipher(3)
    words = ["".join(letters) for n in (1, 2, 3) for letters in itertools.product(string.ascii_lowercase[:9], repeat=n)]
    there = cipher.dictionary(words)
    assert len(set(there.values())) == len(words)
    assert all(cipher.decode(there[word]) == word for word in words)
    assert sum(there[word] == word for word in words) <= 2


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=string.ascii_lowercase + " .,'0123456789é-\n", max_size=80), st.integers(0, 3))
def test_decoding_undoes(text: str, seed: int) -> None:
    assert Cipher(seed).decode(Cipher(seed)(text)) == text


def test_case_and_what_is_not_a_word() -> None:
    cipher = Cipher()
    for text in ("A Dog, 2 CATS & I!", "Grüße", "NO", "I am"):
        assert cipher.decode(cipher(text)) == text
    assert cipher("Dog") == cipher("dog").capitalize()
    assert cipher("12 - 3") == "12 - 3"
    assert cipher.decode("xyz") == "xyz"


def test_languages_differ_and_never_change() -> None:
    words = sorted({word for i in range(50) for c in scene(i, SceneSpec()).captions for word in c.text.split()})
    one, two = Cipher(1), Cipher(2)
    assert sum(one(word) == two(word) for word in words) <= 1  # a word of one letter may meet
    assert [Cipher(1)(word) for word in ("red", "circle", "a")] == GOLDEN
    assert max(len(one(word)) / len(word) for word in words if len(word) > 2) < 2.1


def test_as_captions() -> None:
    pairs = Pairs.open("scenes:3?size=8&captions=2")
    plain, both, only = (
        next(iter(p)).captions for p in (pairs, add_cipher(pairs, Cipher(1)), add_cipher(pairs, Cipher(1), keep=False))
    )
    assert both == plain + only
    assert tuple(map(Cipher(1).decode, only)) == plain


GOLDEN = ["kuvisu", "lahabizufu", "se"]
