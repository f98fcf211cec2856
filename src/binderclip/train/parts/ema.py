"""Averages of weights: a copy that follows slowly (Tarvainen and Valpola 2017, arXiv 1703.01780), and plain means."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from binderclip.errors import InputError

__all__ = ["Ema", "Schedule", "average", "cosine_momentum"]

#: (step k from 0, all steps K) -> momentum m_k.
Schedule = Callable[[int, int], float]


def cosine_momentum(start: float) -> Schedule:
    """``m_k = 1 - (1 - start)(1 + cos(pi k / K)) / 2``: from ``start`` to 1 (BYOL, Grill et al. 2020, arXiv 2006.07733).

    Example:
        >>> m = cosine_momentum(0.996)
        >>> m(0, 100), round(m(50, 100), 6), m(100, 100)
        (0.996, 0.998, 1.0)
    """
    return lambda step, total: 1.0 - (1.0 - start) * (1.0 + math.cos(math.pi * step / total)) / 2.0


class Ema(nn.Module):
    """A copy of a module that gets no gradient and follows it: ``p_ema <- m p_ema + (1 - m) p``.

    A module itself, so that its weights are in the checkpoint of whatever owns it; it begins as an exact copy. ``train()``
    and ``eval()`` of the owner reach it: put it back with ``ema.eval()`` where the owner's mode is not meant.

    Args:
        module: what to copy.
        schedule: ``m``, or a function of (step, total steps). ``lambda k, _: k / (k + 1)`` makes the plain mean of all
            updates (SWA, Izmailov et al. 2018, arXiv 1803.05407).
        buffers: ``copy`` takes the module's buffers at each update; ``own`` leaves the copy's alone (the batch statistics
            of BYOL's target head).
    """

    def __init__(self, module: nn.Module, schedule: float | Schedule = 0.999, *, buffers: str = "copy") -> None:
        super().__init__()
        if buffers not in ("copy", "own"):
            raise InputError(f"unknown treatment of buffers {buffers!r}: use 'copy' or 'own'")
        self.module = copy.deepcopy(module).requires_grad_(False)
        self.schedule, self.buffers_from = schedule, buffers

    def momentum(self, step: int = 0, total: int = 1) -> float:
        """``m`` of a step."""
        return self.schedule(step, total) if callable(self.schedule) else self.schedule

    @torch.no_grad()
    def update(self, module: nn.Module, step: int = 0, total: int = 1) -> None:
        """Follow the module by one step; ``m = 1`` leaves every parameter as it is, ``m = 0`` copies it, to the bit.

        Args:
            module: of the same structure, not wrapped (give what is inside DDP).
            step: ``k``, from 0.
            total: ``K``.

        Raises:
            InputError: its parameters have other names.
        """
        weight = 1.0 - self.momentum(step, total)
        theirs = dict(module.named_parameters())
        ours = dict(self.module.named_parameters())
        if theirs.keys() != ours.keys():
            odd = sorted(theirs.keys() ^ ours.keys())[0]
            raise InputError(f"the average and the module differ in {odd}: give the module it was made from, unwrapped")
        for name, parameter in ours.items() if weight else ():  # m = 1: not even a NaN gets in
            parameter.lerp_(theirs[name].detach().to(parameter), weight)
        if self.buffers_from == "copy":
            buffers = dict(module.named_buffers())
            for name, buffer in self.module.named_buffers():
                buffer.copy_(buffers[name])

    @torch.no_grad()
    def forward(self, *inputs: Any, **options: Any) -> Any:
        """What the copy says, without gradient."""
        return self.module(*inputs, **options)


def average(
    items: Sequence[nn.Module | Mapping[str, Tensor]], weights: Sequence[float] | None = None
) -> dict[str, Tensor]:
    """The state ``sum_i w_i theta_i``: WiSE-FT (arXiv 2109.01903) is ``average([start, end], [1 - a, a])``.

    Sums are float64 and rounded once to each tensor's own type; whole numbers (counters) and bools are the last item's.

    Args:
        items: modules or state dicts with the same names and shapes.
        weights: ``w``, summing to one, negative ones allowed; alike by default (SWA, model soups).

    Raises:
        InputError: nothing given, weights that do not fit, or items that differ.
    """
    states = [item.state_dict() if isinstance(item, nn.Module) else item for item in items]
    if not states:
        raise InputError("nothing to average: give at least one module or state dict")
    shares = [1.0 / len(states)] * len(states) if weights is None else list(weights)
    if len(shares) != len(states) or abs(sum(shares) - 1.0) > 1e-6:
        raise InputError(f"{len(states)} items need as many weights that sum to one, not {shares}")
    for state in states[1:]:
        odd = sorted(state.keys() ^ states[0].keys()) or [k for k in state if state[k].shape != states[0][k].shape]
        if odd:
            raise InputError(f"what is averaged differs in {odd[0]}: give states of one architecture")
    return {name: _mean([state[name].detach() for state in states], shares) for name in states[0]}


def _mean(tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    last = tensors[-1]
    if not last.is_floating_point():
        return last.clone()
    total = torch.zeros(last.shape, dtype=torch.float64)
    for tensor, share in zip(tensors, shares, strict=True):
        if share:  # an item of weight 0 says nothing, not even NaN
            total += share * tensor.cpu().double()
    return total.to(last)
