"""Heads: their layers in order, and the whole against its parts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from binderclip.errors import InputError
from binderclip.train.parts.heads import Mlp


def names(head: nn.Sequential) -> list[str]:
    return [type(layer).__name__ for layer in head]


def test_layers_of_the_papers_heads() -> None:
    slip = Mlp([8, 16, 16, 4])
    assert names(slip) == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert all(layer.bias is not None for layer in slip if isinstance(layer, nn.Linear))
    declip = Mlp([8, 16, 16, 16], last_norm=True)
    assert names(declip) == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear", "BatchNorm1d"]
    aclip = Mlp([8, 16, 4], bias=False)
    assert all(layer.bias is None for layer in aclip if isinstance(layer, nn.Linear))
    assert names(Mlp([8, 4], norm=None)) == ["Linear"]
    assert names(Mlp([8, 6, 4], norm=None, act="gelu", last_norm=True)) == ["Linear", "GELU", "Linear"]


def test_against_arithmetic() -> None:
    torch.manual_seed(0)
    head = Mlp([3, 5, 2], last_norm=True).double()
    x = torch.randn(7, 3, dtype=torch.float64)

    def normed(y: torch.Tensor) -> torch.Tensor:
        return (y - y.mean(0)) / (y.var(0, unbiased=False) + 1e-5).sqrt()

    first, last = head[0], head[3]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    hidden = normed(x @ first.weight.T + first.bias).clamp_min(0)
    torch.testing.assert_close(head(x), normed(hidden @ last.weight.T + last.bias), rtol=0, atol=1e-12)


def test_what_cannot_be_built() -> None:
    for options in ({"dims": [8]}, {"dims": [8, 4], "norm": "layer"}, {"dims": [8, 4], "act": "sine"}):
        with pytest.raises(InputError, match="no head of widths"):
            Mlp(**options)
