"""Data for probes from any `Pairs`: folders of class folders, tables, shards.

Besides a picture, a label and captions, a probe may ask for columns that a pair keeps as metadata: ``labels`` (several
classes), ``negatives`` (captions that do not fit), ``kind`` (of those), ``group`` (items that belong together),
``candidate`` and ``references`` (a caption to judge and those of people), ``rating`` (what people thought of it).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from binderclip.data.pairs import Pairs
from binderclip.errors import InputError
from binderclip.evaluate.data import Dataset, Item, numbered

__all__ = ["from_pairs", "open_dataset"]

_COLUMNS = {
    "negatives": ("negatives", "hard_negatives", "negative", "negative_caption", "negative_captions"),
    "references": ("references", "reference"),
    "candidate": ("candidate",),
    "labels": ("labels",),
    "group": ("group", "pair", "pair_id"),
    "kind": ("kind", "type"),
    "rating": ("rating", "human", "score"),
}


def from_pairs(pairs: Pairs, classes: Sequence[str] | None = None) -> Dataset:
    """The rows with a picture, of any source.

    Args:
        pairs: the source.
        classes: names of the classes, synonyms behind bars; the source's own otherwise.

    Raises:
        InputError: no pictures, a label that is no class, or one out of range.
    """
    items, labels = [], []
    for pair in pairs:
        if pair.image is None:
            pairs.skipped["no picture"] += 1
            continue
        extra = _extra(pair.metadata)
        own = extra.pop("labels", ())
        if not own and pair.label is not None:
            own = (pair.label,)
        items.append(Item(pair.id, pair.image, captions=pair.captions, **extra))
        labels.append(tuple(own))
    if not items:
        raise InputError(f"no pictures in {pairs.name}: name a folder of pictures or a table with a column of paths")
    built = numbered(pairs.name, items, labels, classes or pairs.classes or None, given=classes is not None)
    notes = tuple(f"{count} rows left out: {reason}" for reason, count in pairs.skipped.items())
    return replace(built, templates=pairs.templates, notes=(*pairs.notes, *notes))


def open_dataset(
    source: str | os.PathLike[str], *, classes: Sequence[str] | None = None, split: str | None = None
) -> Dataset:
    """A folder of class folders, a table, tar shards, ... as a dataset.

    CLIP_benchmark's own layout is read too: `classnames.txt` and `zeroshot_classification_templates.txt` beside the shards.

    Raises:
        InputError: nothing there, no pictures, or labels that are no classes.
    """
    pairs = Pairs.open(os.path.abspath(source) if os.path.exists(source) else source, split=split)
    beside = Path(source) if os.path.isdir(source) else Path(source).parent
    names = _lines(beside / "classnames.txt")
    built = from_pairs(pairs, classes or names or None)
    sentences = [line.replace("{c}", "{}") for line in _lines(beside / "zeroshot_classification_templates.txt")]
    return replace(built, templates=tuple(sentences)) if sentences and not built.templates else built


def _extra(metadata: Mapping[str, Any]) -> dict[str, Any]:
    from binderclip.data.sources.fields import captions_of

    folded = {str(key).lower(): value for key, value in metadata.items()}
    out: dict[str, Any] = {}
    for name, columns in _COLUMNS.items():
        value = next((folded[c] for c in columns if folded.get(c) not in (None, "")), None)
        if value is None:
            continue
        if name in ("negatives", "references"):
            out[name] = tuple(captions_of(value))
        elif name == "labels":
            parts = (
                value.replace(";", "|").split("|")
                if isinstance(value, str) and "[" not in value
                else captions_of(value)
            )
            out[name] = tuple(part.strip() for part in parts if part.strip())
        elif name == "rating":
            try:
                out[name] = float(value)
            except (TypeError, ValueError):
                continue
        else:
            out[name] = str(value)
    return out


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        return []
