"""A-CLIP: which patches are kept and why, what its losses say, and what the slow copies do."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from binderclip.data.hashing import Draws
from binderclip.data.transforms import Augment, CropBox, View
from binderclip.errors import InputError, NeedsPartError
from binderclip.losses import info_nce
from binderclip.model.base import State
from binderclip.model.sites import recorder
from binderclip.model.vit import VisionTransformer
from binderclip.train.a_clip import ACLIP, surrounding
from binderclip.train.base import TrainBatch
from binderclip.train.budget import block_flops
from binderclip.train.contrastive import Contrastive
from binderclip.train.parts.attending import attentive_keep, carry_map, cls_attention, kept_cells
from binderclip.train.parts.dropping import drop_tokens
from binderclip.train.recipe import read_recipe

from .kit import PATCH, SIDE, batch, gradients_of, recipe, run, tiny_clip

pytestmark = pytest.mark.system("a_clip")

SMALL: dict[str, Any] = {"hidden": 12, "out": 6}


def made(**options: Any) -> tuple[ACLIP, Any]:
    torch.manual_seed(3)
    objective, clip = ACLIP(**{**SMALL, **options}), tiny_clip()
    objective.setup(clip, {})
    return objective.train(), clip


def test_without_its_parts_it_is_clip() -> None:
    bare, clip = made(keep=1, w_simclr=0, w_byol=0)
    assert bare.slow is None
    assert not list(bare.parameters())
    rows = batch(bare, clip)
    rows = replace(rows, views=(rows.views[0], rows.views[0], rows.views[2]))
    loss = bare(clip, rows)
    loss.total.backward()
    found = gradients_of(clip)
    plain = tiny_clip()
    plain.tower("image").patch.requires_grad_(False)  # type: ignore[union-attr]
    wanted = Contrastive()(plain, replace(rows, views=rows.views[:1]))
    wanted.total.backward()
    assert float(loss.total.detach()) == pytest.approx(float(wanted.total.detach()), abs=1e-6)
    want = gradients_of(plain)
    assert found.keys() == want.keys()
    assert all(torch.allclose(found[k], want[k], atol=1e-6) for k in want)
    assert "0.image.patch.weight" not in found


@pytest.mark.parametrize(("side", "keep", "patches"), [(14, 0.5, 100), (8, 0.5, 36), (14, 1.0, 196), (4, 0.25, 8)])
def test_whole_cells_are_kept_by_attention(side: int, keep: float, patches: int) -> None:
    a = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))
    kept = attentive_keep(a, keep, 2)
    assert kept.shape == (3, patches)
    for row, chosen in zip(a, kept.tolist(), strict=True):
        cells = {
            (y, x): float(row[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].sum())
            for y in range(side // 2)
            for x in range(side // 2)
        }
        best = sorted(cells, key=lambda cell: -cells[cell])[: patches // 4]
        assert chosen == sorted((2 * y + i) * side + 2 * x + j for y, x in best for i in (0, 1) for j in (0, 1))


def test_cells_must_tile_the_grid() -> None:
    assert kept_cells((14, 14), 0.5, 2) == 25
    assert kept_cells((4, 4), 0.1, 2) == 1
    with pytest.raises(InputError, match="tile"):
        kept_cells((7, 7), 0.5, 2)


def carried_by_hand(a: Tensor, from_crop: list[int], to_crop: list[int], size: int) -> Tensor:
    """Up to the pixels of the picture, cut out, down again; one map [h, w]."""
    options: Any = {"mode": "bilinear", "align_corners": False, "antialias": False}
    large = F.interpolate(a[None, None], size=from_crop[2:], **options)
    top, left = to_crop[0] - from_crop[0], to_crop[1] - from_crop[1]
    return F.interpolate(large[..., top : top + to_crop[2], left : left + to_crop[3]], size=(size, size), **options)[
        0, 0
    ]


def test_maps_are_carried_from_crop_to_crop() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(3, 14, 14, generator=generator).double()
    outer = torch.tensor([[0, 0, 300, 400], [10, 20, 224, 123], [5, 7, 30, 40]])
    inner = torch.tensor([[50, 60, 200, 180], [10, 20, 224, 123], [9, 12, 11, 20]])
    found = carry_map(a, outer, inner, (14, 14))
    for i in range(3):
        assert torch.allclose(found[i], carried_by_hand(a[i], outer[i].tolist(), inner[i].tolist(), 14), atol=1e-9)
    same = torch.tensor([[3, 4, 210, 210]] * 3)  # 15 pixels a cell: each new centre is an old one
    assert (carry_map(a, same, same, (14, 14)) - a).abs().max() < 1e-5
    even = torch.tensor([[0, 0, 224, 224]] * 3)
    bend = sum(float(a.diff(n=2, dim=d).abs().max()) for d in (1, 2))
    blur = (carry_map(a, even, even, (14, 14)) - a).abs().max()
    assert 1e-3 < blur <= bend / (4 * 16)
    dot = torch.zeros(1, 8, 8)
    dot[0, 5, 2] = 1  # pixels 50 to 60 down, 20 to 30 across of a crop at (100, 200) of 80 x 80
    carried = carry_map(dot, torch.tensor([[100, 200, 80, 80]]), torch.tensor([[140, 210, 40, 40]]), (4, 4))[0]
    assert int(carried.argmax()) == 1 * 4 + 1  # 10 to 20 down and across of the part, in cells of 10


def test_the_third_view_contains_the_others() -> None:
    augment = Augment(scale=(0.1, 0.6))
    touched = set()
    for i in range(1000):
        draws = Draws(0, f"row/{i}")
        views = tuple(augment.draw(draws.at(n), n, 90, 60, size=32, interpolation="bicubic") for n in ("a", "b"))
        box = surrounding(views, draws.at("place"))
        for crop in (view.crop for view in views):
            assert 0 <= box.top <= crop.top
            assert 0 <= box.left <= crop.left
            assert crop.top + crop.height <= box.top + box.height <= 60
            assert crop.left + crop.width <= box.left + box.width <= 90
        touched |= {("top", box.top == 0), ("right", box.left + box.width == 90)}
    assert len(touched) == 4  # the picture's sides are reached, but not always
    view = View("a", 4, 4, CropBox(1, 1, 2, 2), 8)
    boxes = {surrounding((view,), Draws(0, str(i))) for i in range(300)}
    assert boxes == {CropBox(t, l, b - t, r - l) for t in (0, 1) for l in (0, 1) for b in (3, 4) for r in (3, 4)}  # noqa: E741


def test_attention_of_the_class_token_by_hand() -> None:
    torch.manual_seed(0)
    tower = VisionTransformer(16, 4, 8, 2, 2, 4).eval()
    x = torch.randn(2, 3, 16, 16)
    maps = []
    for block in range(2):
        kept: dict[str, Any] = {}
        tower(x, {f"blocks.{block}.attn": recorder(kept, "a")})
        for head in range(2):
            q, k = kept["a"].q[:, head, 0], kept["a"].k[:, head]
            logits = torch.stack([k[n] @ q[n] for n in range(2)]) / 2  # the square root of the head's width, 4
            maps.append(logits.softmax(-1)[:, 1:])
    wanted = torch.stack(maps).mean(0).reshape(2, 4, 4)
    assert torch.allclose(cls_attention(tower, x), wanted, atol=1e-6)
    assert (cls_attention(tower, x).sum((1, 2)) < 1).all()


def test_the_student_sees_the_kept_patches_and_only_in_training() -> None:
    objective, clip = made()
    rows = batch(objective, clip, augment=Augment(scale=(0.2, 0.6)))
    assert rows.crops is not None
    seen: dict[str, State] = {}
    inner = clip.encode
    clip.encode = lambda name, x, at=None, **rest: inner(
        name, x, {**(at or {}), "blocks.0.in": recorder(seen, name)} if name == "image" else at, **rest
    )
    objective.encode(clip, rows)
    positions = seen["image"].positions
    assert positions is not None
    assert positions.shape == (16, 1 + 12)  # 3 of 4 cells
    assert objective.slow is not None
    a = cls_attention(objective.slow.module, rows.views[2])
    for k in range(2):
        for i in range(8):
            outer, crop = (rows.crops[i, v].tolist() for v in (2, k))
            assert all(o <= c and c + d <= o + e for o, c, d, e in zip(outer, crop, crop[2:], outer[2:], strict=False))
            wanted = attentive_keep(carried_by_hand(a[i], outer, crop, 4)[None], 0.5, 2)[0]
            assert (positions[8 * k + i, 1:] - 1).tolist() == wanted.tolist()
    clip.encode = inner
    assert clip.eval().encode("image", rows.views[0]).sequence.shape[1] == 17


def test_slow_copies_follow_and_are_never_trained() -> None:
    objective, clip = made(ema=1.0)
    assert objective.slow is not None
    assert objective.slow_h is not None
    rows = batch(objective, clip)
    before = {k: v.clone() for k, v in objective.slow.named_parameters()}
    head = {k: v.clone() for k, v in objective.slow_h.named_parameters()}
    objective(clip, rows).total.backward()
    assert all(p.grad is None for part in (objective.slow, objective.slow_h) for p in part.parameters())
    assert not objective.encode(clip, rows)["target"].requires_grad
    with torch.no_grad():
        for p in [*clip.parameters(), *objective.h.parameters()]:  # type: ignore[union-attr]
            p.add_(1.0)
    objective.before_step(clip, 0, 10)
    assert all(torch.equal(v, before[k]) for k, v in objective.slow.named_parameters())
    assert all(torch.equal(v, head[k]) for k, v in objective.slow_h.named_parameters())
    following, clip = made()
    assert following.slow is not None
    for total in (100, 1000):
        m = [following.slow.momentum(k, total) for k in range(total)]
        assert m == pytest.approx([1 - 0.004 * (1 + math.cos(math.pi * k / total)) / 2 for k in range(total)])
        assert m[0] == 0.996
        assert 1 - m[-1] < 1e-6
    old = following.slow.module.patch.weight.clone()  # type: ignore[union-attr]
    clip.tower("image").patch.weight.data.add_(1.0)  # type: ignore[union-attr]
    following.before_step(clip, 0, 100)
    assert torch.allclose(following.slow.module.patch.weight, old + 0.004, atol=1e-6)  # type: ignore[union-attr]


def test_batch_statistics_of_the_slow_head_are_its_own() -> None:
    objective, clip = made()
    assert objective.slow_h is not None
    assert objective.h is not None
    objective(clip, batch(objective, clip))
    slow = dict(objective.slow_h.module.named_buffers())
    moved = [not torch.allclose(v.float(), slow[k].float()) for k, v in objective.h.named_buffers() if "running" in k]
    assert any(moved)
    mean = slow["1.running_mean"].clone()
    objective.before_step(clip, 0, 10)
    assert torch.equal(slow["1.running_mean"], mean)


def nt_xent_by_loops(a: list[Tensor], b: list[Tensor], tau: float) -> float:
    total, n = 0.0, len(a)
    for one, two in ((a, b), (b, a)):
        for i in range(n):
            positive = math.exp(float(one[i] @ two[i]) / tau)
            all_ = sum(math.exp(float(one[i] @ two[j]) / tau) for j in range(n))
            all_ += sum(math.exp(float(one[i] @ one[j]) / tau) for j in range(n) if j != i)
            total += -math.log(positive / all_) / (2 * n)
    return total


def test_the_loss_by_loops_over_two_views() -> None:
    objective, clip = made()
    rows = batch(objective, clip)
    features = objective.encode(clip, rows)
    assert not torch.allclose(features["cls1"], features["cls2"], atol=1e-3)
    found = objective.loss(clip, features, rows, 0, 1)
    assert objective.g is not None
    assert objective.h is not None
    assert objective.q is not None
    assert objective.slow_h is not None
    joined = torch.cat([features["cls1"], features["cls2"]])  # statistics over both views
    joined, features = joined.detach(), {name: rows.detach() for name, rows in features.items()}
    z = F.normalize(objective.g(joined), dim=-1).detach()
    simclr = nt_xent_by_loops(list(z[:8]), list(z[8:]), 0.1)
    assert float(found.parts["simclr"].detach()) == pytest.approx(simclr, abs=1e-5)
    p, t = objective.q(objective.h(joined)).detach(), objective.slow_h(features["target"])
    byol = sum(2 - 2 * float(F.cosine_similarity(p[k * 8 + i], t[i], dim=0)) for k in (0, 1) for i in range(8)) / 16
    assert float(found.parts["byol"].detach()) == pytest.approx(byol, abs=1e-5)
    clips = [float(info_nce(features[f"image{k}"], features["text"], clip.scale).detach()) for k in (1, 2)]
    total = 0.5 * sum(clips) + simclr + 2 * byol
    assert float(found.total.detach()) == pytest.approx(total, abs=1e-4)
    objective.replicate_bug = True
    same = nt_xent_by_loops(list(z[:8]), list(z[:8]), 0.1)
    assert float(objective.loss(clip, features, rows, 0, 1).parts["simclr"].detach()) == pytest.approx(same, abs=1e-5)


def test_two_half_views_cost_one_whole() -> None:
    assert round(2 * block_flops(101, 768, 12) / block_flops(197, 768, 12), 3) == 1.005
    assert round(2 * block_flops(37, 64, 3) / block_flops(65, 64, 3), 2) == 1.07


@pytest.mark.parametrize(
    "options",
    [
        {"views": 1, "w_simclr": 0, "w_byol": 0},
        {"views": 1, "w_simclr": 0},
        {"select": "random"},
        {"look": 8},
        {"w_byol": 0, "select": "random", "replicate_bug": True},
    ],
)
def test_other_forms_run(options: dict[str, Any], tmp_path: Path) -> None:
    sizes: list[tuple[int, ...]] = []

    class Watch(ACLIP):
        def encode(self, clip: Any, batch: TrainBatch) -> Any:
            sizes.extend(tuple(view.shape) for view in batch.views)
            return super().encode(clip, batch)

    objective = Watch(**SMALL, **options)
    found = run(tmp_path, objective, recipe("a_clip", phases=[{"steps": 2}])).train()
    assert found is not None
    assert sizes[objective.count] == (8, 3, options.get("look", SIDE), options.get("look", SIDE))
    if options.get("select") == "random":
        rows = batch(objective, tiny_clip())
        torch.manual_seed(0)
        kept = objective._kept(tiny_clip(), rows, None)
        assert kept.shape == (16, 12)
        assert len({tuple(row) for row in kept.tolist()}) > 1
        assert kept.max() < (SIDE // PATCH) ** 2


def test_what_cannot_be_is_refused() -> None:
    for bad in ({"select": "best"}, {"views": 1}, {"views": 3}, {"keep": 0.0}, {"cell": 0}):
        with pytest.raises(InputError):
            ACLIP(**bad)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="flip"):
        ACLIP().views(Augment(flip=0.5))
    objective, clip = made()
    with pytest.raises(InputError, match="image_keep"):
        objective.encode(clip, replace(batch(objective, clip), image_at={"embed.out": drop_tokens(0.5)}))
    for options in ({"class_token": False, "pool": "avg"},):
        with pytest.raises(NeedsPartError, match="class token"):
            ACLIP(**SMALL).setup(tiny_clip(**options), {})


def test_the_recipe_at_paper_scale() -> None:
    found = read_recipe("a-clip")
    objective = ACLIP(**{k: v for k, v in found.objective.items() if k != "name"})
    assert (objective.keep, objective.tau, objective.ema, objective.hidden) == (0.5, 0.1, 0.996, 4096)
    assert found.data["augment"]["jitter"] == [0.4, 0.4, 0.2, 0.1]
