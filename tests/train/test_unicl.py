"""UniCL: several positives in a batch."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from binderclip.losses import info_nce
from binderclip.train.base import TrainBatch
from binderclip.train.unicl import UniCL

from .kit import tiny_clip

pytestmark = pytest.mark.system("unicl")


def unit(n: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(n, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def loss(v: torch.Tensor, u: torch.Tensor, texts: str) -> float:
    key = torch.tensor([ord(letter) for letter in texts])
    batch = TrainBatch(index=tuple(texts), texts=tuple((text,) for text in texts))
    return float(UniCL().loss(tiny_clip().double(), {"image": v, "text": u, "key": key}, batch, 0, 1).total.detach())


def test_the_loss_against_loops() -> None:
    v, u, texts, s = unit(5, 0), unit(5, 1), "abaca", float(tiny_clip().scale.detach().double())
    want = 0.0
    for x, y in ((v, u), (u, v)):
        for i in range(5):
            row = [s * float(x[i] @ y[j]) for j in range(5)]
            norm = math.log(sum(map(math.exp, row)))
            alike = [j for j in range(5) if texts[j] == texts[i]]
            want -= sum(row[j] - norm for j in alike) / len(alike) / 10
    assert loss(v, u, texts) == pytest.approx(want, abs=1e-5)  # the scale is a float32 logarithm


def test_different_texts_are_plain_clip() -> None:
    v, u = unit(5, 0), unit(5, 1)
    assert loss(v, u, "abcde") == pytest.approx(float(info_nce(v, u, tiny_clip().double().scale.detach())), abs=1e-9)


def test_statistics_of_norms_stay_where_it_is_asked() -> None:
    clip = tiny_clip()
    clip.add_module("extra", nn.BatchNorm2d(3))
    UniCL().before_step(clip, 0, 1)
    assert not clip.get_submodule("extra").training
    assert clip.get_submodule("image").training
    clip.train()
    UniCL(frozen_statistics=False).before_step(clip, 0, 1)
    assert clip.get_submodule("extra").training
