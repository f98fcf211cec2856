"""From a record with named values (a table's row, a JSON sidecar, a tar's members) to a pair."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

from binderclip.data.pairs import Bad, Box, Pair
from binderclip.errors import InputError

__all__ = ["NAMES", "boxes_of", "captions_of", "guess_columns", "pair_of", "record_of_json"]

#: Field of a pair -> column names it is looked for under, the likeliest first; case does not matter.
NAMES: dict[str, tuple[str, ...]] = {
    "id": tuple("id key uid __key__ image_id sample_id".split()),
    "image": tuple(
        "image image_path filepath file_path file_name filename img img_path path file jpg jpeg png webp image_file".split()
    ),
    "video": tuple("video video_path mp4 clip_path".split()),
    "audio": tuple("audio audio_path sound wav flac".split()),
    "captions": tuple(
        "caption captions text texts txt title alt alt_text description sentence sentences prompt raw".split()
    ),
    "label": tuple("label class class_name classname category cls target fine_label name wnid".split()),
    "masks": tuple("masks mask segmentation".split()),
    "boxes": tuple("boxes box bbox bboxes".split()),
    "time": tuple("time timestamp time_stamp date t_start".split()),
    "source": tuple("source dataset".split()),
    "weight": tuple("weight sample_weight".split()),
    "provenance": ("provenance",),
}
_MEDIA = ("image", "video", "audio")


def guess_columns(names: Iterable[str], given: Mapping[str, str] | None, where: str) -> dict[str, str]:
    """Field of `Pair` -> column.

    Args:
        names: the columns there are.
        given: field -> column, said by the user; "caption" is understood as "captions".
        where: of the table, for messages.

    Raises:
        InputError: a field or a column that does not exist, or no column that could hold a picture, video or sound.
    """
    there = list(names)
    folded = {name.lower().strip(): name for name in reversed(there)}
    columns: dict[str, str] = {}
    for field, column in (given or {}).items():
        field = {"caption": "captions"}.get(field, field)
        if field not in NAMES:
            raise InputError(f"a pair has no field {field!r}: use one of {', '.join(NAMES)}")
        if column not in there:
            raise InputError(f"{where} has no column {column!r}: it has {', '.join(there)}")
        columns[field] = column
    for field, candidates in NAMES.items():
        free = [c for c in candidates if c in folded and folded[c] not in columns.values()]
        if field not in columns and free:
            columns[field] = folded[free[0]]
    if not any(medium in columns for medium in _MEDIA):
        raise InputError(
            f"{where} has no column that looks like pictures ({', '.join(there) or 'no columns'}): "
            "say which one is, columns={'image': NAME}"
        )
    return columns


def pair_of(
    record: Mapping[str, Any], columns: Mapping[str, str], *, id: str, root: str = "", source: str = ""
) -> Pair | Bad:
    """A pair from a record.

    Args:
        record: column -> value.
        columns: as `guess_columns` gives them.
        id: of the row when the record has none.
        root: folder that relative paths start from.
        source: name of the data set when the record has none.
    """
    value = {field: record.get(column) for field, column in columns.items()}
    key = str(value.get("id") if value.get("id") not in (None, "") else id)
    used = set(columns.values())
    try:
        media = {medium: _medium(value.get(medium), medium, root) for medium in _MEDIA}
        if not any(media.values()):
            return Bad(key, "no picture, video or sound")
        return Pair(
            id=key,
            captions=captions_of(value.get("captions")),
            label=_label(value.get("label")),
            masks=_masks(value.get("masks")),
            boxes=boxes_of(value.get("boxes")),
            time=_time(value.get("time")),
            source=str(value.get("source") or source),
            weight=_weight(value.get("weight")),
            provenance=str(value.get("provenance") or ""),
            metadata={k: v for k, v in record.items() if k not in used and k is not None and not isinstance(v, bytes)},
            **media,
        )
    except InputError as error:
        return Bad(key, str(error))


def captions_of(value: Any) -> tuple[str, ...]:
    """Captions from a text, a list of texts, a JSON list in a text, or a list of {"text": ...}.

    Raises:
        InputError: a text that is not Unicode, or something else.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            try:
                return captions_of(json.loads(value))
            except ValueError:
                pass  # "[sic] ..." is a caption like any other
        text = value.strip()
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError("its caption is not UTF-8") from None
        return (text,) if text else ()
    if isinstance(value, Mapping):
        return captions_of(next((value[k] for k in ("caption", "text", "raw") if k in value), None))
    if isinstance(value, Iterable):
        return tuple(text for item in value for text in captions_of(item))
    return (str(value),)


def boxes_of(value: Any) -> tuple[Box, ...]:
    """Boxes (x0, y0, x1, y1) from four numbers, a list of fours, or either as JSON.

    Raises:
        InputError: anything else.
    """
    if value is None or value == "":
        return ()
    try:
        value = json.loads(value) if isinstance(value, str) else value
        rows = [value] if len(value) == 4 and not hasattr(value[0], "__len__") else value
        boxes = [tuple(float(number) for number in row) for row in rows]
    except (TypeError, ValueError, IndexError, KeyError):
        raise InputError("its box is not four numbers") from None
    if any(len(box) != 4 or not all(map(math.isfinite, box)) for box in boxes):
        raise InputError("its box is not four numbers")
    return tuple((a, b, c, d) for a, b, c, d in boxes)


def record_of_json(data: bytes | str) -> dict[str, Any]:
    """The object in a JSON text.

    Raises:
        InputError: it is damaged, nested beyond reason, or no object.
    """
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise InputError("its JSON is damaged") from None
    if not isinstance(found, dict):
        raise InputError("its JSON is no object")
    return found


def _medium(value: Any, medium: str, root: str) -> Any:
    """A path or bytes; Hugging Face writes {"bytes": ..., "path": ...}."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if not value or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise InputError(f"its {medium} is neither a path nor bytes")
    if "://" in value[:12]:
        raise InputError(f"its {medium} is an address: download it first")
    return os.path.join(root, value)


def _masks(value: Any) -> tuple[Any, ...]:
    if value is None or value == "":
        return ()
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _label(value: Any) -> str | int | None:
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)  # a column of whole numbers with gaps is read as floats
    return value if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _time(value: Any) -> str | float | None:
    if value is None or value == "":
        return None
    return float(value) if isinstance(value, int | float) else str(value)


def _weight(value: Any) -> float:
    if value is None or value == "":
        return 1.0
    try:
        weight = float(value)
    except (TypeError, ValueError):
        raise InputError("its weight is no number") from None
    if not 0 <= weight < math.inf:
        raise InputError("its weight is negative or not finite")
    return weight
