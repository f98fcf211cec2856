"""Feature mimicry and the teacher's kept vectors."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from binderclip.data.pairs import Pairs
from binderclip.data.transforms import ViewTransforms
from binderclip.errors import InputError
from binderclip.model.preprocess import Preprocess
from binderclip.train.base import TrainBatch
from binderclip.train.mimicry import Mimicry
from binderclip.train.parts.teacher import TeacherVectors, cache_teacher

from .kit import SCENES, tiny_clip, vectors_folder

pytestmark = pytest.mark.system("mimicry")


class Means:
    """A teacher whose vector is the mean colour of each quarter; counts what it encodes."""

    preprocess = Preprocess(size=16)
    fingerprint = "means"

    def __init__(self) -> None:
        self.views = 0

    def encode_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.views += len(pixels)
        quarters = (
            pixels.reshape(len(pixels), 2, 8, 2, 8, 3).mean((2, 4)).reshape(len(pixels), -1).astype(np.float32) + 1
        )
        unit: NDArray[np.float32] = quarters / np.linalg.norm(quarters, axis=1, keepdims=True)
        return unit


def transforms(cycle: int | None = 2, seed: int = 0) -> ViewTransforms:
    return ViewTransforms({"view": "clip"}, seed=seed, cycle=cycle)


def test_kept_vectors_are_those_of_a_live_teacher(tmp_path: Path) -> None:
    pairs, teacher = Pairs.open(SCENES), Means()
    kept = TeacherVectors(cache_teacher(tmp_path, pairs, teacher, transforms()), "means")
    assert (kept.cycle, kept.dim, teacher.views) == (2, 12, 128)
    for pair in list(pairs)[::9]:
        for epoch in (0, 1, 5):
            (view,) = transforms().draw(pair.id, epoch, 16, 16, teacher.preprocess)
            live = teacher.encode_pixels(np.asarray(view(pair.image))[None])[0]  # type: ignore[arg-type]
            assert np.abs(kept(pair.id, epoch) - live).max() < 1e-3  # half precision
    assert not np.allclose(kept("train/0/3", 0), kept("train/0/3", 1), atol=1e-3)
    with pytest.raises(InputError, match="have no row 'else'"):
        kept("else", 0)


def test_a_stopped_cache_goes_on_and_a_longer_cycle_adds_turns(tmp_path: Path) -> None:
    def stop(rows: int) -> None:
        raise KeyboardInterrupt

    pairs, teacher = Pairs.open(SCENES), Means()
    with pytest.raises(KeyboardInterrupt):
        cache_teacher(tmp_path, pairs, teacher, transforms(), progress=stop)
    with pytest.raises(InputError, match="no finished teacher's vectors"):
        TeacherVectors(tmp_path)
    cache_teacher(tmp_path, pairs, teacher, transforms())
    assert teacher.views == 128  # nothing twice
    first = TeacherVectors(tmp_path)("train/0/5", 1)
    cache_teacher(tmp_path, pairs, teacher, transforms(3))
    assert teacher.views == 192
    assert np.array_equal(TeacherVectors(tmp_path)("train/0/5", 1), first)


def test_a_cache_of_another_teacher(tmp_path: Path) -> None:
    pairs, teacher = Pairs.open(SCENES), Means()
    with pytest.raises(InputError, match="give ViewTransforms a cycle"):
        cache_teacher(tmp_path, pairs, teacher, transforms(None))
    cache_teacher(tmp_path, pairs, teacher, transforms())
    with pytest.raises(InputError, match="is of another teacher"):
        TeacherVectors(tmp_path, "others")
    with pytest.raises(InputError, match="begun with another teacher, seed or augmentation"):
        cache_teacher(tmp_path, pairs, teacher, transforms(seed=1))
    facts = json.loads((tmp_path / "teacher.json").read_text())
    assert facts["transforms"]["name"] == "view"


def unit(n: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(n, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def parts(v: torch.Tensor, u: torch.Tensor, t: torch.Tensor, texts: list[str], s: float = 30.0) -> dict[str, float]:
    objective = Mimicry(str(vectors_folder()), scale=s)
    batch = TrainBatch(index=tuple(texts), texts=tuple((text,) for text in texts), fields={"teacher": t})
    key = torch.tensor([sorted(set(texts)).index(text) for text in texts])
    loss = objective.loss(tiny_clip(), {"image": v, "text": u, "key": key}, batch, 0, 1)
    return {name: float(value) for name, value in loss.parts.items()} | {"total": float(loss.total)}


def test_the_loss_against_loops() -> None:
    v, u, t, texts, s = unit(4, 0), unit(4, 1), unit(4, 2), ["a", "b", "a", "c"], 30.0
    got = parts(v, u, t, texts, s)
    feature = sum(1 - float(v[i] @ t[i]) for i in range(4)) / 4
    contrast = relation = 0.0
    for i in range(4):
        row = [s * float(v[i] @ u[j]) for j in range(4)]
        goal = [s * float(t[i] @ u[j]) for j in range(4)]
        norm, aim = math.log(sum(map(math.exp, row))), math.log(sum(map(math.exp, goal)))
        alike = [j for j in range(4) if texts[j] == texts[i]]
        contrast -= sum(row[j] - norm for j in alike) / len(alike) / 4
        relation += sum(math.exp(g - aim) * ((g - aim) - (r - norm)) for g, r in zip(goal, row, strict=True)) / 4
    assert got["feature"] == pytest.approx(feature, abs=1e-9)
    assert got["contrast"] == pytest.approx(contrast, abs=1e-9)
    assert got["relation"] == pytest.approx(relation, abs=1e-9)
    assert got["total"] == pytest.approx(5 * feature + 0.5 * contrast + relation, abs=1e-9)


def test_nothing_is_left_to_learn_from_itself() -> None:
    v, u = unit(5, 0), unit(5, 1)
    got = parts(v, u, v, list("abcde"))
    assert got["feature"] == pytest.approx(0, abs=1e-12)
    assert got["relation"] == pytest.approx(0, abs=1e-12)
