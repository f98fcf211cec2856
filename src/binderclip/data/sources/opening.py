"""What a path, a pattern or several of them name: the one place that chooses a source."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from binderclip.data.embeddings import natural_order
from binderclip.data.mixed import MixedPairs
from binderclip.data.pairs import Pairs
from binderclip.data.sources.folder import FolderPairs
from binderclip.data.sources.suffixes import IMAGE
from binderclip.data.sources.table import TablePairs
from binderclip.data.sources.tars import TarPairs
from binderclip.errors import InputError

__all__ = ["KINDS", "expand", "open_pairs"]

#: Kinds of sources by name.
KINDS = ("folder", "classes", "csv", "tsv", "jsonl", "parquet", "lance", "tar", "hf", "scenes")
_SUFFIX = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".lance": "lance",
    ".tar": "tar",
    ".tgz": "tar",
    ".arrow": "hf",
}
# Tables of captions that people put among the pictures, Hugging Face's `imagefolder` first.
_INSIDE = "metadata.jsonl metadata.csv captions.csv captions.tsv captions.jsonl".split()
_BRACES = re.compile(r"\{([^{}]*)\}")
_MOST_SHARDS = 1_000_000

Spec = str | os.PathLike[str]


def open_pairs(
    spec: Spec | Sequence[Spec],
    *,
    kind: str | None = None,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    root: Spec | None = None,
    weights: Sequence[float] | None = None,
) -> Pairs:
    """`Pairs.open`."""
    if kind is not None and kind not in KINDS:
        raise InputError(f"unknown kind of source {kind!r}: use one of {', '.join(KINDS)}")
    texts = [os.fspath(spec)] if isinstance(spec, str | os.PathLike) else [os.fspath(one) for one in spec]
    parts = [part.strip() for text in texts for part in text.split("::") if part.strip()]
    if not parts:
        raise InputError("no source was named: give a folder, a table or shards")
    sources = [_open_one(part, kind, split, columns, root) for part in parts]
    if len(sources) == 1 and weights is None:
        return sources[0]
    return MixedPairs(sources, weights)


def expand(pattern: str) -> list[str]:
    """Paths of a pattern with `{00000..00123}`, `{a,b}` and `*`, in order.

    Raises:
        InputError: over a million of them.
    """
    ready, open_ = [], [pattern]
    while open_:
        text = open_.pop()
        found = _BRACES.search(text)
        if not found:
            ready.append(text)
            continue
        ends = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
        if ends:
            low, high = int(ends[1]), int(ends[2])
            if high - low + 1 > _MOST_SHARDS:
                raise InputError(f"{pattern} names over a million shards: check the numbers")
            options = [str(number).zfill(len(ends[1])) for number in range(low, high + 1)]
        else:
            options = found[1].split(",")
        open_ += [text[: found.start()] + option + text[found.end() :] for option in reversed(options)]
        if len(open_) + len(ready) > _MOST_SHARDS:
            raise InputError(f"{pattern} names over a million shards: check the numbers")
    paths = []
    for text in ready:
        paths += sorted(glob.glob(text)) if glob.has_magic(text) and not os.path.exists(text) else [text]
    return paths


def _open_one(
    spec: str, kind: str | None, split: str | None, columns: Mapping[str, str] | None, root: Spec | None
) -> Pairs:
    if kind == "scenes" or spec.partition(":")[0] == "scenes":
        from binderclip.data.scenes.pairs import ScenePairs

        return ScenePairs.from_spec(spec, split)
    if re.match(r"[a-z][a-z0-9+.-]+:", spec):
        raise InputError(f"{spec} is not on this machine: download it first, nothing is fetched while training")
    spec = os.path.expanduser(spec)
    paths = [spec] if os.path.exists(spec) else expand(spec)
    if not paths or not (os.path.exists(paths[0]) or len(paths) > 1):
        raise InputError(f"nothing is at {spec}: check the path")
    if len(paths) == 1 and os.path.isdir(paths[0]) and not paths[0].endswith(".lance"):
        return _open_folder(Path(paths[0]), kind, split, columns, root)
    return _open_files(paths, kind or _kind_of(paths[0]), Path(spec).name, columns, root)


def _kind_of(path: str) -> str:
    path = path.rstrip("/\\").lower()
    suffix = ".tar" if ".tar." in os.path.basename(path) else os.path.splitext(path)[1]
    if suffix not in _SUFFIX:
        raise InputError(f"{path} is of no kind that is known: say kind=, one of {', '.join(KINDS)}")
    return _SUFFIX[suffix]


def _open_files(
    paths: Sequence[str], kind: str, name: str, columns: Mapping[str, str] | None, root: Spec | None
) -> Pairs:
    if kind == "tar":
        return TarPairs(paths, name)
    if kind == "parquet":
        from binderclip.data.sources.parquet import ParquetPairs

        return ParquetPairs(paths, name, columns=columns, root=root)
    if kind in ("csv", "tsv", "jsonl"):
        tables = [TablePairs(path, kind=kind, columns=columns, root=root) for path in paths]
        return tables[0] if len(tables) == 1 else MixedPairs(tables)
    if kind == "lance":
        from binderclip.data.sources.lance import LancePairs

        return LancePairs(paths[0], columns=columns, root=root)
    if kind == "hf":
        from binderclip.data.sources.arrow import ArrowPairs

        return ArrowPairs(Path(paths[0]).parent, columns=columns)
    raise InputError(f"{paths[0]} is a file, not a {kind} folder: name the folder")


def _open_folder(
    place: Path, kind: str | None, split: str | None, columns: Mapping[str, str] | None, root: Spec | None
) -> Pairs:
    kind = kind or _kind_of_folder(place, split)
    if kind == "hf":
        from binderclip.data.sources.arrow import ArrowPairs

        return ArrowPairs(place, split=split, columns=columns)
    if kind in ("tar", "parquet"):
        return _open_files(_files_of(place, kind, split), kind, place.name, columns, root)
    if kind in ("csv", "tsv", "jsonl"):
        inside = [place / name for name in _INSIDE if name.endswith(kind) and (place / name).is_file()]
        if not inside:
            raise InputError(f"{place} has no table of captions: name the file")
        return TablePairs(inside[0], columns=columns, root=root or place)
    return FolderPairs(place, labels={"classes": True, "folder": False}.get(kind), split=split)


def _kind_of_folder(place: Path, split: str | None) -> str:
    inner = place / split if split and (place / split).is_dir() else place
    if any((place / name).is_file() for name in ("dataset_dict.json", "state.json")) or any(inner.glob("*.arrow")):
        return "hf"
    with os.scandir(inner) as entries:
        if any(os.path.splitext(entry.name)[1].lower() in IMAGE for entry in entries):
            return _table_inside(place)  # pictures lie open: a tar or a Parquet file among them is none of the data
    for kind in ("tar", "parquet"):
        if _files_of(place, kind, split):
            return kind
    return _table_inside(place)


def _table_inside(place: Path) -> str:
    tables = [name for name in _INSIDE if (place / name).is_file()]
    return tables[0].rpartition(".")[2] if tables else "auto"


def _files_of(place: Path, kind: str, split: str | None) -> list[str]:
    """Shards of a folder: in it, in its split's folder (CLIP_benchmark), or in `data/` (a Hugging Face snapshot)."""
    folders = [place / split] if split else [place, place / "train", place / "data", place / "test"]
    if split:
        folders += [place / "data", place]
    for folder in folders:
        found = [path for path in folder.glob(f"*.{kind}") if path.is_file()]
        if split and folder != place / split:
            found = [path for path in found if path.name.startswith(split)]
        if found:
            return [os.fspath(path) for path in natural_order(found)]
    return []
