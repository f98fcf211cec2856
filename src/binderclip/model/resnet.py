"""The modified ResNet of CLIP (Radford et al. 2021, arXiv 2103.00020, section 2.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from binderclip.model.attention_pool import AttentionPool2d
from binderclip.model.base import At, SiteFunction, State, Tokens
from binderclip.model.sites import Sites, site_names

__all__ = ["ModifiedResNet"]

EXPANSION = 4


class Stem(nn.Module):
    """Three convolutions and an average pool in place of one large convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, H, W] -> [N, width, H/4, W/4]``."""
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        x = F.relu(self.norm3(self.conv3(x)))
        return F.avg_pool2d(x, 2)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1, with an average pool before each convolution that would stride (arXiv 1904.11486)."""

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        outputs = planes * EXPANSION
        self.stride = stride
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(outputs)
        shortcut = stride > 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False) if shortcut else None
        self.shortcut_norm = nn.BatchNorm2d(outputs) if shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        """``[N, I, H, W] -> [N, 4 planes, H / stride, W / stride]``."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        y = F.avg_pool2d(y, self.stride) if self.stride > 1 else y
        y = self.norm3(self.conv3(y))
        if self.shortcut is not None and self.shortcut_norm is not None:
            x = F.avg_pool2d(x, self.stride) if self.stride > 1 else x
            x = self.shortcut_norm(self.shortcut(x))
        return F.relu(x + y)


class ModifiedResNet(nn.Module):
    """Pixels ``[N, 3, H, W]`` to image features: a ResNet with three stem convolutions and attention pooling.

    Its sites are those of the four stages, where ``State.x`` is a feature map, and ``pool.attn``.

    Args:
        image_size: side in pixels that the pooling's position table is made for.
        layers: blocks of each of the four stages; RN50 has (3, 4, 6, 3).
        stem_width: channels after the stem (64 in RN50).
        heads: of the pooling attention.
        embed_dim: ``D``, the joint space.
    """

    def __init__(self, image_size: int, layers: Sequence[int], stem_width: int, heads: int, embed_dim: int) -> None:
        super().__init__()
        self.image_size, self.embed_dim = image_size, embed_dim
        self.width = stem_width * 8 * EXPANSION
        self.stem = Stem(stem_width)
        self.stages = nn.ModuleList()
        inputs = stem_width
        for i, count in enumerate(layers):
            planes = stem_width * 2**i
            blocks = []
            for j in range(count):
                blocks.append(Bottleneck(inputs, planes, 2 if i and not j else 1))
                inputs = planes * EXPANSION
            self.stages.append(nn.Sequential(*blocks))
        self.head = AttentionPool2d(image_size // 32, self.width, heads, embed_dim)
        for name, parameter in self.stages.named_parameters():
            if name.endswith("norm3.weight"):  # each block starts as the identity
                nn.init.zeros_(parameter)

    @property
    def sites(self) -> tuple[str, ...]:
        """Names where a function may be put."""
        return site_names(len(self.stages), attention=False, pool_attention=True)

    def embed(self, pixels: Tensor) -> State:
        """Normalised pixels to the stem's feature map ``[N, stem_width, H/4, W/4]``."""
        return State(x=self.stem(pixels))

    def forward(self, x: Tensor, at: At | None = None) -> Tokens:
        """Encode normalised pixels ``[N, 3, H, W]``."""
        sites = Sites(at, self.sites)
        state = sites("embed.out", self.embed(x))
        for i, stage in enumerate(self.stages):
            state = sites(f"blocks.{i}.in", state)
            state = sites(f"blocks.{i}.out", state.with_(x=stage(state.x)))
        return self.pool(sites("pool.in", state), sites.at("pool.attn"))

    def pool(self, state: State, attn: SiteFunction | None = None) -> Tokens:
        """Attention pooling, which is the projection too."""
        sequence = state.x.flatten(2).transpose(1, 2)  # [N, h w, C]
        grid = (state.x.shape[2], state.x.shape[3])
        return Tokens(self.head(state.x, attn), sequence, raw=sequence.mean(1), hidden=sequence, grid=grid)

    def dense(self, pixels: Tensor) -> Tensor:
        """Every location in the joint space, ``[N, h w, D]``: the pooling's values without its attention."""
        out: Tensor = self.head.dense(self.pyramid(pixels)[32])
        return out

    def pyramid(self, pixels: Tensor) -> dict[int, Tensor]:
        """Feature maps by stride: 4, 8, 16, 32."""
        x, maps = self.stem(pixels), {}
        for stride, stage in zip((4, 8, 16, 32), self.stages, strict=True):
            x = maps[stride] = stage(x)
        return maps
