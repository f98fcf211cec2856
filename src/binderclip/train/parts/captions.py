"""Which text a row is trained with: one of its captions and rewrites, drawn anew each epoch, and small edits of it.

LaCLIP (Fan et al. 2023, arXiv 2305.20088) draws among rewrites; EDA (Wei and Zou 2019, arXiv 1901.11196) edits words.
Every draw is a function of (seed, row, epoch): the same in any worker, order or resumed run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from binderclip.data.hashing import Draws
from binderclip.data.pairs import Pair
from binderclip.errors import InputError
from binderclip.train.parts.words import SYNONYMS

__all__ = ["CaptionPool", "bundled_synonyms", "eda", "read_rewrites", "sentences"]

Synonyms = Mapping[str, Sequence[str]] | Callable[[str], Sequence[str]]

_RULES = ("uniform", "first", "alternate", "mixture")
_DELETED = 0.1
_ABBREVIATIONS = frozenset("mr mrs ms dr prof st jr sr vs etc e.g i.e no fig ca approx inc ltd co".split())


class CaptionPool:
    """A rule that gives each row one text an epoch.

    A row's texts by name: ``caption`` is its first caption, ``rewrite_1`` its second and so on; a text in its metadata goes
    by its key (``rewrite_chatgpt``), a list there is one text each. Empty ones do not count.

    Args:
        sources: names or patterns, in order.
        rule: ``uniform`` (LaCLIP: all texts alike, the original too), ``first``, ``alternate`` (number ``epoch`` modulo how
            many there are) or ``mixture`` (the first text with probability ``p``, else one of the others, all alike).
        p: of ``mixture``, from 0 to 1.
        min_words: a chosen text of fewer words gives way to the ``fallback``, whatever that one's length.
        fallback: a name.

    Raises:
        InputError: an unknown rule, no sources, or ``mixture`` without its ``p``.
    """

    def __init__(
        self,
        sources: Sequence[str] = ("caption", "rewrite_*"),
        rule: str = "uniform",
        p: float | None = None,
        min_words: int = 2,
        fallback: str = "caption",
    ) -> None:
        if rule not in _RULES or not sources or isinstance(sources, str):
            raise InputError(f"no caption pool of sources {sources!r}, rule {rule!r}: rules are {', '.join(_RULES)}")
        if rule == "mixture" and (p is None or not 0.0 <= p <= 1.0):
            raise InputError(f"rule='mixture' needs p, the share of the first text, from 0 to 1; p is {p}")
        self.sources, self.rule, self.p = tuple(sources), rule, p
        self.min_words, self.fallback = min_words, fallback

    def texts(self, pair: Pair) -> list[str]:
        """The row's texts that the rule chooses from, in the order of ``sources``, each once."""
        named = _named(pair)
        names = [name for source in self.sources for name in named if fnmatchcase(name, source)]
        return [text for name in dict.fromkeys(names) for text in named[name]]

    def choose(self, pair: Pair, epoch: int, seed: int) -> str:
        """The row's text in this epoch, empty where it has none."""
        texts = self.texts(pair)
        original = next(iter(_named(pair).get(self.fallback, ())), "")
        chosen = self._pick(texts, Draws(seed, f"caption/{pair.id}/{epoch}"), epoch) if texts else original
        return chosen if len(chosen.split()) >= self.min_words else original

    def _pick(self, texts: list[str], draws: Draws, epoch: int) -> str:
        if self.rule == "first" or len(texts) == 1:
            return texts[0]
        if self.rule == "alternate":
            return texts[epoch % len(texts)]
        if self.rule == "uniform":
            return draws.choice("caption", texts)
        return texts[0] if draws.unit("first") < (self.p or 0.0) else draws.choice("caption", texts[1:])


def _named(pair: Pair) -> dict[str, list[str]]:
    """Name -> texts of a row."""
    named = {f"rewrite_{i}" if i else "caption": [text] for i, text in enumerate(pair.captions)}
    for key, value in pair.metadata.items():
        many = value if isinstance(value, list | tuple) else [value]
        named.setdefault(str(key), []).extend(text for text in many if isinstance(text, str))
    kept = {name: [text for text in texts if text.strip()] for name, texts in named.items()}
    return {name: texts for name, texts in kept.items() if texts}


def read_rewrites(path: str | os.PathLike[str], rows: int) -> list[str]:
    """The rewrites of a table, line i that of row i, as LaCLIP's files keep them.

    Raises:
        InputError: the file cannot be read, or has not one line a row; both numbers are named.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig", "replace")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): name a text file of one rewrite a line") from None
    lines = text.removesuffix("\n").split("\n") if text else []  # splitlines would cut at form feeds too
    if len(lines) != rows:
        raise InputError(f"{path} has {len(lines)} lines for {rows} rows: line i must be the rewrite of row i")
    return [line.strip() for line in lines]


def sentences(text: str) -> list[str]:
    """A text's sentences: cut behind ., ! or ? before white space and what may begin a sentence; not after abbreviations.

    Example:
        >>> sentences("A dog runs. It is Mr. Smith's, i.e. not ours! Is it 2.5 years old?")
        ['A dog runs.', "It is Mr. Smith's, i.e. not ours!", 'Is it 2.5 years old?']
    """
    found: list[str] = []
    start = 0
    for match in re.finditer(r"""[.!?]+["')\]”’]*\s+(?=["'(\[“‘]*[^\W_a-z])""", text):
        words = text[start : match.start()].split()
        last = words[-1].lstrip("\"'([“‘").lower() if words else ""
        if text[match.start()] == "." and (last in _ABBREVIATIONS or re.fullmatch(r"[a-z](\.[a-z])*", last)):
            continue
        found.append(text[start : match.end()].strip())
        start = match.end()
    rest = text[start:].strip()
    return [*found, rest] if rest else found


@cache
def bundled_synonyms() -> dict[str, tuple[str, ...]]:
    """Word -> others of its group, from a small list of words that captions use."""
    groups = [line.split() for line in SYNONYMS.split("|")]
    found: dict[str, tuple[str, ...]] = {}
    for group in groups:
        for word in group:
            found[word] = (*found.get(word, ()), *(other for other in group if other != word))
    return found


def eda(text: str, draws: Draws, synonyms: Synonyms | None = None) -> str:
    """One small edit: a synonym for one word, two words swapped, or each word deleted with p = 0.1; which, is drawn.

    Args:
        text: words between white space.
        draws: name the text, the epoch and the seed in it.
        synonyms: word (lower case) -> others, a mapping or a function such as ``WordNet.synonyms``; the bundled list by
            default. An empty mapping leaves swap and deletion only.

    Returns:
        The edited text; the text itself where the edit has nothing to work on or would leave nothing.
    """
    words = text.split()
    table = bundled_synonyms() if synonyms is None else synonyms
    edits = [_swap, _delete] if isinstance(table, Mapping) and not table else [_swap, _delete, _replace]
    edited = draws.choice("edit", edits)(words, draws, table)
    return " ".join(edited) if edited and edited != words else text


def _replace(words: list[str], draws: Draws, table: Synonyms) -> list[str]:
    look = table if callable(table) else lambda word: table.get(word, ())
    cores = [re.fullmatch(r"(\W*)(.*?)(\W*)", word, re.DOTALL) for word in words]
    options = [(i, m, list(look(m[2].lower()))) for i, m in enumerate(cores) if m and m[2]]
    options = [option for option in options if option[2]]
    if not options:
        return words
    i, core, others = draws.choice("word", options)
    new = draws.choice("synonym", others).replace("_", " ")
    new = new[:1].upper() + new[1:] if core[2][:1].isupper() else new
    return [*words[:i], core[1] + new + core[3], *words[i + 1 :]]


def _swap(words: list[str], draws: Draws, _: Synonyms) -> list[str]:
    if len(words) < 2:
        return words
    i, j = draws.shuffled("pair", range(len(words)))[:2]
    swapped = list(words)
    swapped[i], swapped[j] = words[j], words[i]
    return swapped


def _delete(words: list[str], draws: Draws, _: Synonyms) -> list[str]:
    gone = draws.array("deleted", len(words)) < _DELETED
    return [word for word, drop in zip(words, gone, strict=True) if not drop]
