"""The queue against a Python deque, its neighbours against brute force."""

from __future__ import annotations

from collections import deque

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from binderclip.errors import InputError
from binderclip.train.parts.queue import FeatureQueue


def unit(n: int, d: int = 6, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize("size", [1, 7, 10])
def test_first_in_first_out_through_every_wrap(size: int) -> None:
    queue, held = FeatureQueue(size, 6), deque[list[float]](maxlen=size)
    assert len(queue) == 0
    assert queue.ordered().shape == (0, 6)
    for step, n in enumerate([3, 0, 2, 4, 1, 7, 9, 23, 5, 10, 2]):  # more than it holds, too
        rows = unit(n, seed=step)
        queue.push(rows)
        held.extend(rows.tolist())
        assert len(queue) == len(held)
        assert queue.ordered().tolist() == list(held)


@pytest.mark.parametrize("filled", [1, 5, 12])
@pytest.mark.parametrize("k", [1, 3, 20])
def test_nearest_against_brute_force(filled: int, k: int) -> None:
    queue = FeatureQueue(8, 6)
    queue.push(unit(filled))
    asked = 3 * unit(9, seed=1)  # length does not matter
    found = queue.nearest(asked, k)
    assert found is not None
    vectors, slots = found
    most = min(filled, 8)
    assert vectors.shape == (9, min(k, most), 6)
    for i in range(9):
        cosines = [float(asked[i] @ queue.rows[j]) for j in range(most)]
        wanted = sorted(range(most), key=lambda j: -cosines[j])[:k]
        assert slots[i].tolist() == wanted
        assert torch.equal(vectors[i], queue.rows[wanted])


def test_empty_slots_are_never_neighbours() -> None:
    queue = FeatureQueue(50, 6)
    rows = unit(1)
    assert queue.nearest(rows) is None
    queue.push(rows)
    found = queue.nearest(-rows)  # zeros would be nearer
    assert found is not None
    assert torch.equal(found[0][:, 0], rows)
    assert found[1].tolist() == [[0]]


def test_what_is_asked_before_the_push_is_no_neighbour_of_itself() -> None:
    queue = FeatureQueue(16, 6)
    queue.push(unit(4))
    mine = unit(4, seed=5)
    found = queue.nearest(mine)
    assert found is not None
    queue.push(mine)
    assert ((found[0][:, 0] * mine).sum(-1) < 0.9999).all()
    again = queue.nearest(mine)
    assert again is not None
    assert torch.equal(again[0][:, 0], mine)


def test_neighbours_are_copies_without_gradient() -> None:
    queue = FeatureQueue(4, 6)
    rows = unit(4).requires_grad_()
    queue.push(rows)
    found = queue.nearest(rows)
    assert found is not None
    before = found[0].clone()
    queue.push(unit(4, seed=3))
    assert torch.equal(found[0], before)
    assert not found[0].requires_grad
    assert not queue.rows.requires_grad


def test_the_state_survives_to_the_bit() -> None:
    queue, twin = FeatureQueue(7, 6), FeatureQueue(7, 6)
    for step in range(3):
        queue.push(unit(3, seed=step))
    twin.load_state_dict(queue.state_dict())
    for q in (queue, twin):
        q.push(unit(4, seed=9))
    assert all(torch.equal(a, b) for a, b in zip(queue.state_dict().values(), twin.state_dict().values(), strict=True))
    assert torch.equal(queue.ordered(), twin.ordered())


def test_a_queue_of_nothing() -> None:
    with pytest.raises(InputError, match="at least 1"):
        FeatureQueue(0, 6)
