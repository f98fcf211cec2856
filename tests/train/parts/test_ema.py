"""Averages of weights against arithmetic in Python floats."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from binderclip.errors import InputError
from binderclip.train.parts.ema import Ema, average, cosine_momentum


def net(seed: int = 0, wide: int = 4) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, wide), nn.BatchNorm1d(wide), nn.Linear(wide, 2)).double()


def move(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p += torch.randn(p.shape, generator=generator, dtype=p.dtype)


def test_schedule_of_byol() -> None:
    m = cosine_momentum(0.996)
    assert m(0, 100) == 0.996
    for k in range(101):
        assert m(k, 100) == pytest.approx(1 - 0.004 * (1 + math.cos(math.pi * k / 100)) / 2, abs=1e-15)
        assert k == 0 or m(k, 100) > m(k - 1, 100)
    for total in (100, 1000):
        assert 1 - m(total - 1, total) < 1e-6
    assert cosine_momentum(0.99)(50, 100) == pytest.approx(0.995)


def test_follows_by_the_formula_and_gets_no_gradient() -> None:
    module = net()
    ema = Ema(module, cosine_momentum(0.5))
    wanted = {name: p.detach().clone() for name, p in module.named_parameters()}
    assert all(torch.equal(p, wanted[n]) for n, p in ema.module.named_parameters())
    for step in range(4):
        move(module, step)
        module(torch.randn(8, 3, dtype=torch.float64))  # moves the batch statistics
        ema.update(module, step, 4)
        m = 1 - 0.5 * (1 + math.cos(math.pi * step / 4)) / 2
        for name, p in module.named_parameters():
            wanted[name] = m * wanted[name] + (1 - m) * p.detach()
            torch.testing.assert_close(dict(ema.module.named_parameters())[name].data, wanted[name], rtol=0, atol=1e-14)
        for (_, a), (_, b) in zip(ema.module.named_buffers(), module.named_buffers(), strict=True):
            assert torch.equal(a, b)
    assert not any(p.requires_grad for p in ema.parameters())
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert not ema(x).requires_grad
    assert all(p.requires_grad for p in module.parameters())


def test_momentum_one_freezes_and_zero_copies_to_the_bit() -> None:
    module = net()
    still, copied = Ema(module, 1.0), Ema(module, 0.0)
    before = {k: v.clone() for k, v in still.state_dict().items()}
    move(module, 1)
    still.update(module)
    copied.update(module)
    assert all(torch.equal(before[k], v) for k, v in still.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(copied.parameters(), module.parameters(), strict=True))
    with torch.no_grad():
        next(module.parameters()).fill_(math.nan)
    still.update(module)
    assert all(torch.equal(before[k], v) for k, v in still.state_dict().items())


def test_own_buffers_stay() -> None:
    module = net()
    ema = Ema(module, 0.9, buffers="own")
    module(torch.randn(8, 3, dtype=torch.float64))
    ema.update(module)
    assert int(ema.module[1].num_batches_tracked) == 0
    ema.train()
    ema(torch.randn(8, 3, dtype=torch.float64))
    assert int(ema.module[1].num_batches_tracked) == 1
    with pytest.raises(InputError, match="buffers"):
        Ema(module, 0.9, buffers="some")


def test_the_state_is_saved_and_the_next_step_the_same() -> None:
    module = net()
    ema = Ema(module, 0.7)
    move(module, 1)
    ema.update(module)
    twin = Ema(net(9), 0.7)
    twin.load_state_dict(ema.state_dict())
    move(module, 2)
    ema.update(module)
    twin.update(module)
    assert all(torch.equal(a, b) for a, b in zip(ema.parameters(), twin.parameters(), strict=True))


def test_another_module_is_refused() -> None:
    with pytest.raises(InputError, match="differ in"):
        Ema(net(), 0.9).update(nn.ModuleDict({"module": net()}))


def test_plain_mean_of_updates_is_swa() -> None:
    module = net()
    ema = Ema(module, lambda k, _: k / (k + 1))
    states = []
    for step in range(5):
        move(module, step)
        states.append({k: v.clone() for k, v in module.state_dict().items()})
        ema.update(module, step, 5)
    wanted = average(states)
    for name, p in ema.module.named_parameters():
        torch.testing.assert_close(p.data, wanted[name], rtol=0, atol=1e-14)


def test_wise_ft() -> None:
    start, end = net().float(), net(1).float()
    end(torch.randn(8, 3))
    a = 0.3
    mixed = average([start, end], [1 - a, a])
    for name, p in start.named_parameters():
        q = dict(end.named_parameters())[name]
        wanted = [(1 - a) * x + a * y for x, y in zip(p.flatten().tolist(), q.flatten().tolist(), strict=True)]
        assert mixed[name].flatten().tolist() == torch.tensor(wanted, dtype=torch.float32).tolist()
    assert int(mixed["1.num_batches_tracked"]) == 1  # the last one's
    start.load_state_dict(mixed)
    for share, module in ((0.0, net(2)), (1.0, end)):
        ends = average([net(2).float(), end], [1 - share, share])
        assert all(torch.equal(ends[k], v.float()) for k, v in module.state_dict().items() if v.is_floating_point())


def test_thirds_of_the_same_are_the_same_in_every_type() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        module = net().to(dtype)
        mean = average([module, module.state_dict(), module])
        for name, value in module.state_dict().items():
            assert mean[name].dtype == value.dtype
            torch.testing.assert_close(mean[name], value, rtol=0 if dtype != torch.float64 else 1e-15, atol=0)


def test_what_cannot_be_averaged() -> None:
    with pytest.raises(InputError, match="nothing to average"):
        average([])
    with pytest.raises(InputError, match="sum to one"):
        average([net(), net(1)], [0.5, 0.6])
    with pytest.raises(InputError, match="sum to one"):
        average([net(), net(1)], [1.0])
    with pytest.raises(InputError, match=r"differs in 0\.weight"):
        average([net(), net(wide=5)])
    with pytest.raises(InputError, match="differs in"):
        average([net(), nn.Linear(3, 4)])
