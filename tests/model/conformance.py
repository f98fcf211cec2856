"""What every tower must do, whatever is inside: the room's one suite. A failure's message begins with the rule it broke."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from binderclip.model.build import build

D = 12
#: One tiny configuration of each kind of tower that a config may name.
TINY: dict[str, dict[str, Any]] = {
    "vit": {"image_size": 32, "patch_size": 8, "width": 24, "layers": 2, "heads": 2},
    "resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "stem_width": 8, "heads": 4},
    "convnext": {"depths": [1, 1, 1, 1], "widths": [8, 16, 24, 32]},
    "efficientnet_lite": {"variant": "lite0"},
    "text_transformer": {"vocab_size": 50, "context_length": 9, "width": 16, "layers": 2, "heads": 2},
    "bert": {"vocab_size": 50, "context_length": 12, "width": 16, "layers": 2, "heads": 2},
}
TEXTS = ("text_transformer", "bert")

Make = Callable[[], nn.Module]


def maker(kind: str) -> Make:
    """Builds one tower of a kind as a checkpoint's config does."""
    side = "text" if kind in TEXTS else "image"

    def make() -> nn.Module:
        return build({"embed_dim": D, "towers": {side: {"kind": kind, **TINY[kind]}}}).get_submodule(side)

    return make


def batch(kind: str, n: int = 4) -> Tensor:
    """Ids or pixels of n different rows."""
    generator = torch.Generator().manual_seed(1)
    if kind in TEXTS:
        ids = torch.randint(3, 49, (n, 7), generator=generator)
        ids[:, -1] = 49  # the largest id ends a text
        return ids
    return torch.randn(n, 3, 64, 64, generator=generator)


def seeded(make: Make, seed: int = 0) -> nn.Module:
    """A tower made under a seed, in eval mode; convolutions get a gain, or a deep untrained one gives the same for all."""
    torch.manual_seed(seed)
    tower = make().eval()
    for module in tower.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return tower


def obeys_the_seed(make: Make, kind: str) -> None:
    """One seed, one tower: the same weights, and the same output at every call."""
    a, b = seeded(make), seeded(make)
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)), (
        "seed: weights"
    )
    x = batch(kind)
    first, second, other = a(x).pooled, a(x).pooled, b(x).pooled
    assert torch.equal(first, second), "seed: two calls differ"
    assert torch.equal(first, other), "seed: two towers of one seed differ"


def leaves_alone_what_it_is_given(make: Make, kind: str) -> None:
    """A forward changes neither the weights nor the batch."""
    tower, x = seeded(make), batch(kind)
    before, given = {k: v.clone() for k, v in tower.state_dict().items()}, x.clone()
    tower(x)
    changed = [k for k, v in tower.state_dict().items() if not torch.equal(v, before[k])]
    assert not changed, f"changes: {changed[0]}"
    assert torch.equal(x, given), "changes: its input"


def keeps_rows_in_order(make: Make, kind: str) -> None:
    """Row i of the output belongs to row i of the input, and to no other."""
    tower, x = seeded(make), batch(kind)
    pooled = tower(x).pooled
    assert pooled.shape == (len(x), D), "order: shape"
    for i in range(len(x)):
        alone = tower(x[i : i + 1]).pooled[0]
        nearest = int((pooled - alone).norm(dim=1).argmin())
        assert nearest == i, f"order: row {i} came out as row {nearest}"
        assert torch.allclose(pooled[i], alone, atol=1e-5), f"order: row {i} depends on its neighbours"


def returns_tokens(make: Make, kind: str) -> None:
    """``Tokens`` with a sequence ``[N, S, C]`` and gradients that reach the first weights."""
    tower, x = seeded(make), batch(kind)
    tokens = tower(x)
    assert tokens.sequence.ndim == 3, "tokens: sequence is not [N, S, C]"
    assert len(tokens.sequence) == len(x), "tokens: sequence has other rows"
    tokens.pooled.square().sum().backward()
    first = next(p for p in tower.parameters() if p.requires_grad)
    assert first.grad is not None, "tokens: no gradient"


RULES: Mapping[str, Callable[[Make, str], None]] = {
    "seed": obeys_the_seed,
    "changes": leaves_alone_what_it_is_given,
    "order": keeps_rows_in_order,
    "tokens": returns_tokens,
}
