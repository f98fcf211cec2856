"""Draws are functions of names: a slow oracle in plain integers, and independence of order."""

from __future__ import annotations

import numpy as np
import pytest

from binderclip.data.hashing import Draws, hash64, hash64_range, uniform
from binderclip.errors import InputError

MASK = 2**64 - 1


def oracle(seed: int, key: str, i: int) -> int:
    x = (i * 0x9E3779B97F4A7C15 + hash64(seed, key)) & MASK
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = ((x ^ (x >> shift)) * factor) & MASK
    return x ^ (x >> 31)


def test_range_equals_plain_integers() -> None:
    got = hash64_range(7, "row/0", 50)
    assert got.tolist() == [oracle(7, "row/0", i) for i in range(50)]
    assert hash64_range(7, "row/0", 20, start=30).tolist() == got[30:].tolist()
    assert hash64(2**64 - 1, "x") != hash64(0, "x")


def test_range_looks_random() -> None:
    u = hash64_range(1, "k", 100_000) / 2.0**64
    assert abs(u.mean() - 0.5) < 4 * (1 / 12) ** 0.5 / 100_000**0.5
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.015
    assert len(np.unique(hash64_range(1, "k", 100_000))) == 100_000


def test_named_draws() -> None:
    draws = Draws(3, "scene/1")
    assert draws.unit("a") == Draws(3, "scene/1").unit("a") != Draws(3, "scene/2").unit("a")
    assert draws.at("object").unit("x") == Draws(3, "scene/1/object").unit("x")
    values = [Draws(0, str(i)).integer("n", 2, 4) for i in range(600)]
    assert {n: values.count(n) > 150 for n in (2, 3, 4)} == {2: True, 3: True, 4: True}
    assert sorted(draws.shuffled("s", "abcdef")) == list("abcdef")
    assert draws.array("noise", 3, 4).shape == (3, 4)
    assert 5 <= draws.between("b", 5, 6) < 6
    assert uniform(0, ["a"])[0] == hash64(0, "a") / 2.0**64
    with pytest.raises(InputError, match="nothing to choose"):
        draws.choice("c", [])
