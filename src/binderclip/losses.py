"""Losses that two rooms use: pure functions of tensors, natural logarithm, mean over rows.

Features are unit vectors unless said otherwise; ``s`` is the scale (``exp(logit_scale)``). Contrastive losses take their
rows from one process or, inside ``torch.distributed``, gather the other side from all with gradient, so that ``k``
processes give the loss and the gradients of one.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from binderclip.errors import InputError

__all__ = [
    "affinity_distill",
    "gather_rows",
    "info_nce",
    "kl_distill",
    "mse_distill",
    "neg_cosine",
    "nt_xent",
    "rank_hinge",
    "sigmoid_loss",
    "soft_cross_entropy",
    "supcon",
]


class _Gather(torch.autograd.Function):
    """All processes' rows on each process; backward adds up what every process says of ours."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        n = len(total) // dist.get_world_size()
        return total[dist.get_rank() * n : (dist.get_rank() + 1) * n]


def gather_rows(rows: Tensor) -> Tensor:
    """``[N, D]`` of each process -> ``[world N, D]`` in the order of ranks, with gradient; identity on one process."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]
    return gathered


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """``mean_i - sum_j Y_ij log softmax(logits)_ij`` for targets ``Y [N, M]`` whose rows sum to one."""
    return -(targets * logits.log_softmax(-1)).sum(-1).mean()


def info_nce(
    a: Tensor,
    b: Tensor,
    scale: Tensor | float,
    *,
    smoothing: float = 0.0,
    targets: Tensor | None = None,
    extra_negatives: Tensor | None = None,
    reduction: str = "half",
    gather: bool = True,
    chunk: int | None = None,
) -> Tensor:
    """InfoNCE of CLIP (Radford et al. 2021, arXiv 2103.00020): cross-entropy of ``s a b'`` in both directions.

    ``L = (CE(s a b', diag) + CE(s b a', diag)) / 2``. The average over processes of what each returns is the loss of one
    process with all rows, and so are the gradients that DDP averages.

    Args:
        a: one side ``[N, D]``.
        b: the other ``[N, D]``.
        scale: ``s``.
        smoothing: label smoothing, torch's definition.
        targets: ``[N, M]`` rows that sum to one, in place of the diagonal (``M`` counts gathered rows); several positives
            or soft ones. Needs one process: targets of other processes are not known.
        extra_negatives: ``[K, D]``, widen the direction ``a -> b`` only (NegCLIP); each process adds its own.
        reduction: ``half`` (mean of the directions) or ``sum``.
        gather: take the other side from all processes.
        chunk: rows of logits held at a time; they are made again in backward, so memory does not grow with ``N^2``.

    Raises:
        InputError: unequal numbers of rows, an unknown reduction, or targets across processes.
    """
    if len(a) != len(b):
        raise InputError(f"the two sides have {len(a)} and {len(b)} rows: info_nce pairs row i with row i")
    if reduction not in ("half", "sum"):
        raise InputError(f"unknown reduction {reduction!r}: use 'half' or 'sum'")
    all_a, all_b = (gather_rows(a), gather_rows(b)) if gather else (a, b)
    if targets is not None and len(all_a) != len(a):
        raise InputError("targets are given for one process; pass gather=False")
    offset = dist.get_rank() * len(a) if len(all_a) != len(a) else 0
    keys = all_b if extra_negatives is None else torch.cat([all_b, extra_negatives])
    forth = _direction(a, keys, scale, offset, smoothing, targets, chunk)
    back = _direction(b, all_a, scale, offset, smoothing, None if targets is None else _columns(targets), chunk)
    return (forth + back) / 2 if reduction == "half" else forth + back


def _columns(targets: Tensor) -> Tensor:
    """Targets of the other direction: columns, each made to sum to one (a column without a positive stays empty)."""
    columns = targets.T
    return columns / columns.sum(-1, keepdim=True).clamp_min(1e-12)


def _direction(
    rows: Tensor,
    keys: Tensor,
    scale: Tensor | float,
    offset: int,
    smoothing: float,
    targets: Tensor | None,
    chunk: int | None,
) -> Tensor:
    """Mean cross-entropy of ``s rows keys'`` ``[N, M]`` against row i -> key i + offset, or against soft targets."""
    labels = torch.arange(offset, offset + len(rows), device=rows.device)

    def part(r: Tensor, k: Tensor, s: Tensor | float, y: Tensor) -> Tensor:
        logits = s * r @ k.T
        if y.ndim == 2:
            if y.shape[1] < logits.shape[1]:  # extra negatives are nobody's target
                y = F.pad(y, (0, logits.shape[1] - y.shape[1]))
            return -(y * logits.log_softmax(-1)).sum()
        return F.cross_entropy(logits, y, label_smoothing=smoothing, reduction="sum")

    wanted = labels if targets is None else targets
    if chunk is None or chunk >= len(rows):
        return part(rows, keys, scale, wanted) / len(rows)
    total = rows.new_zeros(())
    for r, y in zip(torch.split(rows, chunk), torch.split(wanted, chunk), strict=True):
        total = total + checkpoint(part, r, keys, scale, y, use_reentrant=False)
    return total / len(rows)


def sigmoid_loss(
    a: Tensor, b: Tensor, scale: Tensor | float, bias: Tensor | float, *, gather: bool = True, chunk: int | None = None
) -> Tensor:
    """Pairwise sigmoid loss of SigLIP (Zhai et al. 2023, arXiv 2303.15343).

    ``L = -1/N sum_i sum_j log sigmoid(z_ij (s a_i.b_j + bias))`` with ``z = +1`` on the diagonal and ``-1`` elsewhere.

    Args:
        a: one side ``[N, D]``.
        b: the other ``[N, D]``.
        scale: ``s``.
        bias: added to every logit.
        gather: take the other side from all processes.
        chunk: rows of logits held at a time.
    """
    if len(a) != len(b):
        raise InputError(f"the two sides have {len(a)} and {len(b)} rows: sigmoid_loss pairs row i with row i")
    keys = gather_rows(b) if gather else b
    offset = dist.get_rank() * len(a) if len(keys) != len(b) else 0
    owner = torch.arange(offset, offset + len(a), device=a.device)

    def part(r: Tensor, k: Tensor, s: Tensor | float, c: Tensor | float, own: Tensor) -> Tensor:
        sign = 2.0 * (own[:, None] == torch.arange(len(k), device=r.device)) - 1.0  # [n, M]
        return -F.logsigmoid(sign.to(r.dtype) * (s * r @ k.T + c)).sum()

    if chunk is None or chunk >= len(a):
        return part(a, keys, scale, bias, owner) / len(a)
    total = a.new_zeros(())
    for r, own in zip(torch.split(a, chunk), torch.split(owner, chunk), strict=True):
        total = total + checkpoint(part, r, keys, scale, bias, own, use_reentrant=False)
    return total / len(a)


def supcon(logits: Tensor, same: Tensor) -> Tensor:
    """``mean_i - log sum_{j in same(i)} softmax(logits)_ij``: several positives, summed inside the logarithm.

    Args:
        logits: ``[N, M]``.
        same: ``[N, M]`` bool, at least one true in each row.
    """
    inside = logits.masked_fill(~same, -torch.inf).logsumexp(-1)
    return (logits.logsumexp(-1) - inside).mean()


def nt_xent(a: Tensor, b: Tensor, tau: float = 0.1) -> Tensor:
    """SimCLR's loss (Chen et al. 2020, arXiv 2002.05709): two views ``[N, D]``, each row's negatives from both views.

    For each side the cross-entropy of ``[a b' / tau, a a' / tau without the diagonal]`` against the other view; their mean.
    """
    n = len(a)
    labels = torch.arange(n, device=a.device)
    itself = torch.eye(n, dtype=torch.bool, device=a.device)

    def side(x: Tensor, y: Tensor) -> Tensor:
        within = (x @ x.T / tau).masked_fill(itself, -1e9)
        return F.cross_entropy(torch.cat([x @ y.T / tau, within], dim=1), labels)

    return (side(a, b) + side(b, a)) / 2


def neg_cosine(p: Tensor, z: Tensor) -> Tensor:
    """``- mean cos(p, stopgrad(z))`` of SimSiam (Chen and He 2021, arXiv 2011.10566); BYOL: ``2 + 2 neg_cosine``."""
    return -F.cosine_similarity(p, z.detach(), dim=-1).mean()


def kl_distill(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """``T^2 KL(softmax(t / T) || softmax(s / T))``, batch mean (Hinton et al. 2015, arXiv 1503.02531); logits ``[N, M]``."""
    log_s = (student / temperature).log_softmax(-1)
    log_t = (teacher / temperature).log_softmax(-1)
    return temperature**2 * F.kl_div(log_s, log_t, reduction="batchmean", log_target=True)


def mse_distill(a: Tensor, b: Tensor, *, sum_dims: bool = False) -> Tensor:
    """Mean of ``(a - b)^2``; with ``sum_dims`` the squared distance of each row, averaged over rows."""
    squared = (a - b).square()
    return squared.flatten(1).sum(-1).mean() if sum_dims else squared.mean()


def affinity_distill(
    student_a: Tensor, student_b: Tensor, teacher_a: Tensor, teacher_b: Tensor, scale: float = 100.0
) -> Tensor:
    """KL between the similarity rows of teacher and student, both directions, mean (TinyCLIP, arXiv 2309.12314).

    All are ``[N, *]`` unit rows; student and teacher may differ in width.
    """
    student, teacher = scale * student_a @ student_b.T, scale * teacher_a @ teacher_b.T
    return (kl_distill(student, teacher) + kl_distill(student.T, teacher.T)) / 2


def rank_hinge(scores: Tensor, order: Tensor, margin: float = 0.0) -> Tensor:
    """Pairwise hinge ``mean max(0, margin - (x_i - x_j))`` over pairs of which ``order_i > order_j``; 0 where there is none.

    Args:
        scores: ``[..., M]``.
        order: ``[..., M]``, larger should score higher; ties make no pair.
        margin: least difference that costs nothing.
    """
    above = order[..., :, None] > order[..., None, :]  # [..., M, M]
    cost = F.relu(margin - (scores[..., :, None] - scores[..., None, :]))
    return (cost * above).sum() / above.sum().clamp_min(1)
