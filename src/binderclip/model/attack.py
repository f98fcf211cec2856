"""Projected gradient ascent on pixels (Madry et al. 2018, arXiv 1706.06083), through a tower's own normalisation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from binderclip.errors import InputError, NeedsPartError
from binderclip.model.clip import CLIP

__all__ = ["denormalize", "evaluating", "normalize", "pgd"]


def normalize(clip: CLIP, x: Tensor) -> Tensor:
    """Pixels ``[N, 3, H, W]`` in [0, 1] as the image tower takes them."""
    mean, std = _moments(clip, x)
    return (x - mean) / std


def denormalize(clip: CLIP, pixels: Tensor) -> Tensor:
    """The opposite of `normalize`, in [0, 1]."""
    mean, std = _moments(clip, pixels)
    return (pixels * std + mean).clamp(0, 1)


def pgd(
    loss: Callable[[Tensor], Tensor],
    x: Tensor,
    eps: float,
    *,
    steps: int = 10,
    step_size: float = 1 / 255,
    momentum: float = 0.9,
    norm: str = "linf",
    start: Tensor | None = None,
) -> Tensor:
    """Pixels near x that make a loss large: the last iterate, in the ball around x and in [0, 1].

    ``linf``: ``v = sign(m v + sign(g))``, ``delta = clip(delta + a v, -eps, eps)``. ``l2``: ``v = m v + g / |g|``, the
    step is ``a v / |v|``, delta is drawn back to length eps. Behind each step ``x + delta`` is clipped to [0, 1].

    Args:
        loss: ``[N, ...]`` to a loss of each row ``[N]``; rows must not depend on each other.
        x: ``[N, ...]`` in [0, 1].
        eps: radius, in units of x.
        steps: of ascent.
        step_size: a.
        momentum: m; of no effect in ``linf`` wherever the gradient is not 0, as signs outvote it.
        norm: ``linf`` or ``l2``.
        start: delta to begin with; by default uniform in [-eps, eps] (``linf``) or in a random direction at a uniform
            share of eps (``l2``), from torch's own generator; it is not clipped to [0, 1] before the first gradient.

    Raises:
        InputError: another norm, or a negative radius.
    """
    if norm not in ("linf", "l2") or eps < 0 or steps < 0:
        raise InputError(f"norm {norm!r}, eps {eps}, steps {steps}: give linf or l2, and nothing negative")
    delta = _start(x, eps, norm) if start is None else start.clone()
    velocity = torch.zeros_like(x)
    for _ in range(steps):
        z = (x + delta).detach().requires_grad_(True)
        with torch.enable_grad():
            (g,) = torch.autograd.grad(loss(z).sum(), z)
        if norm == "linf":
            velocity = (momentum * velocity + g.sign()).sign()
            delta = (delta + step_size * velocity).clamp(-eps, eps)
        else:
            velocity = momentum * velocity + g / _length(g)
            delta = delta + step_size * velocity / _length(velocity)
            delta = delta * (eps / _length(delta)).clamp(max=1)
        delta = (x + delta).clamp(0, 1) - x
    return (x + delta).clamp(0, 1).detach()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in eval mode inside, every part of it as it was behind."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _start(x: Tensor, eps: float, norm: str) -> Tensor:
    if norm == "linf":
        return torch.empty_like(x).uniform_(-eps, eps)
    direction = torch.randn_like(x)
    share = torch.rand(len(x), *[1] * (x.dim() - 1), dtype=x.dtype, device=x.device)
    out: Tensor = eps * share * direction / _length(direction)
    return out


def _length(rows: Tensor) -> Tensor:
    """``[N, 1, ...]``, never 0."""
    lengths: Tensor = torch.linalg.vector_norm(rows.flatten(1), dim=1).clamp_min(1e-12)
    return lengths.reshape(-1, *[1] * (rows.dim() - 1))


def _moments(clip: CLIP, like: Tensor) -> tuple[Tensor, Tensor]:
    if clip.preprocess is None:
        raise NeedsPartError(f"{clip.name} has no preprocess: which pixels it takes is not known")
    mean, std = (
        torch.tensor(part, dtype=like.dtype, device=like.device)[:, None, None]
        for part in (clip.preprocess.mean, clip.preprocess.std)
    )
    return mean, std
