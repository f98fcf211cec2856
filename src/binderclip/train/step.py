"""One step's gradients: of a batch as a whole, or piece by piece with the same result.

Cached gradients (Gao et al. 2021, Scaling deep contrastive learning batch size under memory limited setup, arXiv
2101.06983): features of all rows are made without a graph, the loss of all of them gives ``dL/dfeature``, and each
piece is encoded again with a graph into which its rows of ``dL/dfeature`` are fed. Memory holds one piece's graph,
the loss sees every row. Exact where a row is encoded alone as among others; BatchNorm in a tower sees one piece at a
time, and twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from binderclip.data.hashing import hash64
from binderclip.errors import InputError
from binderclip.model.clip import CLIP
from binderclip.train.base import Features, Loss, Objective, TrainBatch

__all__ = ["Trainee", "gradients", "reseed"]

Backward = Callable[[Tensor], None]


class Trainee(nn.Module):
    """A CLIP and its objective as one module, so that what wraps it (DDP, autocast) sees every call.

    Args:
        clip: that is trained.
        objective: with its heads.
        touch: add every parameter times zero to what is differentiated, so that processes agree on who has a gradient.
    """

    def __init__(self, clip: CLIP, objective: Objective, *, touch: bool = False) -> None:
        super().__init__()
        self.clip, self.objective, self.touch = clip, objective, touch

    def forward(self, what: str, batch: TrainBatch, *rest: Any) -> Any:
        """``encode``, ``loss`` or ``both``."""
        if what == "encode":
            return dict(self.objective.encode(self.clip, batch))
        if what == "loss":
            features, step, total = rest
            return self.objective.loss(self.clip, features, batch, step, total)
        seed, step, total = rest
        reseed(seed, step, 0)
        features = self.objective.encode(self.clip, batch)
        reseed(seed, step, "loss")
        return self.objective.loss(self.clip, features, batch, step, total)

    def nothing(self) -> Tensor | float:
        """Zero, with every trainable parameter in its graph where that is wanted."""
        if not self.touch:
            return 0.0
        return sum((0.0 * p.sum() for p in self.parameters() if p.requires_grad), torch.zeros(()))


def reseed(seed: int, step: int, piece: int | str) -> None:
    """Set torch's random numbers from the run's seed, the step, the process and the piece."""
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    torch.manual_seed(hash64(seed, f"step/{step}/{rank}/{piece}") >> 1)


def gradients(
    pair: nn.Module,
    batch: TrainBatch,
    step: int,
    total: int,
    *,
    seed: int = 0,
    micro_batch: int | None = None,
    backward: Backward = Tensor.backward,
    check: Callable[[Loss], None] = lambda loss: None,
) -> Loss:
    """Add a batch's gradients to ``.grad`` of clip and objective.

    Args:
        pair: a `Trainee`, or a wrapper around one.
        batch: rows of this process.
        step: from 0.
        total: steps of the run.
        seed: of the run.
        micro_batch: rows of a piece; None takes the batch as a whole.
        backward: how to differentiate.
        check: is shown the loss before anything is differentiated.

    Raises:
        InputError: an objective that needs the batch whole is to be cut.
    """
    inner = getattr(pair, "module", pair)
    assert isinstance(inner, Trainee)
    if micro_batch is None or micro_batch >= len(batch):
        loss: Loss = pair("both", batch, seed, step, total)
        check(loss)
        backward(loss.total + inner.nothing())
        return loss
    if not inner.objective.cuttable:
        name = type(inner.objective).__name__
        raise InputError(f"{name} needs its batch whole: leave out micro_batch, or make the batch smaller")
    pieces = [batch.rows(i, i + micro_batch) for i in range(0, len(batch), micro_batch)]
    with _alone(pair):
        features = _features(pair, pieces, seed, step)
        reseed(seed, step, "loss")
        loss = pair("loss", batch, features, step, total)
        check(loss)
        backward(loss.total)
    start = 0
    for i, piece in enumerate(pieces):
        with contextlib.nullcontext() if i == len(pieces) - 1 else _alone(pair):
            reseed(seed, step, i)
            rows = slice(start, start + len(piece))
            fed = [
                (part * cast_grad(features[name], rows, part)).sum()
                for name, part in pair("encode", piece).items()
                if part.requires_grad and features[name].grad is not None
            ]
            backward(sum(fed, torch.zeros((), device=batch.views[0].device)) + inner.nothing())
            start += len(piece)
    return loss


def cast_grad(feature: Tensor, rows: slice, like: Tensor) -> Tensor:
    """``dL/dfeature`` of some rows."""
    assert feature.grad is not None
    return feature.grad[rows].to(like.dtype)


def _features(pair: nn.Module, pieces: list[TrainBatch], seed: int, step: int) -> Features:
    """Of all pieces, as leaves that gather a gradient."""
    parts: list[dict[str, Tensor]] = []
    with torch.no_grad():
        for i, piece in enumerate(pieces):
            reseed(seed, step, i)
            parts.append(pair("encode", piece))
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return {name: rows.requires_grad_(rows.is_floating_point()) for name, rows in joined.items()}


def _alone(pair: nn.Module) -> Any:
    """No exchange of gradients between processes inside."""
    no_sync = getattr(pair, "no_sync", None)
    return contextlib.nullcontext() if no_sync is None else no_sync()
