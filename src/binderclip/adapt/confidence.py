"""What methods share that adapt to pictures without labels: which views are sure, how far they agree, and going back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from binderclip.errors import InputError

__all__ = ["entropy", "marginal_entropy", "restored", "select_confident"]


def entropy(logits: Tensor) -> Tensor:
    """``H(softmax(z))`` in nats ``[...]`` of logits ``[..., C]``."""
    log_p = logits.log_softmax(dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1)


def select_confident(logits: Tensor, share: float) -> Tensor:
    """The rows of lowest entropy, ``floor(share V)`` of V but at least one, in that order; of equals the first.

    Args:
        logits: ``[V, C]``.
        share: above 0, at most 1.

    Raises:
        InputError: a share that is none.
    """
    if not 0 < share <= 1:
        raise InputError(f"the share of views that is kept is {share}: give a number above 0, at most 1")
    count = max(int(share * len(logits) + 1e-9), 1)  # 0.1 x 60 is 6, whatever its binary digits
    return entropy(logits.detach()).argsort(stable=True)[:count]


def marginal_entropy(logits: Tensor) -> Tensor:
    """``H(p)`` of the mean prediction ``p = 1/n sum_i softmax(z_i)``, a scalar in nats: low where views agree and are sure.

    Not the mean of their entropies. Computed in logarithms: ``log p = logsumexp_i(log softmax z_i) - log n``.

    Args:
        logits: ``[n, C]``.
    """
    log_p = logits.log_softmax(dim=-1).logsumexp(dim=0) - math.log(len(logits))
    log_p = log_p.clamp(min=torch.finfo(log_p.dtype).min)
    return -(log_p.exp() * log_p).sum()


@contextmanager
def restored(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """What happens to the parameters within is undone at the end, whatever happens, to the bit."""
    kept = [(parameter, parameter.detach().clone()) for parameter in parameters]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in kept:
                parameter.copy_(value)
                parameter.grad = None
