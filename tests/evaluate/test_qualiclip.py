"""QualiCLIP: the loss by loops, what is trained, the 24 degradations, scores and their agreement with ratings."""

from __future__ import annotations

import io
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from binderclip.data.scenes.scene import scene
from binderclip.data.scenes.spec import SceneSpec
from binderclip.errors import InputError, UnknownNameError
from binderclip.evaluate.data import Sets
from binderclip.evaluate.degrade import GROUPS, KINDS, degrade
from binderclip.evaluate.metrics.agreement import plcc, srcc
from binderclip.evaluate.models import vectors_of
from binderclip.evaluate.probes.qualiclip import QualiCLIP
from binderclip.evaluate.qualiclip import (
    PAIRS,
    QualityProbe,
    QualityRanking,
    drop_positions,
    quality,
    quality_loss,
    text_pairs,
)
from binderclip.evaluate.vectors import Vectors
from tests.evaluate.helpers import ColourEncoder, colours
from tests.train.kit import tiny_clip

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.system("qualiclip")


def pictures(count: int, size: int = 64) -> list[Image.Image]:
    return [scene(i, SceneSpec(size=size)).image for i in range(count)]


def by_loops(sp: np.ndarray, sn: np.ndarray, m_rank: float, m_cons: float, cross: bool) -> tuple[float, float, float]:
    pos, neg, cons_p, cons_n = [], [], [], []
    B, _, L = sp.shape
    for b in range(B):
        for i, j in itertools.product((0, 1), (0, 1)):
            if i != j and not cross:
                continue
            for low, high in itertools.combinations(range(L), 2):
                pos.append(max(0.0, m_rank - (sp[b, i, low] - sp[b, j, high])))
                neg.append(max(0.0, m_rank - (sn[b, j, high] - sn[b, i, low])))
        for level in range(L):
            cons_p.append(max(0.0, abs(sp[b, 0, level] - sp[b, 1, level]) - m_cons))
            cons_n.append(max(0.0, abs(sn[b, 0, level] - sn[b, 1, level]) - m_cons))
    return float(np.mean(pos)), float(np.mean(neg)), float(np.mean(cons_p) + np.mean(cons_n))


def test_loss_against_loops() -> None:
    rng = np.random.default_rng(0)
    for cross in (True, False):
        sp, sn = rng.normal(size=(2, 3, 2, 5)) * 0.1
        loss = quality_loss(torch.tensor(sp), torch.tensor(sn), cross=cross)
        wanted = by_loops(sp, sn, 0.0675, 0.0025, cross)
        assert [float(loss.parts[name]) for name in ("pos", "neg", "cons")] == pytest.approx(wanted, abs=1e-6)
        assert float(loss.total) == pytest.approx(sum(wanted), abs=1e-6)
    falling = torch.arange(5, 0, -1).double()[None, None].expand(1, 2, 5) * 0.07  # adjacent gaps over the margin
    assert float(quality_loss(falling, -falling).total) == 0
    g = 0.01
    rising = torch.arange(5).double()[None, None].expand(1, 2, 5) * g
    assert float(quality_loss(rising, -rising).parts["pos"]) == pytest.approx(0.0675 + 2 * g, abs=1e-12)


def test_swapped_texts() -> None:
    s = torch.tensor(np.random.default_rng(1).normal(size=(2, 4, 2, 5)) * 0.1)
    a = quality_loss(s[0], s[1])
    b = quality_loss(s[1].flip(-1), s[0].flip(-1))
    assert float(a.parts["pos"]) == pytest.approx(float(b.parts["neg"]), abs=1e-6)
    assert float(a.parts["neg"]) == pytest.approx(float(b.parts["pos"]), abs=1e-6)
    assert float(a.parts["cons"]) == pytest.approx(float(b.parts["cons"]), abs=1e-6)


def test_only_the_image_tower_learns() -> None:
    clip = tiny_clip().eval()
    start = {name: p.detach().clone() for name, p in clip.named_parameters()}
    texts = text_pairs(clip)
    assert not texts.requires_grad
    losses: list[float] = []
    for mode in ("draw", "mean"):
        ranking = QualityRanking(pair_mode=mode, steps=3, batch=2, size=16, lr=1e-3)
        tuned = ranking.fit(clip, pictures(4, 32), lambda step, loss: losses.append(loss["total"]))
        moved = {name for name, p in tuned.named_parameters() if not torch.equal(p, start[name])}
        assert moved
        assert all(name.startswith("image.") for name in moved)
        assert all(p.grad is None for name, p in tuned.named_parameters() if not name.startswith("image."))
        assert torch.equal(text_pairs(tuned), texts)
        assert all(torch.equal(p, start[name]) for name, p in clip.named_parameters())  # the given one is untouched
        again = ranking.fit(clip, pictures(4, 32))
        assert all(torch.equal(a, b) for a, b in zip(tuned.parameters(), again.parameters(), strict=True))
    assert len(losses) == 6


def test_the_loss_of_a_batch() -> None:
    """The cosines of a batch by loops, for drawn pairs and for all of them."""
    clip = tiny_clip().eval().requires_grad_(False)
    views = torch.randn(2, 2, 5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    texts = text_pairs(clip)
    with torch.no_grad():
        X = torch.stack([torch.stack([clip.encode_image(views[b, i]) for i in (0, 1)]) for b in (0, 1)])
    index = torch.tensor([3, 5])
    s = torch.stack([torch.einsum("ild,pd->pil", X[b], texts[index[b]]) for b in (0, 1)])  # [B, 2 texts, 2, L]
    got = QualityRanking().loss(clip, views, index, texts)
    assert float(got.total) == pytest.approx(float(quality_loss(s[:, 0], s[:, 1]).total), abs=1e-6)
    every = [
        quality_loss(*(torch.stack([X[b] @ texts[p, side] for b in (0, 1)]) for side in (0, 1))).total
        for p in range(len(PAIRS))
    ]
    got = QualityRanking(pair_mode="mean").loss(clip, views, index, texts)
    assert float(got.total) == pytest.approx(float(torch.stack(every).mean()), abs=1e-6)


def test_views_share_their_parameters() -> None:
    ranking = QualityRanking(size=16, kinds=("white_noise",))
    pixels, pair = ranking.views(pictures(1)[0], "a")
    assert pixels.shape == (2, 5, 16, 16, 3)
    assert 0 <= pair < 7
    np.testing.assert_array_equal(pixels, ranking.views(pictures(1)[0], "a")[0])
    assert (pixels != ranking.views(pictures(1)[0], "b")[0]).any()
    even = Image.new("RGB", (40, 40), (128, 128, 128))
    pixels, _ = ranking.views(even, "a")
    np.testing.assert_array_equal(pixels[0], pixels[1])  # the same field of noise on both crops
    with pytest.raises(InputError, match="use draw or mean"):
        QualityRanking(pair_mode="all")
    with pytest.raises(InputError, match="pristine pictures"):
        ranking.fit(tiny_clip(), [])


def rising(twenty: list[Image.Image]) -> None:
    """The mean absolute change of each kind does not fall from level to level."""
    for kind in KINDS:
        steps = []
        for level in range(1, 6):
            made = [np.asarray(degrade(p, kind, level, key=str(i)), float) for i, p in enumerate(twenty)]
            steps.append(np.mean([np.abs(a - np.asarray(p, float)).mean() for a, p in zip(made, twenty, strict=True)]))
        assert all(b >= a for a, b in itertools.pairwise(steps)), (kind, steps)
        assert steps[-1] > 0


def test_levels() -> None:
    assert [len(kinds) for kinds in GROUPS.values()] == [3, 4, 2, 4, 3, 5, 3]
    assert len(set(KINDS)) == 24
    twenty = pictures(20, 64)
    rising(twenty)
    for kind in KINDS:
        assert degrade(twenty[0], kind, 0) is twenty[0]
        assert degrade(twenty[0], kind, 3, key="a").tobytes() == degrade(twenty[0], kind, 3, key="a").tobytes()
    with pytest.raises(UnknownNameError, match="no degradation is called 'rain'"):
        degrade(twenty[0], "rain", 1)
    with pytest.raises(InputError, match="out of range"):
        degrade(twenty[0], "jpeg", 6)


@pytest.mark.data
def test_levels_on_photos(shared_data: Path) -> None:
    import pyarrow.parquet as pq

    rows = pq.read_table(shared_data / "imagenet1k_photos.parquet", columns=["image"]).slice(0, 20).to_pylist()
    files = [row["image"]["bytes"] if isinstance(row["image"], dict) else row["image"] for row in rows]
    rising([Image.open(io.BytesIO(data)).convert("RGB").resize((96, 96)) for data in files])


def test_scores() -> None:
    rng = np.random.default_rng(0)
    X, T = rng.normal(size=(50, 8)), rng.normal(size=(7, 2, 8))
    X, T = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (X, T))
    q, parts = quality(X, T)
    assert ((q >= 0) & (q <= 1)).all()
    swapped, _ = quality(X, T[:, ::-1])
    np.testing.assert_allclose(swapped, 1 - q, atol=1e-6)
    for n in range(5):
        two = np.exp([100 * X[n] @ T[2, side] for side in (0, 1)])
        assert parts[n, 2] == pytest.approx(two[0] / two.sum(), abs=1e-9)
    clip = tiny_clip().eval()
    mixed = [*pictures(3, 16), *pictures(2, 32)]
    probe = QualityProbe(clip)
    q = probe.score(mixed)
    assert q.shape == (5,)
    np.testing.assert_allclose(q[3:], probe.score(mixed[3:]), atol=1e-9)
    other = QualityProbe(clip, [(b, a) for a, b in PAIRS]).score(mixed)
    np.testing.assert_allclose(other, 1 - q, atol=1e-6)


def test_positions_are_dropped() -> None:
    from binderclip.model.attention_pool import AttentionPool2d

    clip = tiny_clip()
    pool = AttentionPool2d(2, 8, 2, 8)
    clip.image.add_module("extra", pool)
    twin = drop_positions(clip)
    assert float(twin.image.extra.positions.detach().abs().max()) == 0
    assert float(pool.positions.detach().abs().max()) > 0
    assert not any(p.requires_grad for p in twin.parameters())


def test_agreement_with_ratings() -> None:
    from scipy import stats

    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    y = 1 + 3 / (1 + np.exp(-2 * (x - 0.3)))
    noisy = y + 0.2 * rng.normal(size=200)
    assert srcc(x, noisy) == pytest.approx(stats.spearmanr(x, noisy).statistic, abs=1e-12)
    assert plcc(x, y) == pytest.approx(1, abs=1e-6)
    assert plcc(x, noisy) > stats.pearsonr(x, noisy).statistic
    assert plcc(x, -y) == pytest.approx(1, abs=1e-6)  # the curve may fall


def test_as_a_probe() -> None:
    data = colours(3)
    stars = replace(data, items=tuple(replace(i, rating=float(n)) for n, i in enumerate(data.items)))
    report = QualiCLIP(pairs=(("a yellow thing", "a blue thing"),)).run(Vectors(ColourEncoder()), Sets(stars))
    q = {row["id"]: row["quality"] for row in report.rows}
    assert min(q["yellow/0"], q["red/0"]) > q["blue/0"]
    assert "srcc" in {m.name for m in report.metrics}
    assert any("resized and cropped" in note for note in report.notes)
    assert report.examples[0].id.startswith("blue")
    whole = QualiCLIP().run(vectors_of(tiny_clip()), Sets(data))
    assert whole.notes == ()
    assert 0 < whole["quality"] < 1
    json.dumps(whole.to_json(), allow_nan=False)
