"""Masking: the shares on 100,000 tokens, what is never touched, and a loss of nothing."""

from __future__ import annotations

import math

import pytest
import torch

from binderclip.errors import InputError
from binderclip.train.parts.masking import mask_tokens, masked_cross_entropy

START, END, PAD, MASK, VOCAB = 97, 98, 0, 99, 100


def texts(n: int, length: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of a start, words 1 ... 96, an end and padding; and what of them is special."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 97, (n, length), generator=generator)
    ids[:, 0] = START
    ends = torch.randint(2, length, (n, 1), generator=generator)
    place = torch.arange(length)
    ids = ids.masked_fill(place == ends, END).masked_fill(place > ends, PAD)
    return ids, (place == 0) | (place >= ends)


def masked(ids: torch.Tensor, special: torch.Tensor, share: float = 0.15) -> tuple[torch.Tensor, torch.Tensor]:
    return mask_tokens(ids, special, VOCAB, MASK, torch.Generator().manual_seed(1), share, exclude=(START, END, PAD))


def test_shares_on_100_000_tokens() -> None:
    ids, special = texts(11_500)
    words = int((~special).sum())
    assert words > 100_000
    new, labels = masked(ids, special)
    chosen = labels != -100
    picked = int(chosen.sum())
    assert picked / words == pytest.approx(0.15, abs=0.005)
    assert not (chosen & special).any()
    assert torch.equal(new[~chosen], ids[~chosen])
    assert torch.equal(labels[chosen], ids[chosen])
    to_mask = int((new[chosen] == MASK).sum())
    kept = int((new[chosen] == ids[chosen]).sum())
    assert to_mask / picked == pytest.approx(0.8, abs=0.015)
    assert kept / picked == pytest.approx(0.1 + 0.1 / 96, abs=0.015)  # a random id may be the old one
    assert (picked - to_mask - kept) / picked == pytest.approx(0.1 * 95 / 96, abs=0.015)
    replaced = new[chosen & (new != MASK) & (new != ids)]
    assert set(replaced.tolist()) == set(range(1, 97))  # every word, no special id


def test_each_token_on_its_own_and_by_the_seed() -> None:
    ids, special = texts(4000)
    _, labels = masked(ids, special)
    first = (labels[:, 1] != -100).double()
    second = (labels[:, 2] != -100).double()
    both = ~special[:, 2]
    cover = ((first - first.mean()) * (second - second.mean()))[both].mean()
    assert abs(float(cover)) < 4 * 0.15 * 0.85 / math.sqrt(int(both.sum()))
    assert torch.equal(masked(ids, special)[0], masked(ids, special)[0])
    torch.manual_seed(5)
    one = mask_tokens(ids, special, VOCAB, MASK)
    torch.manual_seed(5)
    assert torch.equal(one[0], mask_tokens(ids, special, VOCAB, MASK)[0])


def test_all_none_and_nothing_left() -> None:
    ids, special = texts(50)
    assert torch.equal(masked(ids, special, share=0.0)[0], ids)
    assert torch.equal(masked(ids, special, share=1.0)[1] != -100, ~special)
    with pytest.raises(InputError, match="excluded"):
        mask_tokens(ids, special, 3, 2, exclude=(0, 1))
    new, _ = mask_tokens(ids, special, 5, MASK, exclude=(0, 1, 2))  # mask id beyond the vocabulary
    assert set(new[(new != ids) & (new != MASK)].tolist()) <= {3, 4}


def test_loss_against_a_loop() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 4, 9, dtype=torch.float64)
    labels = torch.full((3, 4), -100)
    labels[0, 1], labels[2, 3], labels[2, 0] = 4, 8, 0
    total = 0.0
    for n, i in ((0, 1), (2, 3), (2, 0)):
        row = logits[n, i].tolist()
        total += math.log(sum(math.exp(x) for x in row)) - row[int(labels[n, i])]
    assert masked_cross_entropy(logits, labels).item() == pytest.approx(total / 3, abs=1e-12)
    some = labels != -100
    assert masked_cross_entropy(logits[some], labels[some]).item() == pytest.approx(total / 3, abs=1e-12)


@pytest.mark.parametrize("shape", [(2, 3), (0,)])
def test_nothing_masked_is_zero_with_a_graph(shape: tuple[int, ...]) -> None:
    logits = torch.randn(*shape, 7, requires_grad=True)
    loss = masked_cross_entropy(logits, torch.full(shape, -100))
    assert loss.item() == 0.0
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad == 0).all()
