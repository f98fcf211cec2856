"""What each image and text tower promises beside its goldens."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from binderclip.errors import InputError, NeedsPartError
from binderclip.model.attention_pool import MapHead
from binderclip.model.base import State
from binderclip.model.bert import BertText
from binderclip.model.convnext import ConvNeXt
from binderclip.model.resnet import ModifiedResNet
from binderclip.model.sites import recorder
from binderclip.model.vit import VisionTransformer

D = 12


def vit(**options: object) -> VisionTransformer:
    return VisionTransformer(32, 8, 24, 2, 2, D, **options)  # type: ignore[arg-type]


def resnet() -> ModifiedResNet:
    return ModifiedResNet(64, (1, 2, 1, 1), 8, 4, D)


def convnext() -> ConvNeXt:
    return ConvNeXt((1, 1, 2, 1), (8, 16, 24, 32), D, layer_scale=0.5)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("make", [vit, resnet, convnext])
def test_every_parameter_gets_a_gradient_and_pixels_too(make: Callable[[], nn.Module]) -> None:
    tower = make()
    x = torch.randn(2, 3, 64, 64, requires_grad=True)
    if isinstance(tower, ModifiedResNet):  # its last norms start at zero, which hides what is behind them
        for name, p in tower.named_parameters():
            if name.endswith("norm3.weight"):
                nn.init.ones_(p)
    tower(x).pooled.square().sum().backward()
    assert x.grad is not None
    missing = [name for name, p in tower.named_parameters() if p.grad is None]
    assert not missing
    zero = [name for name, p in tower.named_parameters() if not p.grad.any() and "class_token" not in name]  # type: ignore[union-attr]
    assert not zero


@pytest.mark.parametrize("make", [vit, resnet, convnext])
def test_sites_see_every_stage_and_change_nothing(make: Callable[[], nn.Module]) -> None:
    tower = make().eval()
    x, kept = torch.randn(2, 3, 64, 64), {}
    out = tower(x, {name: recorder(kept, name) for name in tower.sites})  # type: ignore[union-attr]
    assert tuple(kept) == tower.sites
    assert torch.equal(out.pooled, tower(x).pooled)
    assert out.pooled.shape == (2, D)
    assert out.sequence.shape[0] == 2
    assert out.raw is not None


def test_vit_poolings() -> None:
    x = torch.randn(2, 3, 32, 32)
    for options in ({}, {"pool": "avg"}, {"pool": "avg", "class_token": False}, {"pool": "map", "class_token": False}):
        tower = vit(**options).eval()
        tokens = tower(x)
        patches = tokens.sequence[:, tokens.prefix :]
        assert patches.shape == (2, 16, 24)
        assert tokens.grid == (4, 4)
        if tower.pooling == "avg":
            assert torch.allclose(tokens.pooled, tower.project(patches.mean(1)), atol=1e-6)
    with pytest.raises(InputError, match="class_token"):
        vit(class_token=False)
    with pytest.raises(InputError, match="no patch"):
        VisionTransformer(7, 8, 24, 1, 2, D)
    assert VisionTransformer(30, 8, 24, 1, 2, D)(torch.randn(1, 3, 30, 30)).grid == (3, 3)


def test_vit_takes_other_sizes() -> None:
    tower = vit().eval()
    x = torch.randn(1, 3, 48, 64)
    free = tower(x)
    assert free.grid == (6, 8)
    square = torch.randn(1, 3, 48, 48)
    before = tower(square).pooled
    tower.resize_positions(48)
    assert tower.positions.shape == (37, 24)
    assert torch.equal(tower(square).pooled, before)


def test_patch_dropout_only_in_training() -> None:
    tower = vit(patch_dropout=0.5)
    x, kept = torch.randn(3, 3, 32, 32), {}
    tower.train()(x, {"blocks.0.in": recorder(kept, "s")})
    state = kept["s"]
    assert state.x.shape == (3, 9, 24)
    assert state.positions.shape == (3, 9)
    assert (state.positions[:, 0] == 0).all()
    assert (state.positions.diff(dim=1) > 0).all()
    assert tower.eval()(x).sequence.shape == (3, 17, 24)


def test_rotary_and_sub_norm_vit_runs() -> None:
    tower = vit(
        rotary={"convention": "adjacent", "axes": 2, "train_grid": 4},
        block={"order": "sub", "qkv_bias": (True, False, True), "layer_scale": 0.1},
        activation="swiglu",
        mlp_hidden=40,
    )
    assert tower(torch.randn(1, 3, 32, 32)).pooled.shape == (1, D)


def test_map_head_is_attention_of_one_query() -> None:
    head, x = MapHead(8, 2), torch.randn(3, 5, 8)
    head.probe.data.normal_()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]]).bool()
    got = head(x, State(x, mask=mask))
    reference = nn.MultiheadAttention(8, 2, batch_first=True)
    reference.load_state_dict(
        {
            "in_proj_weight": torch.cat([head.q.weight, head.kv.weight]),
            "in_proj_bias": torch.cat([head.q.bias, head.kv.bias]),
            "out_proj.weight": head.out.weight,
            "out_proj.bias": head.out.bias,
        }
    )
    h = reference(head.probe.expand(3, 1, 8), x, x, key_padding_mask=~mask)[0][:, 0]
    assert torch.allclose(got, h + head.mlp(head.norm(h)), atol=1e-6)


def test_resnet_pool_is_torchs_attention_and_maskclip_is_its_values() -> None:
    tower = resnet().eval()
    for name, p in tower.named_parameters():
        if name.endswith("norm3.weight"):
            nn.init.ones_(p)
    x, pool = torch.randn(2, 3, 64, 64), tower.head
    tokens = tower(x)
    y = torch.cat([tokens.sequence.mean(1, keepdim=True), tokens.sequence], 1) + pool.positions
    expected = torch.nn.functional.multi_head_attention_forward(
        *(y[:, :1].transpose(0, 1), y.transpose(0, 1), y.transpose(0, 1), tower.width, 4, None),
        in_proj_bias=torch.cat([pool.q.bias, pool.k.bias, pool.v.bias]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=pool.out.weight,
        out_proj_bias=pool.out.bias,
        use_separate_proj_weight=True,
        q_proj_weight=pool.q.weight,
        k_proj_weight=pool.k.weight,
        v_proj_weight=pool.v.weight,
        need_weights=False,
    )[0][0]
    assert torch.allclose(tokens.pooled, expected, atol=1e-5)
    # two 1x1 convolutions, no positions
    maps = tower.pyramid(x)[32]
    v = nn.functional.conv2d(maps, pool.v.weight[..., None, None], pool.v.bias)
    dense = nn.functional.conv2d(v, pool.out.weight[..., None, None], pool.out.bias).flatten(2).mT
    assert torch.allclose(tower.dense(x), dense, atol=1e-5)
    # the pooling's attention is a site: uniform weights give the mean of the values
    uniform = tower(x, {"pool.attn": lambda a: a.mixed(torch.full_like(a.weights(), 0.2))}).pooled
    assert torch.allclose(uniform, pool.out(pool.v(y)).mean(1), atol=1e-5)
    with pytest.raises(NeedsPartError, match=r"pool\.attn"):
        tower(x, {"blocks.0.attn": lambda a: a})


@pytest.mark.parametrize("make", [resnet, convnext])
def test_pyramids(make: Callable[[], ModifiedResNet | ConvNeXt]) -> None:
    tower = make().eval()
    x = torch.randn(1, 3, 64, 96)
    maps = tower.pyramid(x)
    assert list(maps) == [4, 8, 16, 32]
    assert all(m.shape[2:] == (64 // s, 96 // s) for s, m in maps.items())
    hidden = tower(x).hidden
    assert hidden is not None
    assert torch.equal(maps[32].flatten(2).mT, hidden)


def test_convnext_projects_every_location() -> None:
    tower = convnext().eval()
    tokens = tower(torch.randn(1, 3, 64, 64))
    assert tower.project(tokens.sequence).shape == (1, 4, D)
    assert tokens.raw is not None
    assert torch.equal(tower.project(tokens.raw), tokens.pooled)


@pytest.mark.parametrize("pool", ["mean", "cls", "eos"])
@pytest.mark.parametrize("offset", [0, 2])
def test_bert_ignores_padding(pool: str, offset: int) -> None:
    tower = BertText(30, 10, 24, 2, 2, D, pool=pool, position_offset=offset, pad_id=1, proj="mlp", token_types=1).eval()
    ids, eos = torch.tensor([[3, 4, 5, 2, 1, 1], [3, 6, 7, 8, 9, 2]]), torch.tensor([3, 5])
    both = tower(ids, eos=eos).pooled
    alone = tower(ids[:1, :4], eos=eos[:1]).pooled
    assert torch.allclose(both[:1], alone, atol=1e-6)
    words = tower.embed_tokens(ids).detach().requires_grad_()
    prompts = tower.encode_prompts(words, eos)
    assert torch.allclose(prompts, both, atol=1e-6)
    grad: Tensor = torch.autograd.grad(prompts.square().sum(), words)[0]
    assert not grad[0, 4:].any()
    assert grad[0, :4].abs().sum() > 0
    assert tower.positions.shape[0] == 10 + offset
    with pytest.raises(InputError, match="longer"):
        tower(torch.zeros(1, 11, dtype=torch.int64))


def bert() -> BertText:
    return BertText(30, 10, 24, 2, 2, D, pad_id=1, position_offset=2)


def vit_map() -> VisionTransformer:
    return vit(pool="map", class_token=False, patch_bias=True)


@pytest.mark.parametrize("make", [vit, vit_map, resnet, convnext, bert])
def test_exports_with_a_free_number_of_rows(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    tower = make().eval()

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower = tower

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.tower(x).pooled
            return out

    ids = torch.tensor([[3, 4, 5, 2, 1, 1], [3, 6, 7, 8, 9, 2]])
    size = 32 if isinstance(tower, VisionTransformer) else 64
    x = ids if isinstance(tower, BertText) else torch.randn(2, 3, size, size)
    axes = {"x": {0: "n", 1: "l"} if isinstance(tower, BertText) else {0: "n"}, "y": {0: "n"}}
    path = str(tmp_path / "tower.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Graph().eval(), (x,), path, input_names=["x"], output_names=["y"], dynamic_axes=axes, dynamo=False
        )
    session = ort.InferenceSession(path)
    inputs = [x, torch.cat([x, x])] + ([x[:1, :4]] if isinstance(tower, BertText) else [])
    for given in inputs:
        got = torch.from_numpy(session.run(None, {"x": given.numpy()})[0])
        assert (got - tower(given).pooled).abs().max() <= 1e-4
