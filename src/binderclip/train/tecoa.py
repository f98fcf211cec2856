"""TeCoA: text-guided contrastive adversarial training (Mao et al. 2023, arXiv 2212.07016), FARE's supervised baseline.

``L = max_{|z - x| <= eps} CE(100 cos(phi(z), W), y)`` with W ``[C, D]`` the unit text features of
"This is a photo of a {class}.", frozen; the attack climbs the same cross entropy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from binderclip.cards import Card
from binderclip.data.hashing import Draws
from binderclip.data.pairs import Pair
from binderclip.data.templates import class_vectors
from binderclip.data.transforms import View
from binderclip.engine.torch_encoder import TorchEncoder
from binderclip.errors import InputError
from binderclip.model.attack import denormalize, evaluating, normalize, pgd
from binderclip.model.clip import CLIP
from binderclip.train.base import Features, Loss, Objective, TrainBatch

__all__ = ["TeCoA"]

CARD = Card(
    slug="tecoa",
    name="TeCoA",
    title="Understanding Zero-Shot Adversarial Robustness for Large-Scale Models",
    arxiv="2212.07016",
    year=2023,
    room="train",
    provides="TeCoA",
    kind="Objective",
    baseline=True,
    must_show={"the loss by a slow loop, and labels by name": "tests/train/test_fare.py::test_tecoa_by_a_loop"},
)


class TeCoA(Objective):
    """Adversarial fine-tuning of the image tower on labelled pictures.

    Args:
        classes: names. A row's class is its label (a name or a number), or the first of them that its captions name; rows
            without one count nothing.
        template: sentence around a name.
        eps: radius, in units of pixels in [0, 1].
        steps: of the inner attack.
        step_size: of it.
        norm: ``linf`` or ``l2``.

    Raises:
        InputError: fewer than two classes.
    """

    needs: ClassVar[tuple[str, ...]] = ("image",)
    clamp = None
    draws = True
    W: Tensor

    def __init__(
        self,
        classes: Sequence[str],
        template: str = "This is a photo of a {}.",
        eps: float = 4 / 255,
        steps: int = 10,
        step_size: float = 1 / 255,
        norm: str = "linf",
    ) -> None:
        super().__init__()
        if len(classes) < 2:
            raise InputError("name at least two classes, as in objective.classes='[cat, dog]'")
        self.classes, self.template = [str(name) for name in classes], template
        self.eps, self.steps, self.step_size, self.norm = eps, steps, step_size, norm
        self.register_buffer("W", torch.empty(0), persistent=False)

    def texts(self, pair: Pair, draws: Draws, caption: str) -> tuple[str, ...]:
        """None."""
        return ()

    def fields(self, pair: Pair, epoch: int, views: tuple[View, ...]) -> Mapping[str, NDArray[Any]]:
        """The number of the row's class, -1 for others."""
        return {"labels": np.array(self._number(pair), np.int64)}

    def _number(self, pair: Pair) -> int:
        if isinstance(pair.label, int):
            return pair.label if 0 <= pair.label < len(self.classes) else -1
        said = " ".join(pair.captions) if pair.label is None else str(pair.label)
        named = (i for i, name in enumerate(self.classes) if (name in said if pair.label is None else name == said))
        return next(named, -1)

    def setup(self, clip: CLIP, recipe: Mapping[str, Any]) -> None:
        """The class vectors; all but the image tower is frozen."""
        with evaluating(clip):
            self.W = torch.from_numpy(class_vectors(TorchEncoder(clip), self.classes, self.template)).to(clip.device)
        for name, parameter in clip.named_parameters():
            if not name.startswith("image."):
                parameter.requires_grad_(False)

    def encode(self, clip: CLIP, batch: TrainBatch) -> Features:
        """Unit features ``adv`` ``[N, D]``."""
        x = denormalize(clip, batch.views[0])
        y = batch.fields["labels"]
        with evaluating(clip):
            z = pgd(
                lambda z: self._cross_entropy(clip.encode("image", normalize(clip, z)).pooled, y),
                x,
                self.eps,
                steps=self.steps,
                step_size=self.step_size,
                norm=self.norm,
            )
        adv = clip.encode("image", normalize(clip, z), batch.image_at).pooled
        return {"adv": F.normalize(adv, dim=-1)}

    def loss(self, clip: CLIP, features: Features, batch: TrainBatch, step: int, total: int) -> Loss:
        """Mean over the rows whose class is known."""
        each = self._cross_entropy(features["adv"], batch.fields["labels"])
        adv = each.sum() / (batch.fields["labels"] >= 0).sum().clamp_min(1)
        return Loss(adv, {"adv": adv})

    def _cross_entropy(self, rows: Tensor, y: Tensor) -> Tensor:
        """Of each row ``[N, D]``, 0 where there is no label."""
        logits = 100 * F.normalize(rows, dim=-1) @ self.W.to(rows.dtype).T
        return F.cross_entropy(logits, y, ignore_index=-1, reduction="none")
