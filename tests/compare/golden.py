"""Runs a reference model on formula weights and writes what it gives; used by the two compare scripts."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import formula
import numpy as np
import torch
from torch import Tensor, nn

BLOCK_SAMPLES = 512


def write(
    name: str,
    folder: Path,
    model: nn.Module,
    configs: Mapping[str, Any],
    encode: Mapping[str, Callable[[nn.Module, Tensor], Tensor]],
    inputs: Mapping[str, np.ndarray],
    blocks: Mapping[str, str],
) -> None:
    """Fill, run forward and backward, write ``<folder>/<name>.npz``.

    Args:
        name: of the golden.
        folder: where it goes.
        model: the reference.
        configs: file name to JSON, as published beside such weights.
        encode: tower to a function of (model, input) giving raw features.
        inputs: tower to its input; ``image`` is float, ``text`` ids.
        blocks: our site name with the tower before it (``image.blocks.0.out``) to the reference's module name.
    """
    model.eval()
    shapes = {k: list(v.shape) for k, v in model.state_dict().items() if "position_ids" not in k}
    model.load_state_dict({k: torch.from_numpy(v) for k, v in formula.fill(shapes).items()}, strict=False)
    out: dict[str, np.ndarray] = {"configs": formula.pack(configs), "shapes": formula.pack(shapes)}
    kept: dict[str, Tensor] = {}
    hooks = []
    for site, module in blocks.items():
        hooks.append(model.get_submodule(module).register_forward_hook(_keeper(kept, site)))
    total = torch.zeros(())
    pixels = None
    for tower, function in encode.items():
        x = torch.from_numpy(inputs[tower])
        if tower == "image":
            x = pixels = x.requires_grad_()
        features = function(model, x)
        out[tower] = features.detach().numpy()
        total = total + (features * torch.from_numpy(formula.noise(f"loss.{tower}", features.shape))).sum()
    total.backward()
    for hook in hooks:
        hook.remove()
    for site, value in kept.items():
        out[site] = formula.sample(value[-1].detach().numpy(), BLOCK_SAMPLES)
    gradients = {k: formula.sample(p.grad.numpy()) for k, p in model.named_parameters() if p.grad is not None}
    out["gradient_names"] = formula.pack(list(gradients))
    out["gradients"] = np.concatenate(list(gradients.values()))
    assert pixels is not None
    assert pixels.grad is not None
    out["pixel_gradient"] = formula.sample(pixels.grad.numpy(), BLOCK_SAMPLES)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / f"{name}.npz", **out)
    print(f"{name}: image {out['image'][0, :2]}, {len(out)} arrays, {(folder / f'{name}.npz').stat().st_size} bytes")


def _keeper(kept: dict[str, Tensor], site: str) -> Callable[..., None]:
    def keep(module: nn.Module, args: Any, output: Any) -> None:
        kept[site] = output[0] if isinstance(output, tuple) else output

    return keep


def load_stub(path: Path | None) -> None:
    """Import the module that lets a torchvision built for CUDA import beside a CPU torch."""
    if path is None:
        return
    spec = importlib.util.spec_from_file_location("torchvision_stub", path)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
