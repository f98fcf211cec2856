"""FARE and TeCoA: the attack against all vertices of its box, the losses by loops, and what must not change."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from binderclip.data.pairs import Pair
from binderclip.errors import InputError
from binderclip.model.attack import denormalize, evaluating, normalize, pgd
from binderclip.train.fare import FARE
from binderclip.train.step import Trainee, gradients
from binderclip.train.tecoa import TeCoA

from .kit import batch, run, tiny_clip

pytestmark = pytest.mark.system("fare")
EPS = 4 / 255


def ready(objective: FARE | TeCoA, seed: int = 0):
    clip = tiny_clip(seed).double()
    objective.setup(clip, {})
    return clip, batch(objective, clip)


def test_without_a_radius_nothing_changes(tmp_path) -> None:
    """Loss 0 and a tower that stays bit for bit, over six steps of AdamW without weight decay."""
    from .kit import recipe

    seen = []
    made = run(
        tmp_path,
        FARE(eps=0.0, steps=2),
        recipe("fare", optimizer={"lr": 1e-2, "weight_decay": 0.0}),
        listener=lambda record: seen.append(record["loss"]) if record["event"] == "step" else None,
    )
    before = {name: value.clone() for name, value in made.clip.state_dict().items()}
    clip = made.train()
    assert seen
    assert set(seen) == {0.0}
    assert all(torch.equal(value, before[name]) for name, value in clip.state_dict().items())


def test_the_attack_stays_inside_and_climbs() -> None:
    objective = FARE(eps=EPS, steps=10)
    clip, rows = ready(objective)
    x = denormalize(clip, rows.views[0])
    wanted = clip.encode("image", normalize(clip, x)).pooled.detach()

    def far(z):
        return (clip.encode("image", normalize(clip, z)).pooled - wanted).square().sum(-1).detach()

    climbed = []
    for seed in range(8):
        torch.manual_seed(seed)
        start = torch.empty_like(x).uniform_(-EPS, EPS)
        torch.manual_seed(seed)
        z = objective.attack(clip, x, wanted)
        assert float((z - x).abs().max()) <= EPS + 1e-7
        assert 0 <= float(z.min()) <= float(z.max()) <= 1
        climbed.append(far(z) >= far(x + start))
    assert torch.stack(climbed).double().mean() >= 0.95
    assert clip.training  # as it was


def test_the_loss_and_what_stays() -> None:
    objective = FARE(eps=EPS, steps=2, clean_weight=0.25)
    clip, rows = ready(objective)
    frozen = {name: value.clone() for name, value in objective.original[0].state_dict().items()}
    text = {name: value.clone() for name, value in clip.tower("text").state_dict().items()}
    features = objective.encode(clip, rows)
    loss = objective.loss(clip, features, rows, 0, 1)
    slow = 0.0
    for adv, target in zip(features["adv"].tolist(), features["target"].tolist(), strict=True):
        slow += sum((a - b) ** 2 for a, b in zip(adv, target, strict=True)) / len(rows)
    assert float(loss.parts["adv"].detach()) == pytest.approx(slow, rel=1e-12)
    D = features["adv"].shape[1]
    assert float(loss.parts["adv"].detach()) == pytest.approx(
        D * float(F.mse_loss(features["adv"], features["target"]).detach()), rel=1e-12
    )
    assert float(loss.parts["clean"].detach()) == 0
    assert float(loss.total.detach()) == pytest.approx(0.75 * slow, rel=1e-12)
    optimiser = torch.optim.SGD([p for p in clip.parameters() if p.requires_grad], lr=0.1)
    gradients(Trainee(clip, objective), rows, 0, 1)
    optimiser.step()
    assert all(torch.equal(value, frozen[name]) for name, value in objective.original[0].state_dict().items())
    assert all(torch.equal(value, text[name]) for name, value in clip.tower("text").state_dict().items())
    assert not torch.equal(clip.encode("image", rows.views[0]).pooled, features["clean"])
    assert not list(objective.state_dict())  # the original is no part of what is saved
    with pytest.raises(InputError, match="is no share"):
        FARE(clean_weight=2)


def test_a_linear_tower_against_all_vertices() -> None:
    """``|A d|^2`` is convex: its maximum over the box is at one of 16 vertices."""
    torch.manual_seed(0)
    A, x = torch.randn(8, 4, dtype=torch.float64), 0.2 + 0.6 * torch.rand(1, 4, dtype=torch.float64)
    corners = EPS * torch.tensor(list(itertools.product((-1, 1), repeat=4)), dtype=torch.float64)
    best = float((corners @ A.T).square().sum(-1).max())
    found, ends = [], []
    for seed in range(32):
        torch.manual_seed(seed)
        z = pgd(lambda z: ((z - x) @ A.T).square().sum(-1), x, EPS, steps=20)
        found.append(float(((z - x) @ A.T).square().sum()))
        ends.append(bool(torch.allclose((z - x).abs(), torch.full_like(x, EPS), atol=1e-12)))
    assert max(found) <= best * (1 + 1e-12)
    assert sum(ends) >= 0.9 * len(ends)
    assert max(found) == pytest.approx(best, rel=1e-4)


def test_pgd_by_a_slow_loop_and_l2() -> None:
    torch.manual_seed(1)
    A, x = torch.randn(6, 5, dtype=torch.float64), torch.rand(3, 5, dtype=torch.float64)

    def loss(z):
        return (z @ A.T).square().sum(-1)

    start = 0.02 * torch.randn_like(x)
    z = pgd(loss, x, 0.05, steps=4, step_size=0.02, norm="l2", start=start)
    for row in range(3):
        d, v = start[row].clone(), torch.zeros(5, dtype=torch.float64)
        for _ in range(4):
            g = 2 * A.T @ (A @ (x[row] + d))
            v = 0.9 * v + g / g.norm()
            d = d + 0.02 * v / v.norm()
            d = d * min(0.05 / float(d.norm()), 1.0)
            d = (x[row] + d).clamp(0, 1) - x[row]
        torch.testing.assert_close(z[row], x[row] + d)
    assert float((z - x).norm(dim=1).max()) <= 0.05 + 1e-12
    assert torch.equal(pgd(loss, x, 0.0), x)
    with pytest.raises(InputError, match="give linf or l2"):
        pgd(loss, x, 0.1, norm="l1")


def test_tecoa_by_a_loop() -> None:
    names = ["circle", "square", "star"]
    objective = TeCoA(names, eps=EPS, steps=2)
    clip, rows = ready(objective)
    features = objective.encode(clip, rows)
    loss = objective.loss(clip, features, rows, 0, 1)
    with evaluating(clip):
        W = F.normalize(clip.encode_text([f"This is a photo of a {name}." for name in names]).detach(), dim=-1)
    total, count = 0.0, 0
    for row, y in zip(features["adv"], rows.fields["labels"].tolist(), strict=True):
        if y >= 0:
            logits = 100 * W @ row
            total += float((torch.logsumexp(logits, 0) - logits[y]).detach())
            count += 1
    assert 0 < count < len(rows)
    assert float(loss.total.detach()) == pytest.approx(total / count, rel=1e-5)
    for label, captions, wanted in (
        ("star", (), 2), (1, (), 1), (7, (), -1), ("cat", ("a star",), -1), (None, ("a red square", "a thing"), 1),
        (None, ("nothing",), -1),
    ):  # fmt: skip
        assert objective._number(Pair(id="x", label=label, captions=captions)) == wanted
    with pytest.raises(InputError, match="at least two classes"):
        TeCoA(["one"])
