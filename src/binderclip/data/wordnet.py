"""WordNet (Miller 1995) from a Parquet file that the user names: synonyms, glosses, and what is a kind of what.

Columns: id ("n02084071", the ids that ImageNet uses), pos, lemmas, gloss, hypernyms (ids). Nothing of it is shipped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from binderclip.data.sources.parquet import pyarrow_module
from binderclip.errors import InputError, UnknownNameError

__all__ = ["Synset", "WordNet"]

_COLUMNS = ("id", "pos", "lemmas", "gloss", "hypernyms")
_MOST_PATHS = 1000


@dataclass(frozen=True)
class Synset:
    """One meaning.

    Args:
        id: its part of speech and number, as in "n02084071".
        pos: "n", "v", "a" or "s".
        lemmas: the words that have this meaning, the commonest first.
        gloss: definition, then examples in quotes.
        hypernyms: ids of what this is a kind of.
    """

    id: str
    pos: str
    lemmas: tuple[str, ...]
    gloss: str
    hypernyms: tuple[str, ...]

    @property
    def definition(self) -> str:
        """The gloss without its examples."""
        return re.split(r';\s*"', self.gloss, maxsplit=1)[0].strip().rstrip(";")

    @property
    def examples(self) -> tuple[str, ...]:
        """The sentences in quotes."""
        return tuple(re.findall(r'"([^"]+)"', self.gloss))


class WordNet:
    """All meanings, by id and by word. Words are looked up without case; underscores are spaces.

    Args:
        path: of the Parquet file.

    Raises:
        InputError: the file cannot be read, or lacks a column.
        NeedsExtraError: pyarrow is not installed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        pyarrow = pyarrow_module("reading WordNet")
        from pyarrow.parquet import read_table

        try:
            table = read_table(Path(path))
        except (OSError, pyarrow.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{path} cannot be read ({reason[:100]}): name WordNet's Parquet file") from None
        lacking = [name for name in _COLUMNS if name not in table.column_names]
        if lacking:
            raise InputError(f"{path} has no column {', '.join(lacking)}: WordNet's file has {', '.join(_COLUMNS)}")
        self._table: Any = table.select(list(_COLUMNS)).combine_chunks()
        self._row = {key: row for row, key in enumerate(self._table["id"].to_pylist())}
        self._by_word: dict[str, list[int]] = {}
        for row, lemmas in enumerate(self._table["lemmas"].to_pylist()):
            for lemma in lemmas:
                self._by_word.setdefault(_word(lemma), []).append(row)
        self._below: dict[str, list[str]] | None = None

    def __len__(self) -> int:
        return len(self._row)

    def __contains__(self, key: object) -> bool:
        return key in self._row

    def __getitem__(self, key: str) -> Synset:
        """The meaning of an id.

        Raises:
            UnknownNameError: there is none.
        """
        if key not in self._row:
            raise UnknownNameError(f"WordNet has no id {key!r}: ids look like n02084071")
        return self._at(self._row[key])

    def synsets(self, word: str, pos: str | None = None) -> list[Synset]:
        """Meanings of a word, in the order of the file; none for a word that is not there.

        Args:
            word: as in "ice bear" or "ice_bear".
            pos: "n", "v" or "a" keeps one part of speech ("a" with satellites).
        """
        wanted = {None: None, "a": ("a", "s")}.get(pos, (pos,))
        found = [self._at(row) for row in self._by_word.get(_word(word), [])]
        return [synset for synset in found if wanted is None or synset.pos in wanted]

    def synonyms(self, word: str, pos: str | None = None) -> list[str]:
        """Other words of the same meanings, each once."""
        own = _word(word)
        words = (lemma for synset in self.synsets(word, pos) for lemma in synset.lemmas)
        return list(dict.fromkeys(lemma for lemma in words if _word(lemma) != own))

    def glosses(self, word: str, pos: str | None = None) -> list[str]:
        """Definitions of a word, one a meaning."""
        return [synset.definition for synset in self.synsets(word, pos)]

    def hypernyms(self, key: str) -> list[Synset]:
        """What a meaning is a kind of: one step up, where the file holds it.

        Raises:
            UnknownNameError: no such id.
        """
        return [self[above] for above in self[key].hypernyms if above in self]

    def chains(self, key: str) -> list[list[Synset]]:
        """Every way up from a meaning to a root, without the meaning itself; at most 1,000 of them.

        Raises:
            UnknownNameError: no such id.
        """
        found = []
        for path in self._paths([key]):
            found.append([self[step] for step in path[1:]])
            if len(found) == _MOST_PATHS:
                break
        return found

    def ancestors(self, key: str) -> list[Synset]:
        """Everything a meaning is a kind of, the nearest first, each once.

        Raises:
            UnknownNameError: no such id.
        """
        seen, ring = {key: None}, [key]
        while ring:
            ring = [above.id for below in ring for above in self.hypernyms(below) if above.id not in seen]
            seen |= dict.fromkeys(ring)
        return [self[above] for above in list(seen)[1:]]

    def hyponyms(self, key: str) -> list[Synset]:
        """What is directly a kind of a meaning.

        Raises:
            UnknownNameError: no such id.
        """
        if self._below is None:
            self._below = {}
            rows = zip(self._table["id"].to_pylist(), self._table["hypernyms"].to_pylist(), strict=True)
            for below, aboves in rows:
                for above in aboves:
                    self._below.setdefault(above, []).append(below)
        return [self[below] for below in self._below.get(self[key].id, [])]

    def descendants(self, key: str) -> set[str]:
        """Ids of everything that is a kind of a meaning.

        Raises:
            UnknownNameError: no such id.
        """
        seen, left = {key}, [key]
        while left:
            new = [below.id for below in self.hyponyms(left.pop()) if below.id not in seen]
            seen.update(new)
            left += new
        return seen - {key}

    def _paths(self, path: list[str]) -> Iterator[list[str]]:
        above = [synset.id for synset in self.hypernyms(path[-1]) if synset.id not in path]
        if not above:
            yield path
        for key in above:
            yield from self._paths([*path, key])

    def _at(self, row: int) -> Synset:
        values = {name: self._table[name][row].as_py() for name in _COLUMNS}
        lemmas, hypernyms = tuple(values["lemmas"] or ()), tuple(values["hypernyms"] or ())
        return Synset(values["id"], values["pos"], lemmas, values["gloss"] or "", hypernyms)


def _word(text: str) -> str:
    return " ".join(text.replace("_", " ").lower().split())
