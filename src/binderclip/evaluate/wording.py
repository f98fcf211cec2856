"""Features of texts: words, classes, frequency, syntax by rules; what `feature_correlation` tests.

English, by short lists and endings. A tag is Penn Treebank's first two letters: NN, VB, JJ, RB, DT, IN, PR, CC, CD, MD, TO.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise

from binderclip.data.wordnet import Synset, WordNet

__all__ = ["Lexicon", "chunks", "sentence_features", "tags_of", "words_of"]

_CLOSED = {
    "DT": "a an the this that these those some any each every no both another",
    "IN": "on in at of with by near under over above below behind beside between through across along around into onto "
    "from as for while against inside outside off out up down toward towards during before after about than",
    "PR": "i we you he she it they me us him her them his its their our your my himself herself itself themselves who what",
    "CC": "and or but nor",
    "TO": "to",
    "MD": "can could will would may might must shall should",
    "AUX": "is are was were be been being am has have had do does did",
    "CD": "one two three four five six seven eight nine ten several many few",
    "RB": "not very too also there here together away back",
    "JJ": "red green blue yellow black white brown grey gray pink orange purple violet golden dark bright big small large "
    "little tall short long young old new wet dry hot cold empty full open wooden good bad happy sad other same",
}
_WORD = {word: tag for tag, words in _CLOSED.items() for word in words.split()}
_ADJECTIVE = ("ful", "ous", "ive", "able", "ible", "ish", "less", "ical")
_SLOT = {"NN": "n", "VB": "v", "JJ": "a"}
CONTENT = ("NN", "VB", "JJ", "RB")


def words_of(text: str) -> list[str]:
    """Lower-cased words without punctuation."""
    return re.findall(r"[^\W_]+(?:['-][^\W_]+)*", text.lower())


def tags_of(words: Sequence[str]) -> list[str]:
    """A tag for each word: lists, then endings, then what stands before; what is left is a noun."""
    tags: list[str] = []
    for i, word in enumerate(words):
        before = tags[-1] if tags else ""
        tag = _WORD.get(word, "NN")
        if tag == "AUX":
            tag = "VB"
        elif tag == "NN" and word.isdigit():
            tag = "CD"
        elif tag == "NN" and before not in ("DT", "JJ", "CD"):
            follows = _WORD.get(words[i + 1], "NN") if i + 1 < len(words) else "."
            tag = _open(word, before, follows)
        elif tag == "NN" and word.endswith(_ADJECTIVE) and i + 1 < len(words) and words[i + 1] not in _WORD:
            tag = "JJ"
        tags.append(tag)
    return tags


def _open(word: str, before: str, follows: str) -> str:
    """The tag of a word that no list holds and no article announces."""
    if len(word) > 4 and word.endswith("ly"):
        return "RB"
    if len(word) > 4 and word.endswith(("ing", "ed")):
        return "VB"
    if word.endswith(_ADJECTIVE):
        return "JJ"
    if before in ("MD", "TO") and follows != ".":
        return "VB"
    # "the dog runs on", "it sees the cat": an s behind a noun or a pronoun, before a small word or the end
    third = word.endswith("s") and not word.endswith("ss") and before in ("NN", "PR")
    return "VB" if third and follows in ("DT", "IN", "RB", "PR", "CD", ".", "TO") else "NN"


def chunks(tags: Sequence[str]) -> int:
    """Noun phrases: runs of determiners, numbers, adjectives and nouns that hold a noun."""
    run = "".join("n" if t == "NN" else "d" if t == "DT" else "a" if t in ("CD", "JJ") else "." for t in tags)
    return len(re.findall(r"d?a*n+", run))


def sentence_features(words: Sequence[str], tags: Sequence[str]) -> dict[str, str | bool]:
    """Tense, aspect, voice, person, number, kinds of words and the part of speech of the root."""
    pairs = list(zip(words, tags, strict=True))
    verbs = [word for word, tag in pairs if tag == "VB"]
    be = {"is", "are", "was", "were", "be", "been", "being", "am"}
    past = any(word in ("was", "were", "had", "did") or (word.endswith("ed") and len(word) > 4) for word in verbs)
    passive = any(a in be and (b.endswith("ed") and t == "VB") for (a, _), (b, t) in pairwise(pairs))
    first = next((word for word, tag in pairs if tag in ("NN", "PR")), "")
    return {
        "has adjective": "JJ" in tags,
        "has adverb": "RB" in tags,
        "has gerund": any(word.endswith("ing") for word in verbs),
        "passive": passive,
        "plural": first.endswith("s") and not first.endswith("ss"),
        "tense": "none" if not verbs else "past" if past and not passive else "present",
        "aspect": "progressive"
        if any(word.endswith("ing") for word in verbs)
        else "perfect"
        if any(word in ("has", "have", "had") for word in verbs) and past
        else "simple",
        "person": "1" if {"i", "we"} & set(words) else "2" if "you" in words else "3",
        "root": "VB" if verbs else "NN" if "NN" in tags else "other",
    }


class Lexicon:
    """What is known of single words; each part may be absent.

    Args:
        wordnet: for hypernyms, senses and depth.
        frequencies: word -> count; a word that is not there counts 0.
        concreteness: word -> rating; a word that is not there has none.
        classes: class -> words; one that ends in ``*`` stands for all that begin so. Licensed lists are the user's own.
    """

    def __init__(
        self,
        wordnet: WordNet | None = None,
        frequencies: Mapping[str, float] | None = None,
        concreteness: Mapping[str, float] | None = None,
        classes: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.wordnet, self.frequencies, self.concreteness = wordnet, frequencies, concreteness
        self._exact: dict[str, set[str]] = {}
        self._prefix: list[tuple[str, str]] = []
        for name, members in (classes or {}).items():
            for word in members:
                if word.endswith("*"):
                    self._prefix.append((word[:-1].lower(), name))
                else:
                    self._exact.setdefault(word.lower(), set()).add(name)
        self.synset = lru_cache(maxsize=None)(self._synset)
        self.facts = lru_cache(maxsize=None)(self._facts)

    def classes_of(self, word: str) -> set[str]:
        """Names of the classes a word is in."""
        return self._exact.get(word, set()) | {name for start, name in self._prefix if word.startswith(start)}

    def frequency(self, word: str) -> float:
        """Of a phrase: that of its rarest word."""
        table = self.frequencies or {}
        return min(float(table.get(part, 0.0)) for part in word.split())

    def _synset(self, word: str, tag: str) -> Synset | None:
        """The first meaning of the word's part of speech: where it is named earliest, then the order of the file.

        The file keeps no order of senses; the word that a meaning is named by first is the best sign of one.
        """
        if self.wordnet is None or tag not in _SLOT:
            return None
        for form in _forms(word, tag):
            found = self.wordnet.synsets(form, _SLOT[tag])
            if found:
                lemmas = [[lemma.replace("_", " ").lower() for lemma in one.lemmas] for one in found]
                return found[min(range(len(found)), key=lambda i: (lemmas[i].index(form), i))]
        return None

    def _facts(self, word: str, tag: str) -> tuple[frozenset[str], frozenset[str], float, float]:
        """Direct hypernyms, those above them, senses over all parts of speech, steps up to the root (NaN: no meaning)."""
        first = self.synset(word, tag)
        if first is None or self.wordnet is None:
            return frozenset(), frozenset(), 0.0, float("nan")
        direct = {one.id: _label(one) for one in self.wordnet.hypernyms(first.id)}
        above = {one.id: _label(one) for one in self.wordnet.ancestors(first.id)}
        senses = {one.id for form in _forms(word, tag) for one in self.wordnet.synsets(form)}
        steps, ring, seen = 0, [first.id], {first.id}
        while ring := [up.id for one in ring for up in self.wordnet.hypernyms(one) if up.id not in seen]:
            steps += 1
            seen.update(ring)
        return (
            frozenset(direct.values()),
            frozenset(label for key, label in above.items() if key not in direct),
            float(len(senses)),
            float(steps),
        )


def _label(synset: Synset) -> str:
    return f"{synset.lemmas[0].replace('_', ' ')} ({synset.id})"


def _forms(word: str, tag: str) -> list[str]:
    """The word, then its dictionary forms, likely first."""
    out = [word]
    rules: Iterable[tuple[str, tuple[str, ...]]] = {
        "NN": (("ies", ("y",)), ("men", ("man",)), ("ches", ("ch",)), ("shes", ("sh",)), ("xes", ("x",)), ("s", ("",))),
        "VB": (
            ("ies", ("y",)),
            ("es", ("e", "")),
            ("s", ("",)),
            ("ied", ("y",)),
            ("ed", ("e", "")),
            ("ing", ("", "e")),
        ),
    }.get(tag, ())
    for ending, stems in rules:
        if word.endswith(ending) and len(word) > len(ending) + 1:
            base = word[: -len(ending)]
            out += [base + stem for stem in stems]
            if ending in ("ed", "ing") and len(base) > 2 and base[-1] == base[-2]:
                out.append(base[:-1])
    return list(dict.fromkeys(out))
