"""EfficientNet-Lite: an image tower for small machines.

EfficientNet (Tan and Le 2019, arXiv 1905.11946) without squeeze-and-excitation and with ReLU6 in place of swish; the
stem and the last layers keep their size when the network is scaled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from binderclip.errors import InputError
from binderclip.model.base import At, State, Tokens
from binderclip.model.concept_head import ConceptHead
from binderclip.model.sites import Sites, site_names

__all__ = ["EfficientNetLite"]

FEATURES = 1280
# (width factor, depth factor, pixels)
_VARIANTS = {"lite0": (1.0, 1.0, 224), "lite1": (1.0, 1.1, 240), "lite2": (1.1, 1.2, 260)}
# (repeats, kernel, stride, expansion, channels out)
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class ConvNorm(nn.Module):
    """Convolution, batch norm, and ReLU6 if asked; padded as TensorFlow does (the odd pixel right and below)."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, groups: int = 1, act: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)
        self.kernel, self.stride, self.act = kernel, stride, act

    def forward(self, x: Tensor) -> Tensor:
        """``[N, I, H, W] -> [N, O, ceil(H / stride), ceil(W / stride)]``."""
        if self.kernel > 1:
            top, bottom = self._pad(x.shape[2])
            left, right = self._pad(x.shape[3])
            x = F.pad(x, (left, right, top, bottom))
        x = self.norm(self.conv(x))
        return F.relu6(x) if self.act else x

    def _pad(self, size: int) -> tuple[int, int]:
        size = int(size)
        total = max((math.ceil(size / self.stride) - 1) * self.stride + self.kernel - size, 0)
        return total // 2, total - total // 2


class MBConv(nn.Module):
    """Widen by 1x1, filter each channel, narrow by 1x1, and add the input where shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = ConvNorm(inputs, wide) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(wide, wide, kernel, stride=stride, groups=wide)
        self.project = ConvNorm(wide, outputs, act=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """``[N, I, H, W] -> [N, O, H / stride, W / stride]``."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class EfficientNetLite(nn.Module):
    """Pixels ``[N, 3, H, W]`` to image features through EfficientNet-Lite (arXiv 1905.11946).

    Its sites are those of the seven stages (``blocks.0.in`` to ``blocks.6.out``), where ``State.x`` is a feature map
    ``[N, C, h, w]``; there is no attention.

    Args:
        embed_dim: ``D``, the joint space.
        variant: ``lite0`` (224 px), ``lite1`` (240 px) or ``lite2`` (260 px).
        head: arguments of ``binderclip.model.concept_head.ConceptHead``; none: one linear map.
    """

    def __init__(self, embed_dim: int, variant: str = "lite0", head: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        if variant not in _VARIANTS:
            raise InputError(f"unknown EfficientNet-Lite variant {variant!r}: use one of {', '.join(_VARIANTS)}")
        wider, deeper, self.image_size = _VARIANTS[variant]
        self.embed_dim, self.width = embed_dim, FEATURES
        self.stem = ConvNorm(3, 32, 3, stride=2)
        self.stages = nn.ModuleList()
        inputs = 32
        for i, (repeats, kernel, stride, expansion, channels) in enumerate(_STAGES):
            outputs = _round_channels(channels * wider)
            count = repeats if i in (0, len(_STAGES) - 1) else math.ceil(repeats * deeper)
            blocks = [MBConv(inputs, outputs, kernel, stride, expansion)]
            blocks += [MBConv(outputs, outputs, kernel, 1, expansion) for _ in range(count - 1)]
            self.stages.append(nn.Sequential(*blocks))
            inputs = outputs
        self.features = ConvNorm(inputs, FEATURES)
        self.head = ConceptHead(FEATURES, embed_dim, **(head or {}))

    @property
    def sites(self) -> tuple[str, ...]:
        """Names where a function may be put."""
        return site_names(len(self.stages), attention=False)

    def embed(self, pixels: Tensor) -> State:
        """Normalised pixels to the stem's feature map ``[N, 32, H/2, W/2]``."""
        return State(x=self.stem(pixels))

    def forward(self, x: Tensor, at: At | None = None) -> Tokens:
        """Encode normalised pixels ``[N, 3, H, W]``."""
        sites = Sites(at, self.sites)
        state = sites("embed.out", self.embed(x))
        for i, stage in enumerate(self.stages):
            state = sites(f"blocks.{i}.in", state)
            state = sites(f"blocks.{i}.out", state.with_(x=stage(state.x)))
        return self.pool(sites("pool.in", state))

    def pool(self, state: State) -> Tokens:
        """Last convolution, mean over locations, head."""
        maps = self.features(state.x)  # [N, 1280, h, w]
        raw = maps.mean(dim=(2, 3))  # [N, 1280]
        return Tokens(
            pooled=self.head(raw),
            sequence=maps.flatten(2).transpose(1, 2),
            raw=raw,
            hidden=state.x.flatten(2).transpose(1, 2),
            grid=(maps.shape[2], maps.shape[3]),
        )

    def project(self, x: Tensor) -> Tensor:
        """The head on features ``[..., 1280]``: pooled, or of every location (``Tokens.sequence``)."""
        out: Tensor = self.head(x)
        return out

    def pyramid(self, pixels: Tensor) -> dict[int, Tensor]:
        """Feature maps by stride: 4, 8 and 16 after their last stage, 32 as the head takes them (1280 channels)."""
        x = self.stem(pixels)
        maps: dict[int, Tensor] = {}
        stride = 2
        for stage, (_, _, step, _, _) in zip(self.stages, _STAGES, strict=True):
            x = stage(x)
            stride *= step
            maps[stride] = x  # a later stage of the same stride takes the place
        maps[32] = self.features(x)
        return {s: maps[s] for s in (4, 8, 16, 32)}


def _round_channels(channels: float, divisor: int = 8) -> int:
    """To a multiple of 8, never losing more than a tenth."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
