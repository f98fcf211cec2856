"""MobileCLIP's reinforced objective: cross-entropy against an ensemble, its zero, and views that come again."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from binderclip.data.hashing import Draws
from binderclip.data.pairs import Pair, Pairs
from binderclip.errors import InputError
from binderclip.losses import info_nce
from binderclip.train.reading import Reader, augment_of
from binderclip.train.reinforced import DRObjective, ensemble_distill

from .kit import SCENES, batch, recipe, tiny_clip

pytestmark = pytest.mark.system("reinforced")


def unit(n: int, d: int, seed: int) -> Tensor:
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(rows, dim=-1)


def test_dist_is_kl_plus_entropy() -> None:
    v, t, V, T = unit(5, 4, 0), unit(5, 4, 1), unit(5, 7, 2), unit(5, 7, 3)
    total = 0.0
    for a, b, A, B in ((v, t, V, T), (t, v, T, V)):
        for i in range(5):
            p, q = (9 * b @ a[i]).softmax(0).tolist(), (20 * B @ A[i]).softmax(0).tolist()
            kl = sum(y * math.log(y / x) for x, y in zip(p, q, strict=True))
            entropy = -sum(y * math.log(y) for y in q)
            total += (kl + entropy) / 5 / 2
    assert ensemble_distill(v, t, 9.0, [(V, T)], 20.0).item() == pytest.approx(total, abs=1e-12)


def test_zero_at_the_teacher() -> None:
    V, T = unit(6, 4, 0), unit(6, 4, 1)
    v, t = V.clone().requires_grad_(), T.clone().requires_grad_()
    ensemble_distill(v, t, 30.0, [(V, T)], 30.0).backward()
    assert v.grad is not None
    assert t.grad is not None
    assert max(v.grad.abs().max(), t.grad.abs().max()) < 1e-12
    ensemble_distill(v, t, 31.0, [(V, T)], 30.0).backward()
    assert v.grad.abs().max() > 1e-6


def test_average_after_the_softmax() -> None:
    """Rows (4, 0, 0) and (0, 1, 0): (0.588, 0.297, 0.115); of averaged logits it would be (0.736, 0.164, 0.100)."""
    texts = torch.eye(3, dtype=torch.float64)
    first, second = torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    first[0, 0], second[0, 1] = 4.0, 1.0
    s = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    ensemble_distill(s, texts, 1.0, [(first, texts), (second, texts)], 1.0).backward()
    # dH/dlogits of row 0 (image to text) is (p - q) / N / 2, with p uniform; the other direction adds (p' - q')'
    other = torch.stack([(A @ texts).T.softmax(-1) for A in (first, second)]).mean(0)
    assert s.grad is not None
    back = ((torch.full((3, 3), 1 / 3) - other) / 6).T[0]
    q = 1 / 3 - (s.grad[0] - back) * 6
    assert q.tolist() == pytest.approx([0.588, 0.297, 0.115], abs=5e-4)
    averaged = torch.tensor([2.0, 0.5, 0.0]).softmax(0).tolist()
    assert averaged == pytest.approx([0.736, 0.164, 0.100], abs=5e-4)


def test_two_captions_are_summed() -> None:
    clip = tiny_clip()
    objective = DRObjective([tiny_clip(seed=3), tiny_clip(seed=4)], 50.0, (0.25, 0.75), "real+synthetic")
    objective.setup(clip, {})
    rows = batch(objective, clip)
    features, loss = objective.encode(clip, rows), objective(clip, rows)
    assert len(rows.ids) == 2
    total = 0.0
    for j in range(2):
        v, t = features["image"], features[f"text{j}"]
        pairs = [(features[f"V{k}"], features[f"T{k}{j}"]) for k in range(2)]
        total += 0.25 * info_nce(v, t, clip.scale).item()
        total += 0.75 * ensemble_distill(v, t, clip.scale, pairs, 50.0).item()
    assert loss.total.item() == pytest.approx(total, rel=1e-5)
    assert set(loss.parts) == {f"{a}_{b}" for a in ("contrastive", "distill") for b in ("real", "synthetic")}


def test_captions_of_a_row() -> None:
    both = DRObjective(tiny_clip(), captions="real+synthetic")
    pair = Pair("a", captions=("real", "one", "two"))
    drawn = {both.texts(pair, Draws(0, str(i)), "two") for i in range(20)}
    assert drawn == {("real", "one"), ("real", "two")}
    assert DRObjective(tiny_clip()).texts(pair, Draws(0, "a"), "two") == ("real",)
    with pytest.raises(InputError, match="no synthetic caption"):
        both.texts(Pair("a", captions=("real",)), Draws(0, "a"), "real")
    with pytest.raises(InputError, match="give a teacher"):
        DRObjective([])


def test_replayed_views(tmp_path: Path) -> None:
    """Views of epoch e and e + cycle are the same to the bit, and kept vectors are those of the very view drawn."""
    clip, teacher = tiny_clip(), tiny_clip(seed=3)
    data = {"pairs": SCENES, "batch_size": 64, "threads": 0, "cycle": 2, "augment": {"randaugment": {"N": 2, "M": 5}}}
    settings = recipe(data=data).to_dict()
    live, kept = DRObjective(teacher), DRObjective(teacher, cache=tmp_path / "kept")
    for objective in (live, kept):
        objective.setup(clip, settings)
    assert clip.preprocess is not None
    assert clip.tokenizer is not None
    reader = Reader(
        Pairs.open(SCENES), kept, clip.preprocess, clip.tokenizer, 64, augment=augment_of(data["augment"]), cycle=2,
        threads=0,
    )  # fmt: skip
    batches = reader.batches()
    epochs = [next(batches)[0] for _ in range(3)]
    batches.close()
    pixels = [dict(zip(part.index, part.views[0], strict=True)) for part in epochs]
    key = epochs[0].index[0]
    assert all(torch.equal(pixels[0][name], pixels[2][name]) for name in pixels[0])
    assert not torch.equal(pixels[0][key], pixels[1][key])
    for part in epochs[1:]:
        assert "V0" in part.fields
        bare = {name: rows for name, rows in part.fields.items() if name != "V0"}
        a, b = (objective(clip, rows).total for objective, rows in ((kept, part), (live, replace(part, fields=bare))))
        assert a.item() == pytest.approx(b.item(), abs=1e-4)
