"""Folding against a plain loop."""

from __future__ import annotations

import numpy as np

from binderclip.search.fold import fold_rows


def test_folding_is_the_plain_loop() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((6, 16))[rng.integers(0, 6, 60)] + 0.2 * rng.standard_normal((60, 16))).astype(
        np.float32
    )
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    for threshold in (0.5, 0.9, 0.99, 1.1):
        oracle: list[list[int]] = []
        for i in range(60):
            for group in oracle:
                if float(rows[group[0]] @ rows[i]) >= threshold:
                    group.append(i)
                    break
            else:
                oracle.append([i])
        assert fold_rows(rows, threshold) == oracle
    assert fold_rows(rows[:0], 0.9) == []
