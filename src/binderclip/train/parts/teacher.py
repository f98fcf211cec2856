"""A teacher's vectors of augmented pictures, made once and kept: the student's views are drawn again, the same ones.

Views repeat every ``cycle`` epochs (MobileCLIP's reinforced data set, Vasu et al. 2023, arXiv 2311.17049), so a row has as
many vectors as turns. They lie in a folder, a ``.npy`` of half precision for 1,024 rows of a turn, and ``teacher.json``.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from binderclip.data.files import write_whole
from binderclip.data.media import open_image
from binderclip.data.pairs import Pair, Pairs
from binderclip.data.transforms import ViewTransforms
from binderclip.errors import InputError, MediaError
from binderclip.model.preprocess import Preprocess

__all__ = ["TeacherVectors", "cache_teacher"]

_PART = 1024
Floats = NDArray[np.float32]


class Teacher(Protocol):
    """An ``Encoder``, as far as it is needed."""

    preprocess: Preprocess
    fingerprint: str

    def encode_pixels(self, pixels: NDArray[np.uint8]) -> Floats:
        """``[N, S, S, 3]`` to unit rows ``[N, D]``."""
        ...


def cache_teacher(
    folder: Path,
    pairs: Pairs,
    teacher: Teacher,
    transforms: ViewTransforms,
    *,
    threads: int = 2,
    progress: Callable[[int], None] = lambda rows: None,
) -> Path:
    """Encode the first view of every row in every turn; parts that are there are kept, so it may be stopped.

    Args:
        folder: made if missing.
        pairs: rows with unique ids; rows that cannot be decoded get a zero vector, which no student asks for.
        teacher: whose vectors they are.
        transforms: with a cycle; the student's, so that it sees the same crop at its own size.
        threads: that decode.
        progress: is told how many views each part has, kept ones too.

    Raises:
        InputError: transforms without a cycle, or a folder of another teacher, seed or augmentation.
    """
    if transforms.cycle is None:
        raise InputError("views that never repeat cannot be kept: give ViewTransforms a cycle")
    ids: list[str] = []
    facts = {"fingerprint": teacher.fingerprint, "transforms": _record(transforms)}
    folder.mkdir(parents=True, exist_ok=True)
    _refuse_others(folder, facts)
    with ThreadPoolExecutor(threads) as pool:
        for turn in range(transforms.cycle):  # a later call with a longer cycle adds turns
            ids = []
            for number, part in enumerate(_parts(iter(pairs))):
                ids += [pair.id for pair in part]
                path = _path(folder, turn, number)
                if not path.is_file():
                    vectors = _encode(part, turn, teacher, transforms, pool)
                    buffer = io.BytesIO()
                    np.save(buffer, vectors.astype(np.float16), allow_pickle=False)
                    write_whole(path, buffer.getvalue())
                progress(len(part))
    write_whole(folder / "teacher.json", json.dumps({**facts, "cycle": transforms.cycle, "ids": ids}).encode())
    return folder


class TeacherVectors:
    """What ``cache_teacher`` made.

    Args:
        folder: of the cache.
        fingerprint: the teacher's that is meant, or empty for any.

    Raises:
        InputError: no whole cache there, or one of another teacher.
    """

    def __init__(self, folder: Path, fingerprint: str = "") -> None:
        try:
            facts = json.loads((folder / "teacher.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise InputError(f"{folder} holds no finished teacher's vectors: run cache_teacher to the end") from None
        if fingerprint and facts["fingerprint"] != fingerprint:
            raise InputError(f"{folder} is of another teacher: make its vectors anew, in another folder")
        self.fingerprint, self.cycle = str(facts["fingerprint"]), int(facts["cycle"])
        self.transforms = facts["transforms"]
        self._at = {name: i for i, name in enumerate(facts["ids"])}
        if len(self._at) != len(facts["ids"]):
            raise InputError(f"{folder} has ids that come more than once: make them unique")
        counts = -(-len(facts["ids"]) // _PART)
        self._turns = [
            np.concatenate([np.load(_path(folder, turn, i), allow_pickle=False) for i in range(counts)])
            for turn in range(self.cycle)
        ]  # [N, D] each

    @property
    def dim(self) -> int:
        """``D``."""
        return int(self._turns[0].shape[1])

    def __contains__(self, id: str) -> bool:
        return id in self._at

    def __call__(self, id: str, epoch: int) -> Floats:
        """The unit vector ``[D]`` of a row in an epoch.

        Raises:
            InputError: a row that the cache does not have.
        """
        if id not in self._at:
            raise InputError(f"the teacher's vectors have no row {id!r}: make them of the same pairs")
        vector = self._turns[epoch % self.cycle][self._at[id]].astype(np.float32)
        norm = float(np.linalg.norm(vector))
        if not norm:
            raise InputError(f"the teacher could not see row {id!r}")
        return np.asarray(vector / norm, np.float32)


def _parts(rows: Iterator[Pair]) -> Iterator[list[Pair]]:
    while part := list(islice(rows, _PART)):
        yield part


def _encode(
    part: list[Pair], turn: int, teacher: Teacher, transforms: ViewTransforms, pool: ThreadPoolExecutor
) -> Floats:
    side = transforms.min_side(teacher.preprocess)

    def view(pair: Pair) -> NDArray[np.uint8] | None:
        try:
            picture = open_image(pair.image, min_side=side)  # type: ignore[arg-type]
        except MediaError:
            return None
        drawn = transforms.draw(pair.id, turn, picture.width, picture.height, teacher.preprocess)
        return np.asarray(drawn[0](picture.image), np.uint8)

    out: list[Floats] = []
    for start in range(0, len(part), 64):
        pixels = list(pool.map(view, part[start : start + 64]))
        good = [p for p in pixels if p is not None]
        if not good:
            raise InputError(f"64 rows one after the other cannot be decoded, from {part[start].id} on: mend the data")
        vectors = iter(teacher.encode_pixels(np.stack(good)))
        blank = np.zeros_like(teacher.encode_pixels(good[0][None])[0]) if len(good) < len(pixels) else None
        out += [blank if p is None else next(vectors) for p in pixels]  # type: ignore[misc]
    return np.stack(out)


def _path(folder: Path, turn: int, number: int) -> Path:
    return folder / f"turn-{turn}-part-{number:05d}.npy"


def _record(transforms: ViewTransforms) -> dict[str, Any]:
    """The first view's augmentation, but for what the student has of its own (its size), and the seed."""
    name, augment = next(iter(transforms.views.items()))
    return {"seed": transforms.seed, "name": name, **{k: v for k, v in asdict(augment).items() if k != "size"}}


def _refuse_others(folder: Path, facts: dict[str, Any]) -> None:
    """A folder of another teacher or other views is not mixed with."""
    path = folder / "begun.json"
    mine = json.loads(json.dumps(facts))
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")) != mine:
            raise InputError(f"{folder} was begun with another teacher, seed or augmentation: choose another folder")
    else:
        write_whole(path, json.dumps(mine).encode())
