"""Duplicates against all pairs and a search of the graph."""

from __future__ import annotations

import numpy as np

from binderclip.search import dedup
from binderclip.search.dedup import find_duplicates, near_pairs
from binderclip.search.types import Row


def rows_and_vectors(n: int = 80) -> tuple[list[Row], np.ndarray]:
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((20, 12))[rng.integers(0, 20, n)] + 0.15 * rng.standard_normal((n, 12))).astype(
        np.float32
    )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = []
    for i in range(n):
        content = i if i % 7 else 0
        vectors[i] = vectors[content]
        rows.append(
            Row(f"/{i:03d}", f"/{i:03d}".encode(), f"{content:x}", 100 + i % 5, 10**9 * (i % 3), 10 + i % 4, 10)
        )
    return rows, vectors


def components(n: int, joined: list[tuple[int, int]]) -> set[frozenset[int]]:
    found = []
    left = set(range(n))
    while left:
        seen, todo = set(), [min(left)]
        while todo:
            i = todo.pop()
            seen.add(i)
            todo += [b for a, b in joined if a == i and b not in seen] + [
                a for a, b in joined if b == i and a not in seen
            ]
        left -= seen
        if len(seen) > 1:
            found.append(frozenset(seen))
    return set(found)


def test_groups_are_the_components_of_the_graph(monkeypatch: object) -> None:
    rows, vectors = rows_and_vectors()
    dedup._BLOCK = 16
    joined = [
        (i, j)
        for i in range(80)
        for j in range(i + 1, 80)
        if rows[i].content == rows[j].content or float(vectors[i] @ vectors[j]) >= 0.95
    ]
    groups = find_duplicates(rows, vectors, 0.95)
    assert {frozenset(int(row.path[1:]) for row in (g.keep, *g.others)) for g in groups} == components(80, joined)
    sizes = [len(group.others) for group in groups]
    assert sizes == sorted(sizes, reverse=True)


def test_pairs_are_all_pairs() -> None:
    _, vectors = rows_and_vectors()
    dedup._BLOCK = 16
    oracle = {(i, j) for i in range(80) for j in range(i + 1, 80) if float(vectors[i] @ vectors[j]) >= 0.9}
    assert set(near_pairs(vectors, 0.9)) == oracle


def test_the_one_to_keep() -> None:
    def row(path: str, width: int, size: int, mtime: int) -> Row:
        return Row(path, path.encode(), "same", size, mtime, width, 10)

    rows = [row("/a", 10, 5, 1), row("/b", 20, 5, 9), row("/c", 20, 7, 9), row("/d", 20, 7, 3), row("/e", 20, 7, 3)]
    (group,) = find_duplicates(rows, np.ones((5, 1), np.float32), None)
    assert group.keep.path == "/d"
    assert [one.path for one in group.others] == ["/a", "/b", "/c", "/e"]
    assert (group.exact, group.score) == (True, 1.0)
    assert group.as_json()["bytes"] == 24
