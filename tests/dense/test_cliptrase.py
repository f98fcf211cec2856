"""CLIPtrase: recorded correlations, planted clusters, the vote; what it gains is `bench:dense_cliptrase`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from binderclip.dense.cliptrase import CLIPtrase, cluster_map, correlation, voted
from binderclip.dense.last_block import AFFINITIES
from binderclip.dense.maskclip import MaskCLIP
from binderclip.errors import InputError, NeedsPartError
from binderclip.model.base import AttentionState
from binderclip.model.build import build
from binderclip.model.clip import CLIP

from ..model.test_sites import shake
from ..train.kit import tiny_clip

pytestmark = pytest.mark.system("cliptrase")
TEXTS = ["red circle", "blue star", "green square"]


@pytest.fixture(scope="module")
def clip() -> CLIP:
    made = tiny_clip().eval()
    shake(made.tower("image"), 5)
    return made


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    return torch.rand(3, 32, 40, generator=torch.Generator().manual_seed(3))


def test_correlation(clip: CLIP) -> None:
    kept: dict[str, Any] = {}

    def look(a: AttentionState) -> AttentionState:
        kept["R"], kept["a"] = correlation(a), a
        return a

    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        plain = clip.encode("image", pixels).pooled
        assert torch.equal(clip.encode("image", pixels, {"blocks.0.attn": look}).pooled, plain)
    R, a = kept["R"], kept["a"]
    assert (R - R.mT).abs().max() < 1e-6
    assert (R.diagonal(dim1=1, dim2=2) - 1).abs().max() < 1e-6
    assert R.abs().max() <= 1 + 1e-6
    slow = [
        F.cosine_similarity(t[1, h, 3], t[1, h, 7], dim=0) for h in range(t_heads(a)) for t in (a.q, a.k, a.v)
    ]  # by hand, one pair of patches
    assert float(R[1, 3, 7]) == pytest.approx(float(torch.stack(slow).mean()), abs=1e-6)
    assert torch.allclose(AFFINITIES["qq+kk+vv"](a).sum(-1), torch.tensor(3.0), atol=1e-5)


def t_heads(a: AttentionState) -> int:
    return a.q.shape[1]


def test_without_vote_and_self_correlation_it_is_the_towers_own_patches(clip: CLIP, picture: torch.Tensor) -> None:
    own = CLIPtrase(clip, vote=False, affinity="vanilla", templates="photo").segment(picture, TEXTS)
    plain = MaskCLIP(clip, affinity="vanilla", residual=True, mlp=True).segment(picture, TEXTS)
    assert torch.allclose(own, plain, atol=1e-4)


def test_planted_halves() -> None:
    """P = 0.6 within the left and within the right half of a 14 x 14 grid: two clusters, split at pixel 112 of 224."""
    left = np.arange(196) % 14 < 7
    P = np.where(left[:, None] == left[None], 0.6, 0.0).astype(np.float32)
    found = cluster_map(P, (14, 14), (224, 224), 0.7, 3)
    assert found is not None
    assert set(np.unique(found)) == {0, 1}
    assert (found[:, :112] == found[0, 0]).all()
    assert (found[:, 112:] == 1 - found[0, 0]).all()
    logits = torch.randn(4, 224, 224, generator=torch.Generator().manual_seed(0))
    logits[2, :, :112] += 0.3
    logits[1, :, 112:] += 0.3
    after = voted(logits, found).argmax(0)
    assert (after[:, :112] == 2).all()
    assert (after[:, 112:] == 1).all()


def test_the_vote_invents_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(5, 12, 12, generator=generator)
    clusters = np.random.default_rng(0).integers(0, 4, (12, 12))
    after = voted(logits, clusters)
    before = logits.argmax(0)
    assert set(after.argmax(0).unique().tolist()) <= set(before.unique().tolist())
    assert torch.equal(after.sort(0).values, logits.sort(0).values)  # two scores change places, none is new
    for g in range(4):
        inside = torch.from_numpy(clusters == g)
        counts = [int((before[inside] == t).sum()) for t in range(5)]
        assert (after.argmax(0)[inside] == counts.index(max(counts))).all()
    mean = voted(logits, clusters, "mean")
    assert torch.allclose(mean[:, clusters == 2], logits[:, clusters == 2].mean(1, keepdim=True), atol=1e-6)


def test_all_noise_is_no_vote(clip: CLIP, picture: torch.Tensor) -> None:
    a = CLIPtrase(clip, eps=1e-9, min_samples=2).segment(picture, TEXTS)
    assert torch.equal(a, CLIPtrase(clip, vote=False).segment(picture, TEXTS))
    assert (CLIPtrase(clip, eps=1e-9, min_samples=2).clusters(picture) == -1).all()


def test_settings(clip: CLIP) -> None:
    made = CLIPtrase(clip)
    assert made.settings(100) == made.settings(196) == (0.7, 3)
    assert made.settings(441) == pytest.approx((1.1, 7))
    assert made.settings(300)[0] == pytest.approx(0.7 + 0.4 * 104 / 245)
    assert CLIPtrase(clip, eps=0.5, min_samples=9).settings(441) == (0.5, 9)


def test_the_gate_multiplies_by_the_pictures_own(clip: CLIP) -> None:
    pixels = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        made, gated = CLIPtrase(clip), CLIPtrase(clip, cls_gate=True)
        W = made.text_vectors(TEXTS)
        own = made.tau * clip.encode_image(pixels) @ W.T
        expected = made.patch_logits(pixels, W)[0] * own[:, :, None, None]
        assert torch.allclose(gated.patch_logits(pixels, W)[0], expected, atol=1e-5)


def test_what_cannot_be(clip: CLIP) -> None:
    with pytest.raises(InputError, match="no vote is called 'median'"):
        CLIPtrase(clip, vote="median")  # type: ignore[arg-type]
    convolutional = build(
        {"embed_dim": 8, "towers": {"image": {"kind": "efficientnet_lite"}}, "preprocess": {"size": 64}}
    )
    with pytest.raises(NeedsPartError, match="CLIPtrase needs a ViT"):
        CLIPtrase(convolutional)
