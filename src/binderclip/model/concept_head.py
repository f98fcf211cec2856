"""The head of the embedded model: a learned projection beside a classifier's words.

Of features ``f``, class-name vectors ``C`` and a classifier's logits ``g(f)``:

    ``e = unit(w_m unit(MLP(f)) + w_c unit(softmax(g(f) / T) C))``

The second term is ConSE (Norouzi et al. 2013, arXiv 1312.5650), the convex combination of class-name vectors by what
the classifier believes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from binderclip.model.block import ACTIVATIONS

__all__ = ["ConceptHead", "unit"]


def unit(x: Tensor) -> Tensor:
    """Divide by the Euclidean norm of the last axis."""
    return F.normalize(x, dim=-1)


class ConceptHead(nn.Module):
    """Features ``[..., features]`` to the joint space ``[..., D]``, pooled or at every location.

    Args:
        features: width of ``f``.
        embed_dim: ``D``.
        hidden: widths of the MLP's inner layers; empty makes it one linear map.
        activation: between them.
        bias: whether the MLP's last layer has a bias.
        classes: of the classifier; 0 leaves the concept branch out: the head is then the MLP, not made unit.
        temperature: ``T``.
        weights: start values of ``w_m`` and ``w_c`` (both learnable).
    """

    temperature: Tensor

    def __init__(
        self,
        features: int,
        embed_dim: int,
        *,
        hidden: Sequence[int] = (),
        activation: str = "gelu",
        bias: bool = True,
        classes: int = 0,
        temperature: float = 1.0,
        weights: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        super().__init__()
        widths = [features, *hidden]
        self.inner = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.last = nn.Linear(widths[-1], embed_dim, bias=bias)
        self.activation, self.classes = activation, classes
        if classes:
            self.classifier = nn.Linear(features, classes)
            self.concepts = nn.Parameter(unit(torch.randn(classes, embed_dim)))  # C [classes, D]
            self.register_buffer("temperature", torch.tensor(float(temperature)))
            self.mix = nn.Parameter(torch.tensor(weights, dtype=torch.float32))  # w_m, w_c

    def project(self, f: Tensor) -> Tensor:
        """``MLP(f)``, ``[..., D]``."""
        for layer in self.inner:
            f = ACTIVATIONS[self.activation](layer(f))
        out: Tensor = self.last(f)
        return out

    def concept(self, f: Tensor) -> Tensor:
        """``softmax(g(f) / T) C``, ``[..., D]``."""
        belief: Tensor = (self.classifier(f) / self.temperature).softmax(dim=-1)  # [..., classes]
        return belief @ self.concepts

    def forward(self, f: Tensor) -> Tensor:
        """Both branches, summed and made unit; without classes the projection alone."""
        projected = self.project(f)
        if not self.classes:
            return projected
        return unit(self.mix[0] * unit(projected) + self.mix[1] * unit(self.concept(f)))
