"""The block against loops and published formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from binderclip.errors import InputError
from binderclip.model.base import State
from binderclip.model.block import ACTIVATIONS, MLP, Attention, Block
from binderclip.model.positions import ALiBi, Rotary, alibi_slopes, resize_grid_positions, resize_text_positions, rotate


def slow_attention(attn: Attention, x: Tensor, allowed: Tensor) -> Tensor:
    """One query, one head at a time, in float64; allowed [N, S, S] bool."""
    n, s, c = x.shape
    d, w = attn.head_width, attn.qkv.weight.double()
    bias = attn._qkv_bias()
    b = torch.zeros(3 * c, dtype=torch.float64) if bias is None else bias.double()
    out = torch.zeros(n, s, c, dtype=torch.float64)
    for i in range(n):
        qkv = x[i].double() @ w.T + b
        for h in range(attn.heads):
            q, k, v = (qkv[:, j * c + h * d : j * c + (h + 1) * d] for j in range(3))
            for t in range(s):
                keys = [u for u in range(s) if allowed[i, t, u]]
                weights = torch.softmax(torch.stack([q[t] @ k[u] / math.sqrt(d) for u in keys]), 0)
                out[i, t, h * d : (h + 1) * d] = sum(a * v[u] for a, u in zip(weights, keys, strict=True))
    return out @ attn.out.weight.double().T + (0 if attn.out.bias is None else attn.out.bias.double())


@pytest.mark.parametrize("bias", [True, False, (True, False, True)])
@pytest.mark.parametrize("causal", [True, False])
def test_attention_equals_loops(bias: bool | tuple[bool, bool, bool], causal: bool) -> None:
    torch.manual_seed(0)
    attn = Attention(8, 2, bias=bias)
    for parameter in attn.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x, mask = torch.randn(2, 5, 8), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    allowed = mask[:, None, :].expand(2, 5, 5) & (torch.ones(5, 5).tril().bool() if causal else torch.tensor(True))
    expected = slow_attention(attn, x, allowed)
    got = attn(x, State(x, mask=mask, causal=causal))
    assert (got.double() - expected).abs().max() < 1e-6


@pytest.mark.parametrize("order", ["pre", "post", "sub"])
def test_block_order_and_layer_scale(order: str) -> None:
    torch.manual_seed(1)
    block = Block(8, 2, order=order, layer_scale=0.3, activation="swiglu", norm="rms" if order == "sub" else "layer")
    x = torch.randn(2, 3, 8)
    state = State(x)
    y = block(state).x
    if order == "post":
        mid = block.norm1(x + 0.3 * block.attn(x, state))
        expected = block.norm2(mid + 0.3 * block.mlp(mid))
    else:
        mid = x + 0.3 * block.attn(block.norm1(x), state)
        expected = mid + 0.3 * block.mlp(block.norm2(mid))
    assert torch.equal(y, expected)
    assert (block.attn.inner_norm is not None) == (order == "sub")


def test_activations_and_swiglu() -> None:
    x = torch.linspace(-4, 4, 33, dtype=torch.float64)
    exact = x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    assert (ACTIVATIONS["gelu"](x) - exact).abs().max() < 1e-12
    assert torch.equal(ACTIVATIONS["quick_gelu"](x), x * torch.sigmoid(1.702 * x))
    tanh = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    assert (ACTIVATIONS["gelu_tanh"](x) - tanh).abs().max() < 1e-12
    mlp = MLP(4, 6, "swiglu", bias=False)
    y = torch.randn(3, 4)
    gate, up, down = mlp.gate.weight, mlp.up.weight, mlp.down.weight  # type: ignore[union-attr]
    expected = ((y @ gate.T) * torch.sigmoid(y @ gate.T) * (y @ up.T)) @ down.T
    assert torch.allclose(mlp(y), expected, atol=1e-6)


@pytest.mark.parametrize("convention", ["adjacent", "halves"])
def test_rotary_turns_pairs_and_sees_only_distance(convention: str) -> None:
    torch.manual_seed(2)
    rotary = Rotary(8, convention)
    x = torch.randn(1, 1, 6, 8)
    p = torch.arange(6)
    turned = rotate(x, rotary.angles(State(x[:, 0], positions=p)), convention)
    for s in range(6):
        for j in range(4):
            a, b = (2 * j, 2 * j + 1) if convention == "adjacent" else (j, j + 4)
            angle = s * 10_000 ** (-2 * j / 8)
            one = x[0, 0, s, a] * math.cos(angle) - x[0, 0, s, b] * math.sin(angle)
            two = x[0, 0, s, a] * math.sin(angle) + x[0, 0, s, b] * math.cos(angle)
            assert torch.allclose(turned[0, 0, s, [a, b]], torch.stack([one, two]), atol=1e-5)
    # q_i k_j depends on i - j alone
    q, k = torch.randn(1, 1, 1, 8).expand(1, 1, 6, 8), torch.randn(1, 1, 1, 8).expand(1, 1, 6, 8)
    near, far = (rotary(q, k, State(x[:, 0], positions=p + shift)) for shift in (0, 7))
    assert torch.allclose(near[0] @ near[1].mT, far[0] @ far[1].mT, atol=1e-5)
    # an inserted prompt (position -1) is not turned
    assert torch.equal(rotary(q, k, State(x[:, 0], positions=torch.full((6,), -1)))[0], q)


def test_rotary_on_two_axes() -> None:
    rotary = Rotary(8, "adjacent", axes=2, train_grid=2)
    angles = rotary.angles(State(torch.zeros(1, 7, 8), positions=torch.arange(7), prefix=1, grid=(2, 3)))
    f = [1.0, 10_000**-0.5]
    for s in range(1, 7):
        row, column = (s - 1) // 3 * 2 / 2, (s - 1) % 3 * 2 / 3
        expected = torch.tensor([row * f[0], row * f[1], column * f[0], column * f[1]])
        assert torch.allclose(angles[s], expected, atol=1e-6)
    assert not angles[0].any()


def test_alibi_slopes_and_penalty() -> None:
    assert alibi_slopes(8) == [2.0**-h for h in range(1, 9)]
    assert alibi_slopes(6)[:4] == [2.0 ** (-2 * h) for h in range(1, 5)]
    assert alibi_slopes(6)[4:] == [2.0**-1, 2.0**-3]
    bias = ALiBi(2)(State(torch.zeros(1, 3, 4), positions=torch.arange(3)))
    assert bias.shape == (1, 2, 3, 3)
    assert bias[0, 0].tolist() == [[0, -(2**-4), -(2**-3)], [-(2**-4), 0, -(2**-4)], [-(2**-3), -(2**-4), 0]]


def test_state_insert_and_take_follow_everything() -> None:
    x = torch.arange(8.0).reshape(2, 4, 1)
    state = State(
        x,
        positions=torch.arange(4),
        mask=torch.ones(2, 4).bool(),
        bias=torch.arange(16.0).reshape(1, 1, 4, 4),
        prefix=1,
        index=torch.tensor([3, 0]),
    )
    wide = state.insert(torch.full((2, 1), 9.0), 1)
    assert wide.x[0, :, 0].tolist() == [0, 9, 9, 1, 2, 3]
    assert wide.positions is not None
    assert wide.positions.tolist() == [0, -1, -1, 1, 2, 3]
    assert wide.index is not None
    assert wide.index.tolist() == [5, 0]
    assert wide.bias is not None
    assert wide.bias[0, 0, 3, 3] == 5
    assert not wide.bias[0, 0, 1].any()
    assert wide.prefix == 1
    assert state.insert(torch.zeros(1, 1), 0, prefix=True).prefix == 2
    few = wide.take(torch.tensor([[0, 1, 4, 5], [0, 2, 3, 4]]))
    assert few.positions is not None
    assert few.positions.tolist() == [[0, -1, 2, 3], [0, -1, 1, 2]]
    assert few.x[1, :, 0].tolist() == [4, 9, 5, 6]
    assert few.index is not None
    assert few.index.tolist() == [3, 0]
    assert few.bias is not None
    assert few.bias[0, 0, 2, 3] == 11


def test_resized_tables() -> None:
    table = torch.randn(1 + 9, 4)
    assert resize_grid_positions(table, (3, 3), 1) is table
    large = resize_grid_positions(table, (6, 4), 1)
    assert large.shape == (25, 4)
    assert torch.equal(large[0], table[0])
    constant = resize_grid_positions(torch.ones(9, 2), (5, 5), 0)
    assert torch.allclose(constant, torch.ones(25, 2), atol=1e-6)
    with pytest.raises(InputError, match="not a square"):
        resize_grid_positions(torch.zeros(7, 2), (2, 2), 0)
    line = torch.arange(5.0)[:, None]
    assert torch.equal(resize_text_positions(line, 3), line[:3])
    assert torch.allclose(resize_text_positions(line, 9)[:, 0], torch.arange(9) / 2)


def test_bad_arguments_say_so() -> None:
    with pytest.raises(InputError, match="heads"):
        Attention(10, 3)
    with pytest.raises(InputError, match="swiglu"):
        MLP(4, 8, "selu")
    with pytest.raises(InputError, match="order"):
        Block(8, 2, order="middle")
    with pytest.raises(InputError, match="norm"):
        Block(8, 2, norm="batch")
    with pytest.raises(InputError, match="convention"):
        Rotary(8, "thirds")
