"""The last block taken apart: rows of every rule, the plain tower back, MaskCLIP's and ClearCLIP's formulas by loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from binderclip.dense.features import patch_features
from binderclip.dense.last_block import AFFINITIES, LastBlock, nearness
from binderclip.errors import InputError, NeedsPartError
from binderclip.model.base import AttentionState, State
from binderclip.model.build import build
from binderclip.model.clip import CLIP

from ..model.test_sites import shake
from ..train.kit import tiny_clip

pytestmark = pytest.mark.system("maskclip")


@pytest.fixture(scope="module")
def clip() -> CLIP:
    made = tiny_clip().eval()
    shake(made.tower("image"), 5)
    return made


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def state(n: int = 2, side: int = 3, d: int = 4) -> AttentionState:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(n, 2, side * side + 1, d, generator=generator) for _ in range(3))
    x = torch.randn(n, side * side + 1, 2 * d, generator=generator)
    return AttentionState(q, k, v, None, d**-0.5, State(x, prefix=1, grid=(side, side)))


ROWS = {"vanilla": 1, "identity": 1, "vv": 1, "qq": 1, "qq+kk": 2, "qq+kk+vv": 3, "kk+near": 1}


@pytest.mark.parametrize("name", list(AFFINITIES))
def test_rows_add_to_what_is_listed(name: str) -> None:
    weights = AFFINITIES[name](state())
    assert weights.shape == (2, 2, 10, 10)
    assert torch.allclose(weights.sum(-1), torch.tensor(float(ROWS[name])), atol=1e-5)


@pytest.mark.parametrize("name", ["vanilla", "identity", "vv", "qq", "qq+kk", "qq+kk+vv"])
def test_patches_may_change_places(name: str) -> None:
    a, order = state(), torch.tensor([0, 3, 1, 2, 9, 5, 4, 8, 7, 6])
    moved = a.with_(q=a.q[:, :, order], k=a.k[:, :, order], v=a.v[:, :, order])
    assert torch.allclose(AFFINITIES[name](moved), AFFINITIES[name](a)[:, :, order][..., order], atol=1e-6)


def test_nearness_by_a_loop() -> None:
    G = nearness(state().state, sigma=2.0)
    assert not G[0].any()
    assert not G[:, 0].any()
    for i in range(9):
        for j in range(9):
            gap = (i // 3 - j // 3) ** 2 + (i % 3 - j % 3) ** 2
            assert float(G[1 + i, 1 + j]) == pytest.approx(torch.tensor(-gap / 8).exp().item(), abs=1e-6)


def test_vanilla_is_the_tower_itself(clip: CLIP, pixels: Tensor) -> None:
    plain = patch_features(clip, pixels)
    tower: Any = clip.tower("image")
    own = clip.encode("image", pixels)
    assert torch.equal(plain.flatten(1, 2), tower.project(own.sequence[:, 1:]))
    rebuilt = patch_features(clip, pixels, LastBlock("vanilla", residual=True, mlp=True))
    assert torch.allclose(rebuilt, plain, atol=1e-5)


def test_identity(clip: CLIP, pixels: Tensor) -> None:
    """MaskCLIP: out = Wo v + bo at every patch, then the norm and the projection: by hand on what enters the block."""
    tower: Any = clip.tower("image")
    kept: dict[str, Tensor] = {}

    def keep(value: State) -> State:
        kept["x"] = value.x
        return value

    clip.encode("image", pixels, {"blocks.1.in": keep})
    block, got = tower.blocks[1], patch_features(clip, pixels, LastBlock())
    y = block.norm1(kept["x"])
    v = F.linear(y, block.attn.qkv.weight[2 * 16 :], block.attn.qkv.bias[2 * 16 :])
    out = block.attn.out(v)
    assert torch.allclose(got.flatten(1, 2), tower.project(tower.norm(out))[:, 1:], atol=1e-5)
    both = patch_features(clip, pixels, LastBlock(residual=True, mlp=True))
    z = kept["x"] + out
    z = z + block.mlp(block.norm2(z))
    assert torch.allclose(both.flatten(1, 2), tower.project(tower.norm(z))[:, 1:], atol=1e-5)
    only = patch_features(clip, pixels, LastBlock(residual=True))
    assert torch.allclose(only.flatten(1, 2), tower.project(tower.norm(kept["x"] + out))[:, 1:], atol=1e-5)


def test_the_class_token_may_be_left_out() -> None:
    a = state()
    weights = LastBlock("vanilla", drop_cls=True)._weights(a)
    assert not weights[:, :, 1:, 0].any()
    assert torch.equal(weights[:, :, 0], AFFINITIES["vanilla"](a)[:, :, 0])


def test_two_calls_do_not_collide(clip: CLIP, pixels: Tensor) -> None:
    rule, tower = LastBlock("qq"), clip.tower("image")
    first, second = rule.at(tower), rule.at(tower)
    a = clip.encode("image", pixels[:1], first).sequence
    clip.encode("image", pixels[1:], second)
    assert torch.equal(clip.encode("image", pixels[:1], first).sequence, a)


def test_what_cannot_be() -> None:
    with pytest.raises(InputError, match="no affinity is called 'kv': use vanilla"):
        LastBlock("kv")
    convolutional = build({"embed_dim": 8, "towers": {"image": {"kind": "efficientnet_lite"}}})
    with pytest.raises(NeedsPartError, match="needs patch tokens; the image tower is convolutional"):
        LastBlock().at(convolutional.tower("image"))
