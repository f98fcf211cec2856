"""What the loop and an objective say to each other.

An `Objective` turns a CLIP and a batch into a `Loss`, in two halves, `encode` (rows alone) and `loss` (rows
together), so that the loop can cut a batch into pieces that fit into memory and still give the loss and the gradients
of the whole batch (cached gradients, Gao et al. 2021, arXiv 2101.06983). Randomness is torch's own: the loop seeds it
from the run's seed, the step, the process and the piece, so that a piece that is encoded twice draws the same, and a
resumed run too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from binderclip.data.hashing import Draws
from binderclip.data.pairs import Pair
from binderclip.data.transforms import Augment, View
from binderclip.errors import InputError
from binderclip.model.base import At
from binderclip.model.clip import CLIP

__all__ = ["Features", "Loss", "Objective", "TrainBatch"]

#: Name -> a tensor with one row a pair, all that `loss` may ask gradients of.
Features = Mapping[str, Tensor]


@dataclass(frozen=True)
class Loss:
    """What is minimised, and what it is made of.

    Args:
        total: a scalar with gradient.
        parts: name -> scalar, for the log; weights not yet applied.
    """

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainBatch:
    """N pairs as tensors; each field has N rows.

    Args:
        views: normalised pixels of each view ``[N, 3, S, S]``.
        ids: token ids of each text of a row ``[N, L]``.
        eos: index of each text's end token ``[N]``.
        crops: of each view, in pixels of the picture: top, left, height, width ``[N, V, 4]``.
        index: ids of the rows.
        texts: the texts themselves, one tuple a row.
        weights: how much a row counts ``[N]``.
        fields: what else the objective asked for, name -> ``[N, ...]``: ``labels``, ``boxes``, ``maps``, ``teacher``, ...
        image_at: site functions that the phase puts into the image tower (token dropping); None outside training.
    """

    views: tuple[Tensor, ...] = ()
    ids: tuple[Tensor, ...] = ()
    eos: tuple[Tensor, ...] = ()
    crops: Tensor | None = None
    index: tuple[str, ...] = ()
    texts: tuple[tuple[str, ...], ...] = ()
    weights: Tensor | None = None
    fields: Mapping[str, Tensor] = field(default_factory=dict)
    image_at: At | None = None

    def __len__(self) -> int:
        return len(self.index)

    def rows(self, start: int, stop: int) -> TrainBatch:
        """Rows start ... stop - 1."""
        return self._map(lambda rows: rows[start:stop])

    def to(self, device: torch.device | str) -> TrainBatch:
        """The tensors on a device."""
        return self._map(lambda rows: rows.to(device, non_blocking=True) if isinstance(rows, Tensor) else rows)

    def _map(self, change: Any) -> TrainBatch:
        """``change`` on everything that has a row a pair."""
        changed: dict[str, Any] = {}
        for part in fields(self):
            value = getattr(self, part.name)
            if part.name in ("views", "ids", "eos"):
                changed[part.name] = tuple(change(tensor) for tensor in value)
            elif part.name == "fields":
                changed[part.name] = {name: change(tensor) for name, tensor in value.items()}
            elif part.name != "image_at" and value is not None:
                changed[part.name] = change(value)
        return replace(self, **changed)


class Objective(nn.Module):
    """Base of objectives: plain InfoNCE's reading of the data, and hooks that do nothing.

    Attributes:
        needs: what a row must have (``Stream``'s words).
        clamp: bounds on the scale of the logits, lowest and highest, or None; ln s is clamped after every step.
        cuttable: whether `encode` gives every row alone the same as among others, so that batches may be cut in pieces.
        draws: whether it draws random numbers, which pieces and processes draw otherwise than a whole batch does.
    """

    needs: ClassVar[tuple[str, ...]] = ("image", "caption")
    clamp: tuple[float, float] | None = (1e-6, 100.0)
    cuttable: bool = True
    draws: bool = False

    # What is read, called in the loader's threads; functions of their arguments alone.

    def views(self, augment: Augment) -> Mapping[str, Augment]:
        """Name -> augmentation of each view; one, as the recipe's data says."""
        return {"view": augment}

    def place(self, views: tuple[View, ...], draws: Draws) -> tuple[View, ...]:
        """A last word on the drawn views of a row (one that contains the others, say)."""
        return views

    def texts(self, pair: Pair, draws: Draws, caption: str) -> tuple[str, ...]:
        """The texts of a row in this epoch, always the same number.

        Args:
            pair: the row.
            draws: of this row in this epoch.
            caption: chosen as the recipe's data says.
        """
        return (caption,)

    def fields(self, pair: Pair, epoch: int, views: tuple[View, ...]) -> Mapping[str, NDArray[Any]]:
        """Arrays for ``TrainBatch.fields``, without the first axis; the same names for every row."""
        return {}

    # What is learnt.

    def setup(self, clip: CLIP, recipe: Mapping[str, Any]) -> None:
        """Before the first step: heads, frozen copies, frozen parameters. Parameters made here are trained."""

    def encode(self, clip: CLIP, batch: TrainBatch) -> Features:
        """What the towers give for the rows; plain: unit features ``image`` and ``text`` ``[N, D]``."""
        return {
            "image": F.normalize(clip.encode("image", batch.views[0], batch.image_at).pooled, dim=-1),
            "text": clip.encode_text((batch.ids[0], batch.eos[0])),
        }

    def loss(self, clip: CLIP, features: Features, batch: TrainBatch, step: int, total: int) -> Loss:
        """The loss of all rows together.

        Args:
            clip: for its scale and bias.
            features: what `encode` gave.
            batch: the same rows.
            step: from 0.
            total: steps of the whole run.
        """
        raise NotImplementedError

    def forward(self, clip: CLIP, batch: TrainBatch, step: int = 0, total: int = 1) -> Loss:
        """Both halves at once."""
        return self.loss(clip, self.encode(clip, batch), batch, step, total)

    def before_step(self, clip: CLIP, step: int, total: int) -> None:
        """Ahead of a step's first forward."""

    def after_step(self, clip: CLIP, step: int, total: int) -> None:
        """Behind the optimiser's step: the scale is clamped."""
        if self.clamp is not None:
            low, high = self.clamp
            with torch.no_grad():
                clip.logit_scale.clamp_(math.log(low), math.log(high))

    def finish(self, clip: CLIP) -> CLIP:
        """What is exported: a Surgery; the CLIP as it is."""
        return clip


def checked_parts(loss: Loss) -> dict[str, float]:
    """The loss as numbers.

    Raises:
        InputError: the total is no scalar.
    """
    if loss.total.dim():
        raise InputError(f"an objective gives a scalar, not {list(loss.total.shape)}: take the mean over rows")
    numbers = {"loss": loss.total, **loss.parts}
    stacked = torch.stack([part.detach().float().reshape(()) for part in numbers.values()])
    return dict(zip(numbers, stacked.tolist(), strict=True))
