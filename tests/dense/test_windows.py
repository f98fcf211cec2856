"""Windows: where they lie, that all pixels are seen, that one window is no window, that batches change nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from binderclip.dense.windows import padded, places, slide, starts

pytestmark = pytest.mark.system("maskclip")


@given(st.integers(1, 90), st.integers(1, 40), st.integers(1, 40))
def test_every_pixel_is_seen(side: int, crop: int, stride: int) -> None:
    stride = min(stride, crop)
    found = starts(side, crop, stride)
    seen = {p for s in found for p in range(s, min(s + crop, side))}
    assert seen == set(range(side))
    assert found[0] == 0
    assert all(s + crop <= side or s == 0 for s in found)  # one that would overrun is shifted back inside
    assert len(found) == max(-(-(side - crop) // stride), 0) + 1


def test_places() -> None:
    assert places(5, 4, 4, 2) == [(0, 0, 4, 4), (1, 0, 5, 4)]


def test_padding_is_even_and_of_zeros() -> None:
    out, (top, left) = padded(torch.ones(1, 1, 5, 6), 4)
    assert out.shape == (1, 1, 8, 8)
    assert (top, left) == (1, 1)
    assert out.sum() == 30
    assert padded(torch.ones(1, 1, 8, 4), 4)[0].shape == (1, 1, 8, 4)


def colours(windows: Tensor) -> Tensor:
    return torch.cat([windows, windows.mean(1, keepdim=True)], 1)


def test_scores_of_pixels_come_back() -> None:
    """What depends on a pixel alone is the same through any windows; a slow sum is the oracle for what does not."""
    pixels = torch.rand(1, 3, 13, 10)
    for crop, stride, multiple in ((13, 13, 1), (6, 3, 1), (5, 2, 4)):
        got = slide(pixels, colours, crop=crop, stride=stride, multiple=multiple, batch=3)
        assert torch.allclose(got, colours(pixels)[0], atol=1e-6)

    def mean(windows: Tensor) -> Tensor:
        return windows.mean((2, 3), keepdim=True)[:, :1]

    got = slide(pixels, mean, crop=6, stride=4, multiple=1)
    total, count = torch.zeros(13, 10), torch.zeros(13, 10)
    for y, x, b, r in places(13, 10, 6, 4):
        total[y:b, x:r] += pixels[0, 0, y:b, x:r].mean()
        count[y:b, x:r] += 1
    assert torch.allclose(got[0], total / count, atol=1e-6)
    assert torch.equal(slide(pixels, mean, crop=6, stride=4, multiple=1, batch=1), got)
