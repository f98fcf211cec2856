"""Shorter texts for training: truncation, random, block and syntax reduction (CLIPA, Li et al. 2023, arXiv 2305.07017).

Words of a sentence are shortened before the tokenizer, ids after it. A text that already fits is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from binderclip.data.hashing import Draws
from binderclip.errors import InputError
from binderclip.train.parts.tagging import Tagger, WordListTagger

__all__ = ["shorten_ids", "shorten_words"]


def shorten_words(
    text: str, words: int, how: str = "syntax", tagger: Tagger | None = None, draws: Draws | None = None
) -> str:
    """At most ``words`` words of a text, in the order of the sentence.

    ``syntax`` keeps nouns before adjectives before verbs before all others, the earlier of two alike. For a context of
    ``L`` tokens give ``L - 2`` words (``L - 1`` where one slot is special), and let the tokenizer cut what is still longer.

    Args:
        text: words between white space.
        words: how many to keep.
        how: ``syntax``, ``truncate`` (the first), ``random`` (a subset) or ``block`` (neighbours).
        tagger: parts of speech of a sentence; the bundled ``WordListTagger`` by default.
        draws: of ``random`` and ``block``; name the text, the epoch and the seed in it.

    Raises:
        InputError: no words wanted, an unknown ``how``, or no draws for a random one.

    Example:
        >>> shorten_words("the quick brown fox jumps over a lazy dog", 4)
        'quick brown fox dog'
    """
    if words < 1:
        raise InputError(f"a text cannot be cut to {words} words: keep at least 1")
    split = text.split()
    order = _order(how, split, words, tagger, draws)  # checked for short texts too
    return text if len(split) <= words else " ".join(split[i] for i in sorted(order()[:words]))


def _order(
    how: str, words: Sequence[str], most: int, tagger: Tagger | None, draws: Draws | None
) -> Callable[[], list[int]]:
    """What gives the numbers of the words, the most wanted first."""
    if how in ("random", "block") and draws is None:
        raise InputError(f"how={how!r} is random: pass draws, as Draws(seed, 'text/ID/EPOCH')")
    places = range(len(words))
    if how == "truncate":
        return lambda: list(places)
    if how == "random" and draws is not None:
        return lambda: draws.shuffled("words", places)
    if how == "block" and draws is not None:
        return lambda: list(places)[draws.integer("start", 0, len(words) - most) :]
    if how != "syntax":
        raise InputError(f"unknown way of shortening {how!r}: use 'syntax', 'truncate', 'random' or 'block'")
    return lambda: _by_priority((tagger or WordListTagger())(words))


def _by_priority(tags: Sequence[str]) -> list[int]:
    """Places in order of nouns (NN*) 1, adjectives (JJ*) 2, verbs (VB*) 3, others 4; stable."""
    rank = {"NN": 1, "JJ": 2, "VB": 3}
    return sorted(range(len(tags)), key=lambda i: rank.get(tags[i][:2], 4))


def shorten_ids(
    ids: Tensor,
    eos: Tensor,
    length: int,
    how: str = "truncate",
    generator: torch.Generator | None = None,
    *,
    bos: bool = True,
    end: bool = True,
) -> tuple[Tensor, Tensor]:
    """Token ids cut to ``length``: start and end token stay, of the others as many as fit, in their order.

    Args:
        ids: ``[N, L]``, padded on the right.
        eos: ``[N]`` index of each row's last token.
        length: columns wanted; rows are not made longer, so ``L <= length`` comes back as it was.
        how: ``truncate`` (the first tokens), ``random`` (a subset) or ``block`` (neighbours, from a uniform start).
        generator: of the draws, made on the CPU; torch's global one by default.
        bos: rows begin with a start token.
        end: rows end with an end token (the one at ``eos``); without one the last token is as any other.

    Returns:
        ids ``[N, length]`` and the new index of each row's last token ``[N]``.

    Raises:
        InputError: no room for a word, or an unknown ``how``.
    """
    room = length - bos - end
    if room < 1:
        raise InputError(f"{length} tokens leave no room for a word: give at least {1 + bos + end}")
    if how not in ("truncate", "random", "block"):
        raise InputError(f"unknown way of shortening ids {how!r}: use 'truncate', 'random' or 'block'")
    n, width = ids.shape
    if width <= length:
        return ids, eos
    place = torch.arange(width, device=ids.device).expand(n, -1)  # [N, L]
    last = eos[:, None]
    words = last + (0 if end else 1) - int(bos)  # [N, 1], tokens that may go
    if how == "truncate":
        score = place / width
    elif how == "random":
        score = torch.rand(n, width, generator=generator).to(ids.device)
    else:
        spare = (words - room).clamp_min(0)
        start = (torch.rand(n, 1, generator=generator).to(ids.device) * (spare + 1)).long().clamp(max=spare) + int(bos)
        score = 1.0 - ((place >= start) & (place < start + room)).float()
    score = score.masked_fill(place > last, 2.0)  # padding last, from its left
    fixed = (place < int(bos)) | ((place == last) & end)
    kept = score.masked_fill(fixed, -1.0).argsort(dim=1, stable=True)[:, :length].sort(dim=1).values  # [N, length]
    return ids.gather(1, kept), ((kept <= last).sum(1) - 1).to(eos.dtype)
