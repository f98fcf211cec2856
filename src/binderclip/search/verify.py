"""Checks an index against itself, its cache against the truth, and its files against the disk."""

from __future__ import annotations

import os

import numpy as np

from binderclip.errors import MediaError
from binderclip.search.cache import load_cache, quantize
from binderclip.search.reading import hash_file
from binderclip.search.store import Model, Store, show_path

__all__ = ["verify"]


def verify(store: Store, *, deep: bool = False) -> list[str]:
    """What is wrong, a line each; empty when all is well.

    Args:
        store: the index.
        deep: read every file again and compare its content with what was indexed; a changed file is a line too.
    """
    found = store.integrity()
    for model in store.models():
        found += _check_vectors(store, model)
    if deep:
        for row in store.rows():
            try:
                content = hash_file(row.raw_path)
            except MediaError as error:
                gone = not os.path.lexists(os.fsdecode(row.raw_path))
                found.append(f"{show_path(row.raw_path)}: {'is gone' if gone else error}")
                continue
            if content.hex() != row.content:
                found.append(f"{show_path(row.raw_path)}: has changed since it was indexed")
    return found


def _check_vectors(store: Store, model: Model) -> list[str]:
    wrong = store.wrong_lengths(model)
    if wrong:
        return [f"{wrong} vectors of {model.name} have another length than {model.dim} numbers"]
    found = []
    cache = load_cache(store, model)
    start = 0
    for ids, rows in store.vectors_after(model, 0):
        bad = int((np.abs(np.linalg.norm(rows, axis=1) - 1.0) > 1e-3).sum()) + int(
            (~np.isfinite(rows)).any(axis=1).sum()
        )
        if bad:
            found.append(f"{bad} vectors of {model.name} are damaged (of length zero or not finite)")
        stop = start + len(ids)
        scales, quantized = quantize(rows)
        same = np.array_equal(cache.ids[start:stop], ids) and np.array_equal(cache.rows[start:stop], quantized)
        if not same or not np.array_equal(cache.scales[start:stop], scales):
            found.append(
                f"the cache of {model.name} differs from the index: delete the folder {store.folder / 'cache'}"
            )
            break
        start = stop
    return found
