"""How prompts are trained, the same for all who learn them: SGD, a rate for each epoch, batches by the rows' content."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from binderclip.data.hashing import uniform
from binderclip.data.transforms import Augment
from binderclip.errors import InputError

__all__ = ["VIEW", "Schedule", "content_keys", "train_prompts"]

#: Rows ``[B]`` of a batch and the epoch to a loss.
Loss = Callable[[Tensor, int], Tensor]
#: Parameters, their gradients, rows and epoch to the gradients that are used.
GradientHook = Callable[[Sequence[nn.Parameter], Sequence[Tensor], Tensor, int], Sequence[Tensor]]
#: What a prompt learner sees of a training picture: 8 to 100 % of its area, flipped in half of the cases.
VIEW = Augment(scale=(0.08, 1.0), flip=0.5)


@dataclass(frozen=True)
class Schedule:
    """SGD with momentum and weight decay; the rate is constant within an epoch.

    Epochs of the warm-up run at `warmup_lr`; epoch e after them at ``lr/2 (1 + cos(pi (e - w) / E))``, E all epochs, w those
    of the warm-up: the first has the full rate and the last does not reach 0.

    Args:
        lr: the full rate.
        epochs: E.
        batch_size: rows of a batch; the last incomplete one of an epoch is left out, unless it is the only one.
        warmup_epochs: w.
        warmup_lr: rate of the warm-up.
        momentum: without dampening, not Nesterov's.
        weight_decay: added to the gradient.

    Raises:
        InputError: a number of rows or epochs below 1, or a rate that is not positive.
    """

    lr: float
    epochs: int
    batch_size: int = 32
    warmup_epochs: int = 1
    warmup_lr: float = 1e-5
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or not self.lr > 0:
            raise InputError(
                f"epochs {self.epochs}, batch_size {self.batch_size}, lr {self.lr}: give positive numbers, whole ones first"
            )

    def rate(self, epoch: int) -> float:
        """Of an epoch, from 0."""
        if epoch < self.warmup_epochs:
            return self.warmup_lr
        return self.lr * 0.5 * (1 + math.cos(math.pi * (epoch - self.warmup_epochs) / self.epochs))

    def batches(self, keys: Sequence[str], epoch: int, seed: int) -> list[Tensor]:
        """Rows ``[B]`` of each batch of an epoch, in the order of u(epoch, key): the order of the rows has no effect."""
        order = torch.from_numpy(np.lexsort((np.array(keys), uniform(seed, [f"epoch {epoch}/{key}" for key in keys]))))
        if len(order) <= self.batch_size:
            return [order]
        parts = list(torch.split(order, self.batch_size))
        return parts if len(parts[-1]) == self.batch_size else parts[:-1]


def train_prompts(
    parameters: Sequence[nn.Parameter],
    keys: Sequence[str],
    loss: Loss,
    schedule: Schedule,
    *,
    seed: int = 0,
    terms: Sequence[Loss] = (),
    on_gradient: GradientHook | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Train; the mean loss of each epoch. The last epoch is the result.

    Gradients are asked for these parameters alone: nothing is collected on a model that the loss runs through.

    Args:
        parameters: changed in place.
        keys: of the rows, from their content.
        loss: of a batch.
        schedule: rates and batches.
        seed: of the batches.
        terms: further losses, added to it.
        on_gradient: what may change gradients before the step.
        on_progress: told (done, total) of steps.

    Raises:
        InputError: the loss is no number any more.
    """
    optimizer = torch.optim.SGD(parameters, schedule.lr, schedule.momentum, weight_decay=schedule.weight_decay)
    history, done = [], 0
    for epoch in range(schedule.epochs):
        batches, found = schedule.batches(keys, epoch, seed), []
        optimizer.param_groups[0]["lr"] = schedule.rate(epoch)
        for rows in batches:
            with torch.enable_grad():  # whatever the caller has switched off
                value = loss(rows, epoch)
                for term in terms:
                    value = value + term(rows, epoch)
            if not torch.isfinite(value):
                raise InputError(f"the loss is no number after {done} steps: choose a smaller lr")
            gradients: Sequence[Tensor] = torch.autograd.grad(value, list(parameters))
            if on_gradient is not None:
                gradients = on_gradient(parameters, gradients, rows, epoch)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
            optimizer.zero_grad()
            found.append(float(value.detach()))
            done += 1
            if on_progress is not None:
                on_progress(done, schedule.epochs * len(batches))
        history.append(sum(found) / len(found))
    return history


def content_keys(rows: Any) -> list[str]:
    """A name for each row of an array, from its content alone."""
    plain = np.ascontiguousarray(rows, np.float32)
    return [hashlib.blake2b(row.tobytes(), digest_size=8).hexdigest() for row in plain]
