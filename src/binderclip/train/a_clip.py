"""A-CLIP: attentive mask CLIP (Yang et al. 2022, arXiv 2212.08653).

Dropping half of the patches at random may drop what the caption speaks of. Here a slow copy of the image tower looks at a
view that contains the others; the patches that its class token attends to are kept. Two views of half the patches cost
what one whole picture does, so that SimCLR and BYOL between them come almost free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from binderclip.cards import Card
from binderclip.data.hashing import Draws
from binderclip.data.transforms import Augment, CropBox, View
from binderclip.errors import InputError, NeedsPartError
from binderclip.losses import gather_rows, info_nce, neg_cosine, nt_xent
from binderclip.model.clip import CLIP
from binderclip.train.base import Features, Loss, Objective, TrainBatch
from binderclip.train.parts.attending import attentive_keep, carry_map, kept_cells, watched
from binderclip.train.parts.dropping import drop_tokens
from binderclip.train.parts.ema import Ema, cosine_momentum
from binderclip.train.parts.heads import Mlp

__all__ = ["ACLIP", "surrounding"]

CARD = Card(
    slug="a_clip",
    name="A-CLIP",
    title="Attentive Mask CLIP",
    arxiv="2212.08653",
    year=2022,
    room="train",
    provides="ACLIP",
    kind="Objective",
    needs=("image.tokens", "image.attention"),
    files=("train/parts/attending.py",),
    claim="better: YFCC15M ViT-B/16 ImageNet zero-shot 37.6 -> 43.9 at 1.16x the time",
    must_show={
        "keep 1, no SimCLR, no BYOL, x2 = x1: CLIP with the same frozen patch embedding": (
            "tests/train/test_a_clip.py::test_without_its_parts_it_is_clip"
        ),
        "100 of 196 patches, whole 2 x 2 cells, the kept set is argsort of a planted map": (
            "tests/train/test_a_clip.py::test_whole_cells_are_kept_by_attention"
        ),
        "carry_map is the identity at odd multiples of the grid, blurs by a bound elsewhere, and follows a bright dot": (
            "tests/train/test_a_clip.py::test_maps_are_carried_from_crop_to_crop"
        ),
        "x3 contains both crops in 1,000 of 1,000 draws": (
            "tests/train/test_a_clip.py::test_the_third_view_contains_the_others"
        ),
        "no gradient into the slow copies or the attention; momentum 1 freezes; the schedule": (
            "tests/train/test_a_clip.py::test_slow_copies_follow_and_are_never_trained"
        ),
        "nt_xent equals a loop on two different views": (
            "tests/train/test_a_clip.py::test_the_loss_by_loops_over_two_views"
        ),
        "after 200 steps the share of kept cells that touch objects is random's + 10 points": "bench:train_a_clip",
        "R@1: attentive 1 x 50 % is above random 1 x 50 %": "bench:train_a_clip",
        "multiply-adds of two half views: 1.005x of a full one for B/16, 1.07x for nano4": (
            "tests/train/test_a_clip.py::test_two_half_views_cost_one_whole"
        ),
    },
)


class ACLIP(Objective):
    """``L = 0.5 clip(v1, t) + 0.5 clip(v2, t) + w_simclr L_simclr + w_byol L_byol`` on the patches that are attended to.

    ``L_simclr = nt_xent(g(CLS1), g(CLS2), tau)``; ``L_byol = mean_k (2 - 2 cos(q(h(CLS_k)), h_e(CLS_e(x3))))``. The slow
    tower f_e and head h_e follow f and h with ``m_k = 1 - (1 - ema)(1 + cos(pi k / K)) / 2`` at the start of every step.
    Views x1 and x2 are drawn as the recipe's ``data.augment`` says, x3 is `surrounding` them and has true colours.

    Args:
        keep: share of the cells that stay; 1 keeps all patches.
        w_simclr: weight of SimCLR's loss.
        w_byol: weight of BYOL's loss.
        tau: temperature of SimCLR's loss.
        ema: momentum of the slow copies at the first step.
        cell: side of a cell in patches; whole cells stay or go.
        select: ``attentive``, or ``random`` patches, as many.
        freeze_patch: leave the patch embedding as it is (MoCo v3, arXiv 2104.02057).
        views: masked views, 2 or 1; with one there is no SimCLR.
        look: side in pixels of the view that f_e sees; None takes the tower's (the paper's efficient form takes fewer).
        hidden: inner width of the heads.
        out: width they end in.
        replicate_bug: give SimCLR the first view twice, as the published code does.

    Raises:
        InputError: an unknown selection, or numbers that make no sense.
    """

    def __init__(
        self,
        keep: float = 0.5,
        w_simclr: float = 1.0,
        w_byol: float = 2.0,
        tau: float = 0.1,
        ema: float = 0.996,
        cell: int = 2,
        select: str = "attentive",
        freeze_patch: bool = True,
        *,
        views: int = 2,
        look: int | None = None,
        hidden: int = 4096,
        out: int = 256,
        replicate_bug: bool = False,
    ) -> None:
        super().__init__()
        if select not in ("attentive", "random"):
            raise InputError(f"unknown selection {select!r}: use 'attentive' or 'random'")
        if views not in (1, 2) or (views == 1 and w_simclr):
            raise InputError(f"{views} views with w_simclr {w_simclr}: give 2 views, or 1 with w_simclr=0")
        if not 0 < keep <= 1 or cell < 1:
            raise InputError(f"keep is {keep}, cell {cell}: keep a share above 0, up to 1, of cells of 1 patch or more")
        self.keep, self.cell, self.select, self.tau, self.ema = keep, cell, select, tau, ema
        self.w_simclr, self.w_byol, self.freeze_patch = w_simclr, w_byol, freeze_patch
        self.count, self.look, self.hidden, self.out, self.replicate_bug = views, look, hidden, out, replicate_bug
        self.attentive = keep < 1 and select == "attentive"

    def views(self, augment: Augment) -> Mapping[str, Augment]:
        """The student's views, and the one that will be laid around them.

        Raises:
            InputError: the augmentation moves pixels in a way that crops do not tell.
        """
        if augment.flip or augment.randaugment is not None:
            raise InputError(
                "a_clip carries attention from crop to crop: leave flip and randaugment out of data.augment"
            )
        whole = Augment((1.0, 1.0), size=self.look or augment.size, interpolation=augment.interpolation)
        return {f"view {k + 1}": augment for k in range(self.count)} | {"whole": whole}

    def place(self, views: tuple[View, ...], draws: Draws) -> tuple[View, ...]:
        """The last view is laid around the others."""
        return *views[:-1], replace(views[-1], crop=surrounding(views[:-1], draws))

    def setup(self, clip: CLIP, recipe: Mapping[str, Any]) -> None:
        """Heads, slow copies, and the frozen patch embedding."""
        tower = clip.tower("image")
        if not getattr(tower, "prefix", 0) or not hasattr(tower, "patch"):
            raise NeedsPartError("a_clip needs an image tower with patches and a class token: use a vision transformer")
        width, schedule = int(tower.width), cosine_momentum(self.ema)  # type: ignore[arg-type]
        self.g = Mlp([width, self.hidden, self.hidden, self.out]) if self.w_simclr else None
        self.slow = Ema(tower, schedule) if self.attentive or self.w_byol else None
        self.h = self.q = self.slow_h = None
        if self.w_byol:
            self.h = Mlp([width, self.hidden, self.out], bias=False)
            self.q = Mlp([self.out, self.hidden, self.out], bias=False)
            self.slow_h = Ema(self.h, schedule, buffers="own")
        if self.freeze_patch:
            assert isinstance(tower.patch, nn.Module)
            tower.patch.requires_grad_(False)

    def before_step(self, clip: CLIP, step: int, total: int) -> None:
        """The slow copies follow, then they are used."""
        if self.slow is not None:
            self.slow.update(clip.tower("image"), step, total)
        if self.slow_h is not None and self.h is not None:
            self.slow_h.update(self.h, step, total)

    def encode(self, clip: CLIP, batch: TrainBatch) -> Features:
        """Unit features ``image1``, ``image2``, ``text`` ``[N, D]``; class tokens ``cls1``, ``cls2``, ``target`` ``[N, C]``.

        Raises:
            InputError: the recipe's phase drops patches too.
        """
        if batch.image_at:
            raise InputError("a_clip drops patches itself: leave image_keep out of the phases")
        students, found = batch.views[: self.count], {}
        attention: Tensor | None = None
        if self.slow is not None:
            self.slow.eval()
            with torch.no_grad():
                seen, attention = watched(self.slow.module, batch.views[-1])
            found["target"] = seen.sequence[:, 0]
        at = {} if self.keep == 1 else {"embed.out": drop_tokens(indices=self._kept(clip, batch, attention))}
        tokens = clip.encode("image", torch.cat(students), at)
        unit = F.normalize(tokens.pooled, dim=-1).chunk(self.count)
        classes = tokens.sequence[:, 0].chunk(self.count)
        for k in range(self.count):
            found |= {f"image{k + 1}": unit[k], f"cls{k + 1}": classes[k]}
        return found | {"text": clip.encode_text((batch.ids[0], batch.eos[0]))}

    def _kept(self, clip: CLIP, batch: TrainBatch, attention: Tensor | None) -> Tensor:
        """Patches to keep ``[views N, K]``, view by view."""
        patch = int(clip.tower("image").patch_size)  # type: ignore[arg-type]
        grid = (batch.views[0].shape[-2] // patch, batch.views[0].shape[-1] // patch)
        if not self.attentive or attention is None:
            score = torch.rand(self.count * len(batch), grid[0] * grid[1]).to(batch.views[0].device)
            count = kept_cells(grid, self.keep, self.cell) * self.cell**2
            return score.argsort(1)[:, :count].sort(1).values
        assert batch.crops is not None
        whole = batch.crops[:, -1]
        maps = [carry_map(attention, whole, batch.crops[:, k], grid) for k in range(self.count)]
        return attentive_keep(torch.cat(maps), self.keep, self.cell)

    def loss(self, clip: CLIP, features: Features, batch: TrainBatch, step: int, total: int) -> Loss:
        """All four parts; the heads see the rows of all processes and both views as one batch."""
        parts, sum_ = {}, torch.zeros((), device=features["text"].device, dtype=features["text"].dtype)
        for k in range(self.count):
            parts[f"clip{k + 1}"] = info_nce(features[f"image{k + 1}"], features["text"], clip.scale)
            sum_ = sum_ + parts[f"clip{k + 1}"] / self.count
        classes = torch.cat([gather_rows(features[f"cls{k + 1}"]) for k in range(self.count)])
        if self.g is not None:
            z1, z2 = F.normalize(self.g(classes), dim=-1).chunk(2)
            parts["simclr"] = nt_xent(z1, z1 if self.replicate_bug else z2, self.tau)
            sum_ = sum_ + self.w_simclr * parts["simclr"]
        if self.h is not None and self.q is not None and self.slow_h is not None:
            target = self.slow_h(gather_rows(features["target"])).repeat(self.count, 1)
            parts["byol"] = 2 + 2 * neg_cosine(self.q(self.h(classes)), target)
            sum_ = sum_ + self.w_byol * parts["byol"]
        return Loss(sum_, parts)


def surrounding(views: tuple[View, ...], draws: Draws) -> CropBox:
    """A crop that contains the crops of all views, each side uniform between theirs and the picture's, ends included."""
    top, left = min(v.crop.top for v in views), min(v.crop.left for v in views)
    bottom = max(v.crop.top + v.crop.height for v in views)
    right = max(v.crop.left + v.crop.width for v in views)
    t, b = draws.integer("top", 0, top), draws.integer("bottom", bottom, views[0].height)
    l, r = draws.integer("left", 0, left), draws.integer("right", right, views[0].width)  # noqa: E741 - the paper's
    return CropBox(t, l, b - t, r - l)
