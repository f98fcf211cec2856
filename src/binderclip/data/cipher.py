"""A cipher language: English word for word in invented words, a fixture for methods that add a language.

Every word has one translation and every translation one word, without a dictionary: a word of n letters is a number below
26^n, a keyed Feistel network (Luby and Rackoff 1988) permutes these numbers, and the result is
written in syllables, base 80. So a model can learn the language only from pairs of texts, while the truth of any sentence
is known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from binderclip.data.hashing import hash64
from binderclip.data.mapped import mapped
from binderclip.data.pairs import Pair, Pairs

__all__ = ["Cipher", "add_cipher"]

_WORD = re.compile(r"[A-Za-z]+")
_SYLLABLES = [consonant + vowel for consonant in "bdfghjklmnprstvz" for vowel in "aeiou"]
_VALUE = {syllable: number for number, syllable in enumerate(_SYLLABLES)}
_BASE, _LETTERS, _ROUNDS = len(_SYLLABLES), 26, 6
_MOST_WORDS = 100_000


class Cipher:
    """One invented language.

    Digits, punctuation and letters outside A-Z stay as they are; a capital first letter and words in capitals are kept so,
    other mixtures of case are lost.

    Args:
        seed: of the language; two seeds give two unrelated languages.

    Example:
        >>> language = Cipher(1)
        >>> language.decode(language("A red circle left of 2 stars."))
        'A red circle left of 2 stars.'
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._known: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        """English to the invented language."""
        return _WORD.sub(lambda found: _like(found[0], self._translated(found[0].lower())), text)

    def decode(self, text: str) -> str:
        """The invented language to English; a word that is none of its words stays as it is."""
        return _WORD.sub(lambda found: _like(found[0], self._decode(found[0].lower())), text)

    def dictionary(self, words: Iterable[str]) -> dict[str, str]:
        """Word -> translation."""
        return {word: self(word) for word in words}

    def _translated(self, word: str) -> str:
        if word not in self._known:
            if len(self._known) > _MOST_WORDS:
                self._known = {}
            self._known[word] = self._encode(word)
        return self._known[word]

    def _encode(self, word: str) -> str:
        digits = [ord(letter) - 97 for letter in word]
        number = _number(self._permute(digits, range(_ROUNDS), 1)) + _shorter(len(word))
        # Bijective base 80: each number has one spelling, so lengths need not be marked.
        values: list[int] = []
        number += 1
        while number:
            number, digit = divmod(number - 1, _BASE)
            values.insert(0, (digit + self._shift(values)) % _BASE)
        return "".join(_SYLLABLES[value] for value in values)

    def _decode(self, word: str) -> str:
        syllables = [word[i : i + 2] for i in range(0, len(word), 2)]
        if any(syllable not in _VALUE for syllable in syllables):
            return word
        values = [_VALUE[syllable] for syllable in syllables]
        number = 0
        for place, value in enumerate(values):
            number = number * _BASE + (value - self._shift(values[place + 1 :])) % _BASE + 1
        number -= 1
        length = 1
        while number >= _shorter(length + 1):
            length += 1
        digits = _digits(number - _shorter(length), length)
        return "".join(chr(97 + digit) for digit in self._permute(digits, reversed(range(_ROUNDS)), -1))

    def _shift(self, later: list[int]) -> int:
        """What is added to a syllable, by those behind it: otherwise all short words would begin alike."""
        return hash64(self.seed, f"syllable/{later}") % _BASE

    def _permute(self, digits: list[int], rounds: Iterable[int], sign: int) -> list[int]:
        """Each round adds to one half a hash of the other; taking them away in reverse order undoes it."""
        if len(digits) == 1:
            order = sorted(range(_LETTERS), key=lambda letter: hash64(self.seed, f"letter/{letter}"))
            return [order[digits[0]] if sign > 0 else order.index(digits[0])]
        cut = len(digits) // 2
        halves = [digits[:cut], digits[cut:]]
        for step in rounds:
            own, other = halves[step % 2], halves[1 - step % 2]
            mask = hash64(self.seed, f"{step}/{len(digits)}/{_number(other)}")
            size = _LETTERS ** len(own)
            halves[step % 2] = _digits((_number(own) + sign * mask) % size, len(own))
        return halves[0] + halves[1]


def add_cipher(pairs: Pairs, cipher: Cipher, *, keep: bool = True) -> Pairs:
    """Pairs whose captions come in the invented language too, behind the English ones, or instead of them.

    Args:
        pairs: with English captions.
        cipher: the language.
        keep: the English captions too.
    """

    def change(pair: Pair) -> Pair:
        own = tuple(cipher(text) for text in pair.captions)
        return replace(pair, captions=(*pair.captions, *own) if keep else own, provenance=f"cipher {cipher.seed}")

    return mapped(pairs, change)


def _like(model: str, word: str) -> str:
    """A word in the case of another: all capitals, a capital first, or none."""
    if len(model) > 1 and model.isupper():
        return word.upper()
    return word.capitalize() if model[0].isupper() else word


def _number(digits: list[int]) -> int:
    number = 0
    for digit in digits:
        number = number * _LETTERS + digit
    return number


def _digits(number: int, length: int) -> list[int]:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, _LETTERS)
        digits.append(digit)
    return digits[::-1]


def _shorter(length: int) -> int:
    """How many words have fewer letters: 26 + 26^2 + ... + 26^(length - 1)."""
    return int(_LETTERS**length - _LETTERS) // (_LETTERS - 1)
