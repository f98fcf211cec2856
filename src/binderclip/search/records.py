"""What goes into an index and what it knows: a file, its problem, a model."""

from __future__ import annotations

from dataclasses import dataclass

from binderclip.search.types import FloatArray

__all__ = ["Entry", "Known", "Model", "Problem"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One file to be committed; `vector` is None when its content already has one."""

    path: bytes
    size: int
    mtime_ns: int
    content: bytes
    width: int = 0
    height: int = 0
    taken: str | None = None
    vector: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """One file that could not be indexed, and why; not read again until it changes."""

    path: bytes
    size: int
    mtime_ns: int
    reason: str


@dataclass(frozen=True, slots=True)
class Known:
    """What the index knows of a path: enough to tell that the file has not changed."""

    size: int
    mtime_ns: int
    content: bytes
    missing: bool
    encoded: bool


@dataclass(frozen=True, slots=True)
class Model:
    """A model whose vectors the index holds."""

    id: int
    fingerprint: str
    name: str
    dim: int
    filled: bool
