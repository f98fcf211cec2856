"""SLIP: self-supervision meets language-image pre-training (Mu et al. 2021, arXiv 2112.12750)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from binderclip.cards import Card
from binderclip.data.transforms import PRESETS, Augment
from binderclip.errors import NeedsPartError
from binderclip.losses import gather_rows, info_nce, nt_xent
from binderclip.model.clip import CLIP
from binderclip.train.base import Features, Loss, Objective, TrainBatch
from binderclip.train.parts.heads import Mlp

__all__ = ["SLIP"]

CARD = Card(
    slug="slip",
    name="SLIP",
    title="SLIP: Self-supervision meets Language-Image Pre-training",
    arxiv="2112.12750",
    year=2021,
    room="train",
    provides="SLIP",
    kind="Objective",
    baseline=True,
    claim="better at equal samples, not at equal compute",
    must_show={
        "weight 0 is CLIP on view 0": "tests/train/test_scaling_down.py::test_slip_of_weight_0_is_clip",
        "NT-Xent equals a loop": "tests/train/test_scaling_down.py::test_nt_xent_is_a_loop",
        "three image forwards": "tests/train/test_scaling_down.py::test_flops",
    },
)


class SLIP(Objective):
    """``L = L_clip(x0) + weight * NTXent(h(f(x1)), h(f(x2)), tau)``: image-text contrast and SimCLR on two more views.

    View 0 is the recipe's (a crop of half to all of the picture); x1 and x2 are MoCo v2's with a crop from 0.08 on. h takes
    the pooled feature behind the final norm and before the projection; it sees the views one after the other, so that
    its BatchNorm has the statistics of each view alone, over the rows of all processes.

    Args:
        weight: of the self-supervised term; with 0 its views are not read.
        tau: temperature of NT-Xent.
        hidden: width of the head; towers as small as nano take 256.
        out: width of what is compared.
    """

    def __init__(self, weight: float = 1.0, tau: float = 0.1, hidden: int = 4096, out: int = 256) -> None:
        super().__init__()
        self.weight, self.tau, self.hidden, self.out = weight, tau, hidden, out

    def views(self, augment: Augment) -> Mapping[str, Augment]:
        """View 0, and two of SLIP's."""
        more = {"a": PRESETS["slip"], "b": PRESETS["slip"]} if self.weight else {}
        return {"view": augment, **more}

    def setup(self, clip: CLIP, recipe: Mapping[str, Any]) -> None:
        """The head h: Linear-BN-ReLU twice, then Linear."""
        if self.weight:
            self.head = Mlp([_raw_width(clip), self.hidden, self.hidden, self.out]).to(clip.device)

    def encode(self, clip: CLIP, batch: TrainBatch) -> Features:
        """Unit features of view 0 and the text, raw ones ``[N, C]`` of the other views."""
        features = dict(super().encode(clip, batch))
        for name, view in zip("ab", batch.views[1:], strict=False):
            raw = clip.encode("image", view, batch.image_at).raw
            assert raw is not None
            features[name] = raw
        return features

    def loss(self, clip: CLIP, features: Features, batch: TrainBatch, step: int, total: int) -> Loss:
        """Both terms."""
        contrast = info_nce(features["image"], features["text"], clip.scale)
        if not self.weight:
            return Loss(contrast, {"contrastive": contrast})
        a, b = (F.normalize(self.head(gather_rows(features[name])), dim=-1) for name in "ab")
        alike = nt_xent(a, b, self.tau)
        return Loss(contrast + self.weight * alike, {"contrastive": contrast, "nt_xent": alike})


def _raw_width(clip: CLIP) -> int:
    """Width of what the image tower pools."""
    assert clip.preprocess is not None
    size, training = clip.preprocess.size, clip.training
    blank = torch.zeros(1, 3, size, size, device=clip.device, dtype=clip.logit_scale.dtype)
    with torch.no_grad():
        raw = clip.eval().encode("image", blank).raw
    clip.train(training)
    if raw is None:
        raise NeedsPartError(f"SLIP needs the feature before the projection, which {clip.name}'s image tower lacks")
    return int(raw.shape[1])
