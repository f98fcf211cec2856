"""BLEU, CIDEr-D and repetition against brute force and closed forms."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from binderclip.caption.metrics import bleu, cider, distinct_n, diversity, ngrams, rep_n, sentence_loop_rate, words
from binderclip.errors import InputError

HYPS = ["a red dog runs fast", "two cats on the mat", "a boat"]
REFS = [
    ["a red dog runs", "the dog is running fast"],
    ["two cats sit on the mat"],
    ["a small boat on the sea", "a boat"],
]


def test_words() -> None:
    assert words("A dog's tail, isn't it? No: 2!") == ["a", "dog's", "tail", "isn't", "it", "no", "2"]


def test_cider_by_brute_force() -> None:
    def vector(text: str, n: int) -> dict[tuple[str, ...], float]:
        out: dict[tuple[str, ...], float] = {}
        tokens = words(text)
        for i in range(len(tokens) - n + 1):
            gram = tuple(tokens[i : i + n])
            df = sum(any(gram in ngrams(words(one), n) for one in own) for own in REFS)
            out[gram] = out.get(gram, 0.0) + math.log(3) - math.log(max(1, df))
        return out

    total = 0.0
    for hyp, own in zip(HYPS, REFS, strict=True):
        score = 0.0
        for ref in own:
            for n in (1, 2, 3, 4):
                h, r = vector(hyp, n), vector(ref, n)
                dot = sum(min(h[g], r[g]) * r[g] for g in h if g in r)
                norm = math.sqrt(sum(v * v for v in h.values()) * sum(v * v for v in r.values()))
                gap = (len(words(hyp)) - 1) - (len(words(ref)) - 1)
                score += (dot / norm if norm else 0) * math.exp(-gap * gap / 72)
        total += 10 * score / (4 * len(own))
    assert cider(HYPS, REFS) == pytest.approx(total / 3, abs=1e-6)


def test_cider_of_the_references_is_10() -> None:
    texts = ["a red dog runs fast", "two cats sit quietly here", "my boat sails north today"]
    assert cider(texts, [[text] for text in texts]) == pytest.approx(10.0)


def test_bleu() -> None:
    texts = ["a red dog runs fast today", "two cats sit on the mat"]
    assert bleu(texts, [[text] for text in texts]) == pytest.approx(1.0, abs=1e-6)
    found, hits, size = bleu(["the the the the"], [["the cat is here", "the dog"]], n=1), 1, 4
    assert found == pytest.approx(hits / size, abs=1e-6)  # clipped by the most in one reference
    short = bleu(["a dog"], [["a dog runs away"]], n=1)
    assert short == pytest.approx(math.exp(1 - 4 / 2), abs=1e-6)
    with pytest.raises(InputError, match="at least one reference"):
        bleu(["a"], [[]])


def test_repetition() -> None:
    text = [1, 2, 1, 2, 1]
    assert rep_n([text], 2) == pytest.approx(1 - 2 / 4)
    assert rep_n([text, [5, 6, 7]], 2) == pytest.approx(1 - 4 / 6)  # over the corpus
    assert rep_n([[1]], 3) == 0
    slow = 1.0
    for n in (2, 3, 4):
        grams = ngrams(text, n)
        slow *= len(Counter(grams)) / len(grams)
    assert diversity([text]) == pytest.approx(slow)
    assert distinct_n([[1, 2], [1, 2]], 1) == 0.5
    assert sentence_loop_rate("A dog. A dog. A cat! A cat? End.") == pytest.approx(2 / 5)
    assert sentence_loop_rate("") == 0
