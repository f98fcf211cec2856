"""Parts of speech without a library: small word lists, endings and the word before; enough to tell nouns from the rest."""

from __future__ import annotations

import importlib
import string
from collections.abc import Sequence
from functools import cache
from typing import Protocol

from binderclip.errors import InputError
from binderclip.train.parts import words

__all__ = ["NltkTagger", "Tagger", "WordListTagger"]


class Tagger(Protocol):
    """Words of a sentence to their parts of speech.

    Attributes:
        name: says which tagger was used.
    """

    name: str

    def __call__(self, words: Sequence[str]) -> list[str]:
        """One Penn Treebank tag a word: NN... nouns, JJ... adjectives, VB... verbs."""
        ...


class WordListTagger:
    """The bundled tagger: lists of common words, then endings; what neither knows is a noun.

    Example:
        >>> WordListTagger()("the quick brown fox jumps over a lazy dog".split())
        ['DT', 'JJ', 'JJ', 'NN', 'VB', 'IN', 'DT', 'JJ', 'NN']
    """

    name = "word list"

    def __call__(self, words: Sequence[str]) -> list[str]:
        """Tags of a sentence's words; punctuation around a word does not count."""
        tags: list[str] = []
        for word in words:
            tag = _alone(word.strip(string.punctuation).lower())
            # "a run", "the big jump": after a determiner or an adjective a verb is a noun, but no participle.
            bare = tag == "VB" and not word.lower().endswith(("ing", "ed", "en", "wn", "rn"))
            tags.append("NN" if bare and tags and tags[-1] in ("DT", "JJ", "CD") else tag)
        return tags


@cache
def _alone(word: str) -> str:
    """The tag of a word out of context."""
    table = _table()
    if word in table:
        return table[word]
    if not word or not any(letter.isalpha() for letter in word):
        return "CD" if any(letter.isdigit() for letter in word) else "SYM"
    for ending, tag in words.ENDINGS:
        if len(word) > len(ending) + 2 and word.endswith(ending):
            return tag
    return "NN"


@cache
def _table() -> dict[str, str]:
    """Word to tag; where a word is in two lists the last one written here wins."""
    table = {form: "VB" for verb in words.VERBS.split() for form in _forms(verb)}
    table |= dict.fromkeys(words.IRREGULAR.split(), "VB")
    table |= dict.fromkeys(words.ADJECTIVES.split(), "JJ")
    table |= dict.fromkeys(words.NOUNS.split(), "NN")
    for tag, others in words.CLOSED.items():
        table |= dict.fromkeys(others.split(), tag)
    return table


def _forms(verb: str) -> list[str]:
    """A regular verb's forms, with and without a doubled consonant: one too many does no harm."""
    stem = verb[:-1] if verb.endswith("e") and not verb.endswith("ee") else verb
    third = verb + ("es" if verb.endswith(("s", "sh", "ch", "x", "z", "o")) else "s")
    forms = [verb, third, stem + "ing", stem + "ed", verb + verb[-1] + "ing", verb + verb[-1] + "ed"]
    if verb.endswith("y") and verb[-2] not in "aeiou":
        forms += [verb[:-1] + "ies", verb[:-1] + "ied"]
    return forms


class NltkTagger:
    """NLTK's averaged perceptron tagger, where the package and its data are installed.

    Raises:
        InputError: one of them is not.
    """

    name = "nltk perceptron"

    def __init__(self) -> None:
        try:
            self._tag = importlib.import_module("nltk").pos_tag
            self._tag(["word"])
        except (ImportError, LookupError):
            raise InputError(
                "NLTK or its data 'averaged_perceptron_tagger_eng' is missing: install both, or use WordListTagger"
            ) from None

    def __call__(self, words: Sequence[str]) -> list[str]:
        """Tags of a sentence's words."""
        return [tag for _, tag in self._tag(list(words))]
