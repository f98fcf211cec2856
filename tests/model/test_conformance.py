"""Every kind of tower passes the room's suite; three that are broken on purpose fail it, each for its own reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from binderclip.model.base import Tokens
from binderclip.model.build import TOWERS

from .conformance import RULES, TINY, maker


def test_every_kind_has_a_tiny_configuration() -> None:
    assert set(TINY) == set(TOWERS)


@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("kind", sorted(TINY))
def test_conforms(kind: str, rule: str) -> None:
    RULES[rule](maker(kind), kind)


class Wrapped(nn.Module):
    """A good ViT inside a broken tower."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = maker("vit")()

    def forward(self, x: Tensor, at: Any = None) -> Tokens:
        tokens: Tokens = self.inner(x, at)
        return tokens


class IgnoresTheSeed(Wrapped):
    def forward(self, x: Tensor, at: Any = None) -> Tokens:
        tokens = super().forward(x, at)
        noise = torch.randn(tokens.pooled.shape, generator=torch.Generator().manual_seed(torch.seed() % 2**31))
        return replace(tokens, pooled=tokens.pooled + 1e-3 * noise)


class ChangesItself(Wrapped):
    def forward(self, x: Tensor, at: Any = None) -> Tokens:
        tokens = super().forward(x, at)
        with torch.no_grad():
            next(self.inner.parameters()).mul_(1 + 1e-6)
        return tokens


class WrongOrder(Wrapped):
    def forward(self, x: Tensor, at: Any = None) -> Tokens:
        tokens = super().forward(x, at)
        return replace(tokens, pooled=tokens.pooled.flip(0))


@pytest.mark.parametrize(
    ("broken", "rule"), [(IgnoresTheSeed, "seed"), (ChangesItself, "changes"), (WrongOrder, "order")]
)
def test_a_broken_tower_is_found_out(broken: type[nn.Module], rule: str) -> None:
    with pytest.raises(AssertionError, match=f"^{rule}:"):
        RULES[rule](broken, "vit")
