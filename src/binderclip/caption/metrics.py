"""How good and how varied texts are: BLEU, CIDEr-D, repetition. Plain Python, as the COCO tools have it where right.

- BLEU-n: clipped n-gram precision against all references, geometric mean, brevity penalty ``exp(1 - r/c)`` if ``c < r`` with
  the closest reference length; 1e-15 in numerators and 1e-9 in denominators.
- CIDEr-D (Vedantam et al. 2015, arXiv 1411.5726): ``10 mean_n mean_r [sum_w min(h_w, r_w) r_w / (|h| |r|)]
  exp(-(l_h - l_r)^2 / (2 sigma^2))`` of TF-IDF vectors; lengths are numbers of bigrams, as in the COCO tool.
- ``rep_n = 1 - unique / all`` n-grams, summed over the corpus first; ``diversity = prod_{n=2..4} (1 - rep_n)``.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import pairwise

import numpy as np

from binderclip.errors import InputError

__all__ = ["bleu", "cider", "distinct_n", "diversity", "ngrams", "rep_n", "sentence_loop_rate", "words"]

_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?", re.IGNORECASE)


def words(text: str) -> list[str]:
    """Lower-case words, punctuation dropped."""
    return [word.lower() for word in _WORD.findall(text)]


def ngrams(tokens: Sequence[Hashable], n: int) -> list[tuple[Hashable, ...]]:
    """All runs of n tokens."""
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def bleu(hyps: Sequence[str], refs: Sequence[Sequence[str]], n: int = 4) -> float:
    """Corpus BLEU-n.

    Raises:
        InputError: not as many, or a row without a reference.
    """
    _check(hyps, refs)
    matched, total = [0] * n, [0] * n
    long_h = long_r = 0
    for hyp, own in zip(hyps, refs, strict=True):
        h, r = words(hyp), [words(one) for one in own]
        long_h += len(h)
        long_r += min((abs(len(one) - len(h)), len(one)) for one in r)[1]
        for k in range(1, n + 1):
            found, most = Counter(ngrams(h, k)), Counter[tuple[Hashable, ...]]()
            for one in r:
                most |= Counter(ngrams(one, k))
            matched[k - 1] += sum((found & most).values())
            total[k - 1] += sum(found.values())
    logs = [math.log((m + 1e-15) / (t + 1e-9)) for m, t in zip(matched, total, strict=True)]
    brevity = 1.0 if long_h >= long_r else math.exp(1 - long_r / max(long_h, 1e-9))
    return brevity * math.exp(sum(logs) / n)


def cider(hyps: Sequence[str], refs: Sequence[Sequence[str]], sigma: float = 6.0) -> float:
    """CIDEr-D, mean over rows; document frequencies are of the references at hand.

    Raises:
        InputError: not as many, or a row without a reference.
    """
    _check(hyps, refs)
    frequency: Counter[tuple[Hashable, ...]] = Counter()
    for own in refs:
        frequency.update({gram for one in own for n in range(1, 5) for gram in ngrams(words(one), n)})
    log_n = math.log(len(refs))

    def vectors(text: str) -> list[dict[tuple[Hashable, ...], float]]:
        return [
            {g: c * (log_n - math.log(max(1, frequency[g]))) for g, c in Counter(ngrams(words(text), n)).items()}
            for n in range(1, 5)
        ]

    scores = []
    for hyp, own in zip(hyps, refs, strict=True):
        h, length = vectors(hyp), max(len(words(hyp)) - 1, 0)
        total = 0.0
        for one in own:
            r = vectors(one)
            fade = math.exp(-((length - max(len(words(one)) - 1, 0)) ** 2) / (2 * sigma**2))
            for a, b in zip(h, r, strict=True):
                norm = math.sqrt(sum(v * v for v in a.values())) * math.sqrt(sum(v * v for v in b.values()))
                shared = sum(min(v, b[g]) * b[g] for g, v in a.items() if g in b)
                total += fade * shared / norm if norm else 0.0
        scores.append(10 * total / (4 * len(own)))
    return float(np.mean(scores))


def rep_n(texts: Sequence[Sequence[Hashable]], n: int) -> float:
    """Share of n-grams that are repeats within their text, over a corpus of token lists; 0 where there are none."""
    unique = sum(len(set(ngrams(text, n))) for text in texts)
    total = sum(max(len(text) - n + 1, 0) for text in texts)
    return 1 - unique / total if total else 0.0


def diversity(texts: Sequence[Sequence[Hashable]]) -> float:
    """``prod_{n=2..4} (1 - rep_n)``."""
    return math.prod(1 - rep_n(texts, n) for n in (2, 3, 4))


def distinct_n(texts: Sequence[Sequence[Hashable]], n: int) -> float:
    """Different n-grams of the whole corpus over all of them."""
    every = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(every)) / len(every) if every else 0.0


def sentence_loop_rate(text: str) -> float:
    """Share of sentences that are the one just before once more."""
    parts = [" ".join(words(one)) for one in re.split(r"[.!?]+\s*", text) if one.strip()]
    return sum(a == b for a, b in pairwise(parts)) / len(parts) if parts else 0.0


def _check(hyps: Sequence[str], refs: Sequence[Sequence[str]]) -> None:
    if len(hyps) != len(refs) or not hyps or any(not own for own in refs):
        raise InputError(f"{len(hyps)} texts and {len(refs)} lists of references: give at least one reference a text")
