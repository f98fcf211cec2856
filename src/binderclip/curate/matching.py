"""Which entries of a list a caption holds, as MetaCLIP matches them (arXiv 2309.16671): whole words, case kept.

An entry e matches when `" " + e + " "` is part of the spaced caption. Scripts that put no spaces between words leave the
space away on the side where the entry begins or ends with one of their letters.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from binderclip.errors import InputError

__all__ = ["Automaton", "Matcher", "key_of", "spaced"]

_WRAPPED = str.maketrans({mark: f" {mark} " for mark in ",.;:?!`"} | dict.fromkeys("\t\n\r", " "))
# First and last code points of the blocks of Chinese and Japanese, Thai, Lao, Tibetan, Burmese and Khmer letters.
_UNSPACED = (
    (0x0E00, 0x0EFF),
    (0x0F00, 0x0FFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3040, 0x30FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


def spaced(caption: str) -> str:
    """A caption with a space at both ends and round each of ``, . ; : ? !`` and the back-quote."""
    return f" {caption.strip()} ".translate(_WRAPPED)


def key_of(entry: str) -> str:
    """What is looked for in a spaced caption."""
    return ("" if _unspaced(entry[0]) else " ") + entry + ("" if _unspaced(entry[-1]) else " ")


class Matcher:
    """Numbers of the entries in a caption, each once, in one pass.

    Entries between spaces are runs of the caption's tokens (split on the single space, empty ones kept), found in a
    table; the others go through an `Automaton`.

    Args:
        entries: distinct texts; spaces at their ends are cut.

    Attributes:
        entries: as they are matched.

    Raises:
        InputError: no entries, an empty one, or one that comes twice.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        self.entries = [entry.strip() for entry in entries]
        if not self.entries or not all(self.entries):
            raise InputError("the list of entries is empty, or one of them is: give a line of text an entry")
        self._number = {entry: i for i, entry in enumerate(self.entries)}
        if len(self._number) != len(self.entries):
            raise InputError(f"{len(self.entries) - len(self._number)} entries come twice: give each once")
        lengths: dict[str, set[int]] = {}
        loose = []
        for entry in self.entries:
            if key_of(entry) == f" {entry} ":
                tokens = entry.split(" ")
                lengths.setdefault(tokens[0], set()).add(len(tokens))
            else:
                loose.append(entry)
        self._lengths = {first: tuple(sorted(known)) for first, known in lengths.items()}
        self._loose = [self._number[entry] for entry in loose]
        self._automaton = Automaton([key_of(entry) for entry in loose]) if loose else None

    def __call__(self, caption: str) -> list[int]:
        """The matched entries' numbers, ascending."""
        text = spaced(caption)
        tokens = text.split(" ")
        found: set[int] = set()
        for start, token in enumerate(tokens):
            for length in self._lengths.get(token, ()):
                number = self._number.get(" ".join(tokens[start : start + length]))
                if number is not None:
                    found.add(number)
        if self._automaton is not None:
            found.update(self._loose[number] for number in self._automaton(text))
        return sorted(found)


class Automaton:
    """Aho and Corasick (1975): numbers of all keys that are part of a text, in one pass over it.

    Args:
        keys: non-empty texts.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._out: list[int] = [-1]  # the key that ends in a state
        for number, key in enumerate(keys):
            state = 0
            for letter in key:
                if letter not in self._next[state]:
                    self._next[state][letter] = len(self._next)
                    self._next.append({})
                    self._out.append(-1)
                state = self._next[state][letter]
            self._out[state] = number
        self._fail = [0] * len(self._next)  # the longest proper suffix that is a state
        self._more = [0] * len(self._next)  # the longest proper suffix in which a key ends
        waiting = deque(self._next[0].values())
        while waiting:
            state = waiting.popleft()
            for letter, child in self._next[state].items():
                back = self._fail[state]
                while back and letter not in self._next[back]:
                    back = self._fail[back]
                back = self._next[back].get(letter, 0)
                self._fail[child] = back
                self._more[child] = back if self._out[back] >= 0 else self._more[back]
                waiting.append(child)

    def __call__(self, text: str) -> set[int]:
        """Numbers of the keys in a text."""
        state, found = 0, set()
        for letter in text:
            while state and letter not in self._next[state]:
                state = self._fail[state]
            state = self._next[state].get(letter, 0)
            end = state if self._out[state] >= 0 else self._more[state]
            while end:
                found.add(self._out[end])
                end = self._more[end]
        return found


def _unspaced(letter: str) -> bool:
    return any(low <= ord(letter) <= high for low, high in _UNSPACED)
