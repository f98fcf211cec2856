"""Projection and prediction heads of self-supervised losses; never counted in the exported CLIP."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn

from binderclip.errors import InputError

__all__ = ["Mlp"]

_ACTS = {"relu": nn.ReLU, "gelu": nn.GELU}


class Mlp(nn.Sequential):
    """Linear layers ``[N, dims[0]] -> [N, dims[-1]]`` with a norm and an activation after each but the last.

    SLIP's head is ``Mlp([C, 4096, 4096, 256])`` (arXiv 2112.12750); DeCLIP's ``z`` is ``Mlp([D, 1024, 1024, 1024],
    last_norm=True)`` and its ``p`` ``Mlp([1024, 512, 1024])``; A-CLIP's have ``bias=False``.

    Args:
        dims: widths from input to output, at least two.
        norm: ``batch`` (over rows ``[N, C]``, of this process alone) or ``None``.
        act: ``relu`` or ``gelu``.
        last_norm: a norm after the last layer too, with no activation behind it.
        bias: whether the linear layers have one.

    Raises:
        InputError: fewer than two widths, or an unknown name.
    """

    def __init__(
        self,
        dims: Sequence[int],
        norm: str | None = "batch",
        act: str = "relu",
        last_norm: bool = False,
        bias: bool = True,
    ) -> None:
        if len(dims) < 2 or norm not in ("batch", None) or act not in _ACTS:
            raise InputError(
                f"no head of widths {list(dims)}, norm {norm!r}, act {act!r}: give two widths or more, "
                f"norm 'batch' or None, act {' or '.join(_ACTS)}"
            )
        layers: list[nn.Module] = []
        for i, (wide, out) in enumerate(itertools.pairwise(dims)):
            last = i == len(dims) - 2
            layers.append(nn.Linear(wide, out, bias=bias))
            if norm and (last_norm or not last):
                layers.append(nn.BatchNorm1d(out))
            if not last:
                layers.append(_ACTS[act]())
        super().__init__(*layers)
