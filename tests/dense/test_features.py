"""Vectors of places: a linear head's mean over places is the pooled vector."""

from __future__ import annotations

import pytest
import torch

from binderclip.dense.features import is_vit, patch_features, stride_of
from binderclip.model.build import build

from ..train.kit import tiny_clip

pytestmark = pytest.mark.system("maskclip")


def test_mean() -> None:
    torch.manual_seed(0)
    clip = build({"embed_dim": 8, "towers": {"image": {"kind": "efficientnet_lite"}}}).eval()
    pixels = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        places = patch_features(clip, pixels)
        pooled = clip.encode("image", pixels).pooled
    assert places.shape == (1, 3, 2, 8)
    assert torch.allclose(places.mean((1, 2)), pooled, atol=1e-5)
    assert not is_vit(clip)
    assert stride_of(clip) == 32


def test_a_vit_of_any_grid() -> None:
    clip = tiny_clip().eval()
    assert is_vit(clip)
    assert stride_of(clip) == 4
    assert patch_features(clip, torch.randn(2, 3, 24, 16)).shape == (2, 6, 4, 8)
