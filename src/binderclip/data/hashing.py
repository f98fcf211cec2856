"""Randomness as a function of names, never of an order: draws do not depend on sharding, order or resuming.

With u(id) = hash64(seed, id) / 2^64 a row gets the same number whatever other rows there are and whoever asks first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from binderclip.errors import InputError

__all__ = ["Draws", "hash64", "hash64_range", "uniform"]

T = TypeVar("T")

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))


def hash64(seed: int, key: str) -> int:
    """A number of 64 bits that depends on nothing but a seed and an id: BLAKE2b of 8 bytes, keyed by the seed."""
    salted = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8, key=str(seed).encode())
    return int.from_bytes(salted.digest(), "big")


def uniform(seed: int, keys: Sequence[str]) -> NDArray[np.float64]:
    """hash64(seed, id) / 2^64 of each id: numbers [N] in [0, 1) that look random and always come out the same."""
    return np.array([hash64(seed, key) / 2.0**64 for key in keys], dtype=np.float64)


def hash64_range(seed: int, key: str, count: int, start: int = 0) -> NDArray[np.uint64]:
    """64-bit numbers of (seed, key, i) for i = start ... start + count - 1, [count] uint64, a million in some 20 ms.

    Element i is splitmix64's finisher (Steele et al. 2014) of hash64(seed, key) + i times the golden ratio: a function of
    i alone, so that any part of the range can be made without the rest.
    """
    i = np.arange(start, start + count, dtype=np.uint64)
    x = i * _GOLDEN + np.uint64(hash64(seed, key))  # unsigned arrays wrap round
    for shift, factor in _MIX:
        x = (x ^ (x >> shift)) * factor
    return x ^ (x >> np.uint64(31))


class Draws:
    """Named draws: each is a function of (seed, key, name), so that adding one never changes another.

    Args:
        seed: of everything.
        key: what is drawn for, as in `scene/17`.

    Example:
        >>> Draws(0, "scene/17").choice("colour", ["red", "blue"]) == Draws(0, "scene/17").choice("colour", ["red", "blue"])
        True
    """

    def __init__(self, seed: int, key: str) -> None:
        self.seed, self.key = seed, key

    def at(self, name: str) -> Draws:
        """Draws for a part of the thing."""
        return Draws(self.seed, f"{self.key}/{name}")

    def unit(self, name: str) -> float:
        """A number in [0, 1)."""
        return (hash64(self.seed, f"{self.key}/{name}") >> 11) / 2.0**53

    def between(self, name: str, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * self.unit(name)

    def integer(self, name: str, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + int(self.unit(name) * (high - low + 1))

    def choice(self, name: str, options: Sequence[T]) -> T:
        """One of the options, all alike.

        Raises:
            InputError: there are none.
        """
        if not options:
            raise InputError(f"nothing to choose {name} from: give at least one")
        return options[int(self.unit(name) * len(options))]

    def shuffled(self, name: str, options: Sequence[T]) -> list[T]:
        """The options in a drawn order."""
        order = np.argsort(hash64_range(self.seed, f"{self.key}/{name}", len(options)), kind="stable")
        return [options[int(i)] for i in order]

    def array(self, name: str, *shape: int) -> NDArray[np.float64]:
        """Numbers in [0, 1) of a shape."""
        bits = hash64_range(self.seed, f"{self.key}/{name}", int(np.prod(shape)))
        return ((bits >> np.uint64(11)).astype(np.float64) / 2.0**53).reshape(shape)
