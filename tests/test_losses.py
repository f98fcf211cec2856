"""Every loss against loops and closed forms; chunked forms and two processes against the plain one, values and gradients."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from binderclip import losses
from binderclip.errors import InputError

from .processes import in_two_processes


def unit(n: int, d: int = 5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=-1)


def slow_ce(logits: list[list[float]], targets: list[list[float]]) -> float:
    total = 0.0
    for row, wanted in zip(logits, targets, strict=True):
        norm = math.log(sum(math.exp(x) for x in row))
        total += -sum(y * (x - norm) for x, y in zip(row, wanted, strict=True))
    return total / len(logits)


def slow_info_nce(a: Tensor, b: Tensor, s: float, smoothing: float = 0.0) -> float:
    n = len(a)
    targets = [[(1 - smoothing) * (i == j) + smoothing / n for j in range(n)] for i in range(n)]
    forth = [[s * float(a[i] @ b[j]) for j in range(n)] for i in range(n)]
    back = [[s * float(b[i] @ a[j]) for j in range(n)] for i in range(n)]
    return (slow_ce(forth, targets) + slow_ce(back, targets)) / 2


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_info_nce_against_loops(n: int, smoothing: float) -> None:
    a, b = unit(n), unit(n, seed=1)
    got = losses.info_nce(a, b, 10.0, smoothing=smoothing)
    assert got.item() == pytest.approx(slow_info_nce(a, b, 10.0, smoothing), abs=1e-10)
    assert losses.info_nce(a, b, 10.0, smoothing=smoothing, reduction="sum").item() == pytest.approx(2 * got.item())


def test_info_nce_closed_form() -> None:
    """All alike: every choice is as good, log N. Orthonormal pairs: log(1 + (N - 1) exp(-s))."""
    same = torch.ones(6, 4, dtype=torch.float64) / 2
    assert losses.info_nce(same, same, 3.0).item() == pytest.approx(math.log(6))
    basis = torch.eye(6, dtype=torch.float64)
    assert losses.info_nce(basis, basis, 3.0).item() == pytest.approx(math.log(1 + 5 * math.exp(-3.0)))


def test_targets_of_one_on_the_diagonal_change_nothing_and_two_positives_are_a_mean() -> None:
    a, b = unit(5), unit(5, seed=1)
    assert losses.info_nce(a, b, 7.0, targets=torch.eye(5).double()).item() == pytest.approx(
        losses.info_nce(a, b, 7.0).item()
    )
    targets = torch.eye(5).double()
    targets[0, 1] = targets[0, 0] = 0.5
    rows = (7.0 * a @ b.T).log_softmax(-1)
    forth = -(rows.diag().sum() - rows[0, 0] + (rows[0, 0] + rows[0, 1]) / 2) / 5
    columns = (7.0 * b @ a.T).log_softmax(-1)
    weights = targets.T / targets.T.sum(-1, keepdim=True)
    back = -(weights * columns).sum() / 5
    assert losses.info_nce(a, b, 7.0, targets=targets).item() == pytest.approx(((forth + back) / 2).item())


def test_extra_negatives_widen_one_direction() -> None:
    a, b, extra = unit(4), unit(4, seed=1), unit(3, seed=2)
    labels = torch.arange(4)
    wanted = (F.cross_entropy(5 * a @ torch.cat([b, extra]).T, labels) + F.cross_entropy(5 * b @ a.T, labels)) / 2
    assert losses.info_nce(a, b, 5.0, extra_negatives=extra).item() == pytest.approx(wanted.item())


@pytest.mark.parametrize("kind", ["info_nce", "targets", "sigmoid"])
@pytest.mark.parametrize("chunk", [1, 3, 8, 100])
def test_chunked_equals_plain_in_value_and_gradient(kind: str, chunk: int) -> None:
    def run(chunk: int | None) -> tuple[Tensor, list[Tensor]]:
        a, b, s = (
            unit(8).requires_grad_(),
            unit(8, seed=1).requires_grad_(),
            torch.tensor(4.0).double().requires_grad_(),
        )
        if kind == "sigmoid":
            loss = losses.sigmoid_loss(a, b, s, -2.0, chunk=chunk)
        else:
            targets = torch.full((8, 8), 1 / 8).double() if kind == "targets" else None
            loss = losses.info_nce(a, b, s, targets=targets, chunk=chunk)
        return loss, list(torch.autograd.grad(loss, [a, b, s]))

    (plain, wanted), (parts, got) = run(None), run(chunk)
    assert parts.item() == pytest.approx(plain.item(), abs=1e-12)
    for x, y in zip(got, wanted, strict=True):
        assert torch.allclose(x, y, atol=1e-12)


def test_sigmoid_against_loops() -> None:
    a, b = unit(5), unit(5, seed=1)
    total = 0.0
    for i in range(5):
        for j in range(5):
            z = 1 if i == j else -1
            total += math.log(1 + math.exp(-z * (9.0 * float(a[i] @ b[j]) - 3.0)))
    assert losses.sigmoid_loss(a, b, 9.0, -3.0).item() == pytest.approx(total / 5)


def test_supcon_with_one_positive_is_cross_entropy_and_with_all_is_zero() -> None:
    logits = 3 * unit(4) @ unit(4, seed=1).T
    assert losses.supcon(logits, torch.eye(4).bool()).item() == pytest.approx(
        F.cross_entropy(logits, torch.arange(4)).item()
    )
    assert losses.supcon(logits, torch.ones(4, 4).bool()).item() == pytest.approx(0, abs=1e-12)


def test_nt_xent_closed_form() -> None:
    """Perfect pairs of orthogonal rows: one positive at 1, 2 (N - 1) negatives at 0."""
    basis = torch.eye(4, dtype=torch.float64)
    assert losses.nt_xent(basis, basis, tau=0.5).item() == pytest.approx(math.log(1 + 6 * math.exp(-2.0)))


def test_neg_cosine_stops_the_gradient() -> None:
    p, z = unit(3).requires_grad_(), unit(3, seed=1).requires_grad_()
    loss = losses.neg_cosine(p, z)
    assert loss.item() == pytest.approx(-(p * z).sum(-1).mean().item())
    loss.backward()
    assert z.grad is None
    assert losses.neg_cosine(p, p).item() == pytest.approx(-1)


def test_kl_distill_against_loops() -> None:
    student, teacher = unit(3) * 4, unit(3, seed=1) * 4
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        ps, pt = (s / 2).softmax(0), (t / 2).softmax(0)
        total += sum(float(q * (q / p).log()) for p, q in zip(ps, pt, strict=True))
    assert losses.kl_distill(student, teacher, 2.0).item() == pytest.approx(4 * total / 3)
    assert losses.kl_distill(student, student).item() == pytest.approx(0, abs=1e-12)


def test_mse_affinity_and_rank() -> None:
    a, b = unit(3), unit(3, seed=1)
    assert losses.mse_distill(a, b).item() == pytest.approx(((a - b) ** 2).mean().item())
    assert losses.mse_distill(a, b, sum_dims=True).item() == pytest.approx(((a - b) ** 2).sum(1).mean().item())
    assert losses.affinity_distill(a, b, a, b).item() == pytest.approx(0, abs=1e-9)
    scores, order = torch.tensor([1.0, 3.0, 2.0]), torch.tensor([2, 1, 0])
    assert losses.rank_hinge(scores, order, 0.5).item() == pytest.approx((2.5 + 1.5 + 0.0) / 3)
    assert losses.rank_hinge(scores, torch.zeros(3)).item() == 0


def test_wrong_input() -> None:
    with pytest.raises(InputError, match="3 and 4 rows"):
        losses.info_nce(unit(3), unit(4), 1.0)
    with pytest.raises(InputError, match="3 and 4 rows"):
        losses.sigmoid_loss(unit(3), unit(4), 1.0, 0.0)
    with pytest.raises(InputError, match="unknown reduction"):
        losses.info_nce(unit(3), unit(3), 1.0, reduction="mean")


def _worker(rank: int, place: Path) -> None:
    a, b = unit(6), unit(6, seed=1)
    mine = slice(3 * rank, 3 * rank + 3)
    out = {}
    for name in ("info_nce", "chunked", "sigmoid"):
        x, y = a[mine].clone().requires_grad_(), b[mine].clone().requires_grad_()
        s = torch.tensor(8.0, dtype=torch.float64, requires_grad=True)
        if name == "sigmoid":
            loss = losses.sigmoid_loss(x, y, s, -1.0)
        else:
            loss = losses.info_nce(x, y, s, smoothing=0.1, chunk=2 if name == "chunked" else None)
        loss.backward()
        assert x.grad is not None
        assert y.grad is not None
        assert s.grad is not None
        # As DDP does: the average over processes. Rows live on one process each, so theirs is the sum / world.
        average = torch.stack([loss.detach(), s.grad])
        dist.all_reduce(average)
        out[name] = (average / 2, x.grad / 2, y.grad / 2)
    torch.save(out, place / f"{rank}.pt")


def test_two_processes_equal_one(tmp_path: Path) -> None:
    in_two_processes(_worker, tmp_path)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name in ("info_nce", "chunked", "sigmoid"):
        a, b = unit(6).requires_grad_(), unit(6, seed=1).requires_grad_()
        s = torch.tensor(8.0, dtype=torch.float64, requires_grad=True)
        loss = losses.sigmoid_loss(a, b, s, -1.0) if name == "sigmoid" else losses.info_nce(a, b, s, smoothing=0.1)
        loss.backward()
        for part in parts:
            assert part[name][0][0].item() == pytest.approx(loss.item(), abs=1e-9)
            assert part[name][0][1].item() == pytest.approx(s.grad.item(), abs=1e-9)  # type: ignore[union-attr]
        assert torch.allclose(torch.cat([part[name][1] for part in parts]), a.grad, atol=1e-9)
        assert torch.allclose(torch.cat([part[name][2] for part in parts]), b.grad, atol=1e-9)
