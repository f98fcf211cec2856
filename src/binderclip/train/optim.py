"""Optimisers over a CLIP and its objective's heads: groups by name, rates by layer, and the rate at each step."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from binderclip.errors import InputError
from binderclip.model.clip import CLIP
from binderclip.model.functions import parameter_groups
from binderclip.train.phases import factor

__all__ = ["factor", "layer_factors", "make_optimizer", "set_rate"]

_BLOCK = re.compile(r"(?:^|\.)(blocks|stages|downs)\.(\d+)(?:\.(\d+)(?=\.))?")


def make_optimizer(
    modules: Mapping[str, nn.Module],
    *,
    lr: float,
    name: str = "adamw",
    betas: tuple[float, float] = (0.9, 0.98),
    eps: float = 1e-6,
    weight_decay: float = 0.2,
    momentum: float = 0.9,
    rates: Mapping[str, float] | None = None,
    layer_decay: float | None = None,
    fused: bool = False,
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) with CLIP's settings, or SGD, over all that is trainable.

    Every group holds ``names`` (of its parameters, in their order) and ``base_lr``, what ``set_rate`` takes shares of.
    Vectors and scalars (norms, biases, the logit scale) get no weight decay.

    Args:
        modules: prefix to module; the parameters of ``{"clip": clip}`` are named ``clip.image.blocks.0...``. One that
            two modules share is taken once, under the first name. Modules are not wrapped or changed.
        lr: learning rate.
        name: ``adamw`` or ``sgd`` (whose weight decay is part of the gradient).
        betas: of AdamW.
        eps: of AdamW.
        weight_decay: of matrices and larger.
        momentum: of SGD.
        rates: pattern of names (``clip.text.*``) to learning rate; the first that matches holds, ``lr`` for the rest.
        layer_decay: d of ``layer_factors``, times the rate; None for none.
        fused: torch's single-kernel form.

    Raises:
        InputError: nothing is trainable, an unknown name, or a pattern that matches no parameter.
    """
    if name not in ("adamw", "sgd"):
        raise InputError(f"unknown optimizer {name!r}: use 'adamw' or 'sgd'")
    whole = nn.ModuleDict(modules)
    names = [n for n, _ in whole.named_parameters()]
    for pattern in rates or {}:
        if not any(fnmatchcase(n, pattern) for n in names):
            raise InputError(f"no parameter matches {pattern!r}; names look like {', '.join(names[:3])}")
    groups = parameter_groups(whole, rates or {}, lr=lr, weight_decay=weight_decay)
    if not groups:
        raise InputError("nothing is trainable: every parameter is frozen; unfreeze a part")
    groups = _by_layer(groups, modules, layer_decay) if layer_decay is not None else groups
    for group in groups:
        group["base_lr"] = group["lr"]
    # False would also turn off torch's own choice of the form that goes over many tensors at once.
    single = True if fused else None
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=single)
    return torch.optim.AdamW(
        groups, lr=lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay, fused=single
    )


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to a share of its ``base_lr``."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def layer_factors(clip: CLIP, decay: float) -> dict[str, float]:
    """Layer-wise learning rates (BEiT, Bao et al. 2022, arXiv 2106.08254): what is near the input learns slower.

    In each tower, block i of n (from 0) gets ``d^(n - i)``, what comes before the blocks (patches, token table,
    positions) ``d^(n + 1)``, and all behind them 1. A convolutional tower's blocks count through its stages; a step down
    belongs to the block behind it.

    Args:
        clip: whose towers are looked at.
        decay: ``d``.

    Returns:
        Name of a tower's parameter (``image.blocks.0.norm1.weight``) to its factor.
    """
    if not 0 < decay <= 1:
        raise InputError(f"layer_decay is {decay}: give a number above 0, up to 1")
    factors: dict[str, float] = {}
    for tower, module in clip.towers.items():
        found = {name: _place(name) for name, _ in module.named_parameters()}
        order = sorted({place for place in found.values() if place is not None})
        number, behind = {place: i for i, place in enumerate(order)}, not order
        for name, place in found.items():  # in the order in which a tower makes its parts: input first
            behind = behind or place is not None
            power = 0 if behind else len(order) + 1
            factors[f"{tower}.{name}"] = decay ** (power if place is None else len(order) - number[place])
    return factors


def _place(name: str) -> tuple[int, int] | None:
    """Stage and block, which sort in the order of the layers."""
    match = _BLOCK.search(name)
    if match is None:
        return None
    kind, stage, block = match.groups()
    return int(stage), 0 if kind == "downs" else int(block or 0)


def _by_layer(groups: list[dict[str, Any]], modules: Mapping[str, nn.Module], decay: float) -> list[dict[str, Any]]:
    """Each group split by the factors of its parameters; those of other modules than a CLIP keep their rate."""
    factors = {
        f"{prefix}.{name}": value
        for prefix, module in modules.items()
        if isinstance(module, CLIP)
        for name, value in layer_factors(module, decay).items()
    }
    out: dict[tuple[int, float], dict[str, Any]] = {}
    for number, group in enumerate(groups):
        for name, parameter in zip(group["names"], group["params"], strict=True):
            share = factors.get(name, 1.0)
            fresh = {**group, "lr": group["lr"] * share, "params": [], "names": []}
            part = out.setdefault((number, share), fresh)
            part["params"].append(parameter)
            part["names"].append(name)
    return list(out.values())
