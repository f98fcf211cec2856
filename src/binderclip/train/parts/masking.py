"""Masked language modelling (BERT, Devlin et al. 2018, arXiv 1810.04805): which tokens are hidden, and the loss on them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from binderclip.errors import InputError

__all__ = ["IGNORED", "mask_tokens", "masked_cross_entropy"]

#: The label of a token that is not predicted.
IGNORED = -100


def mask_tokens(
    ids: Tensor,
    special: Tensor,
    vocab: int,
    mask_id: int,
    generator: torch.Generator | None = None,
    share: float = 0.15,
    exclude: Iterable[int] = (),
) -> tuple[Tensor, Tensor]:
    """Hide tokens, each on its own with probability ``share``: 80 % become [MASK], 10 % a random id, 10 % stay.

    Numbers are drawn on the CPU, so that one seed hides the same tokens on every device.

    Args:
        ids: ``[N, L]``.
        special: ``[N, L]`` bool, tokens that are never chosen: start, end, padding.
        vocab: random ids are below this.
        mask_id: of [MASK].
        generator: of the draws; torch's global one by default.
        share: of the tokens that are not special.
        exclude: ids that no token may become at random (start, end, padding); ``mask_id`` is one without being named.

    Returns:
        The new ids ``[N, L]`` and the labels ``[N, L]``: the old id where a token was chosen, -100 elsewhere.

    Raises:
        InputError: every id is excluded.
    """
    allowed = torch.ones(vocab, dtype=torch.bool)
    allowed[[i for i in {mask_id, *exclude} if 0 <= i < vocab]] = False
    choices = allowed.nonzero().flatten()  # [V']
    if not len(choices):
        raise InputError(f"all {vocab} ids are excluded: no id is left for random replacement")
    chosen = (torch.rand(ids.shape, generator=generator) < share).to(ids.device) & ~special
    lot = torch.rand(ids.shape, generator=generator).to(ids.device)
    random = choices[torch.randint(len(choices), ids.shape, generator=generator)].to(ids)
    new = torch.where(lot < 0.8, torch.full_like(ids, mask_id), torch.where(lot < 0.9, random, ids))
    return torch.where(chosen, new, ids), ids.masked_fill(~chosen, IGNORED)


def masked_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, mean over the tokens that have a label; 0, with a graph, where none has.

    Args:
        logits: ``[N, L, V]``, or ``[M, V]`` of chosen tokens alone.
        labels: ``[N, L]`` or ``[M]``, -100 where nothing is predicted.
    """
    total = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp_min(1)
