"""Labelled pairs to rows of vectors: every picture is encoded once, what cannot be read is left out and named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from binderclip.continual.base import Rows
from binderclip.data.pairs import Pairs
from binderclip.errors import InputError, MediaError

__all__ = ["encoded_rows"]

BATCH = 64


def encoded_rows(
    encoder: Any, pairs: Pairs, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[Rows, list[tuple[str, str]]]:
    """Rows with vectors, and (id, reason) of what could not be read.

    Args:
        encoder: an ``Encoder``.
        pairs: labelled pictures.
        on_progress: told (done, total).

    Raises:
        InputError: nothing labelled, or nothing that can be read.
    """
    rows = [row for row in pairs if row.image is not None and row.label is not None]
    ids, y, parts, lost = [], [], [], []
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        try:
            made = list(encoder.encode_image([row.image for row in part]))
        except MediaError:  # one of them is bad: find out which
            made = [_one(encoder, row) for row in part]
        for row, vector in zip(part, made, strict=True):
            if isinstance(vector, str):
                lost.append((row.id, vector))
                continue
            assert row.label is not None
            ids.append(row.id)
            y.append(str(pairs.label_name(row.label) if pairs.classes else row.label))
            parts.append(vector)
        on_progress(min(start + BATCH, len(rows)), len(rows))
    if not parts:
        raise InputError(f"no labelled picture of {pairs.name} can be read: name a folder of class folders")
    return Rows(tuple(ids), tuple(y), np.stack(parts)), lost


def _one(encoder: Any, row: Any) -> Any:
    try:
        return encoder.encode_image([row.image])[0]
    except MediaError as error:
        return str(error)
