"""Long-CLIP's fine-tuning: primary components, the loss by a loop, the rows that stay; gains are `bench:train_long_clip`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from binderclip.data.hashing import Draws
from binderclip.data.pairs import Pair
from binderclip.errors import InputError
from binderclip.train.long_clip import LongClip, primary_component
from binderclip.train.step import Trainee, gradients

from .kit import batch, tiny_clip

pytestmark = pytest.mark.system("long_clip")


def unit(n: int, d: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def test_primary_component() -> None:
    v = unit(20, 12)
    assert torch.allclose(primary_component(v, 12), v, atol=1e-5)
    assert torch.equal(primary_component(v[:5], 8), v[:5])  # no more rows than directions
    found = primary_component(v, 3)
    mu = v.mean(0)
    assert int(torch.linalg.matrix_rank(found - mu, rtol=1e-6)) == 3
    values, vectors = torch.linalg.eigh((v - mu).mT @ (v - mu))
    best = vectors[:, values.argsort(descending=True)[:3]]
    assert torch.allclose(found, (v - mu) @ best @ best.mT + mu, atol=1e-9)
    assert found.norm(dim=1).max() < 1  # not made unit again
    some = primary_component(v[:7], 3, rows=v)
    assert torch.allclose(some, found[:7], atol=1e-9)
    x = v.clone().requires_grad_()
    primary_component(x, 3).square().sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_the_loss_by_a_loop() -> None:
    objective, clip = LongClip(pca_dim=2, short_weight=0.5, keep=4).double(), tiny_clip().double()
    objective.setup(clip, {})
    assert float(clip.scale.detach()) == pytest.approx(100, abs=0.01)
    features = {"image": unit(6, 8, 1), "long": unit(6, 8, 2), "short": unit(6, 8, 3)}
    got = objective.loss(clip, features, batch(objective, clip), 0, 1)
    s = float(clip.scale.detach())

    def ce(a: Tensor, b: Tensor) -> float:
        total = 0.0
        for x, y in ((a, b), (b, a)):
            for i in range(6):
                logits = torch.stack([s * x[i] @ y[j] for j in range(6)])
                logs = logits - logits.exp().sum().log() if s < 50 else logits.log_softmax(0)
                target = torch.full((6,), 0.1 / 6, dtype=torch.float64)
                target[i] += 0.9
                total -= float((target * logs).sum()) / 12
        return total

    coarse = primary_component(features["image"], 2)
    expected = ce(features["image"], features["long"]) + 0.5 * ce(coarse, features["short"])
    assert got.total.item() == pytest.approx(expected, rel=1e-9)
    assert set(got.parts) == {"long", "short"}


def test_kept_rows_stay() -> None:
    objective, clip = LongClip(pca_dim=4, keep=4, init_logit_scale=None), tiny_clip()
    objective.setup(clip, {})
    before = clip.tower("text").positions.detach().clone()  # type: ignore[union-attr, operator]
    optimiser = torch.optim.AdamW(clip.parameters(), lr=1e-2, weight_decay=1e-2)
    gradients(Trainee(clip, objective), batch(objective, clip), 0, 10)
    table = clip.tower("text").positions
    assert not table.grad[:4].any()  # type: ignore[index, union-attr]
    optimiser.step()
    assert not torch.equal(table[:4], before[:4])  # type: ignore[index] # AdamW's decay moves rows without a gradient
    objective.after_step(clip, 0, 10)
    assert torch.equal(table[:4], before[:4])  # type: ignore[index]
    assert not torch.equal(table[4:], before[4:])  # type: ignore[index]


def test_texts() -> None:
    pair = Pair("a", captions=("A dog. It is brown.", "More of it."))
    assert LongClip().texts(pair, Draws(0, "a"), pair.captions[0]) == ("A dog. It is brown.", "A dog")
    assert LongClip(long="joined").texts(pair, Draws(0, "a"), "x") == (
        "A dog. It is brown. More of it",
        "A dog. It is brown.",
    )
    with pytest.raises(InputError, match="check them"):
        LongClip(long="odd")
