"""What an adapter has gained, on pictures that were held out."""

from __future__ import annotations

from typing import Any

from binderclip.adapt.base import Adapter
from binderclip.adapt.encoding import encoder_of, rows_of
from binderclip.adapt.zero_shot import ZeroShot
from binderclip.data.pairs import RowPairs
from binderclip.data.subset import Subset

__all__ = ["held_out"]


def held_out(made: Adapter, pairs: RowPairs, rows: Any) -> dict[str, Any]:
    """Accuracy on rows of labelled pictures beside that of the class names alone; None where there are no rows.

    Args:
        made: fitted.
        pairs: in class folders, say.
        rows: their numbers.
    """
    if not len(rows):
        return {"held_out": 0, "accuracy": None, "zero_shot": None}
    held = Subset(pairs, [int(i) for i in rows])
    found = rows_of(encoder_of(made.encoder), held)
    plain = ZeroShot(made.encoder, made.classes, templates=made.templates).fit()
    own = made.score(found.vectors, found.labels) if made.takes == "embeddings" else _seen(made, held)
    return {"held_out": len(found.vectors), "accuracy": own, "zero_shot": plain.score(found.vectors, found.labels)}


def _seen(made: Adapter, held: RowPairs) -> float:
    """Of one that looks at the pictures themselves."""
    rows = [row for row in held if row.image is not None and row.label is not None]
    logits, kept, _ = made.decide([row.image for row in rows], [row.id for row in rows])
    names = [held.label_name(rows[i].label) for i in kept]  # type: ignore[arg-type]
    right = [made.classes[int(k)] == name for k, name in zip(logits.argmax(axis=1), names, strict=True)]
    return sum(right) / len(right)
