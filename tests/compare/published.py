"""Checkpoints as published, written from a golden's shapes with formula weights: for tests of the loader."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.compare import formula

GOLDENS = Path(__file__).resolve().parent.parent / "goldens"


def weights(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State dict in its layout, and the config files that are published beside it."""
    with np.load(GOLDENS / f"{name}.npz") as stored:
        shapes, configs = formula.unpack(stored["shapes"]), formula.unpack(stored["configs"])
    return {k: torch.from_numpy(v) for k, v in formula.fill(shapes).items()}, configs


def folder(name: str, where: Path, file: str = "model.safetensors") -> Path:
    """A folder as the hub serves it."""
    where.mkdir(parents=True, exist_ok=True)
    state, configs = weights(name)
    if file.endswith(".safetensors"):
        save_file(state, where / file)
    else:
        torch.save(state, where / file)
    for config, content in configs.items():
        (where / config).write_text(json.dumps(content))
    return where


class _Node(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def archive(state: dict[str, Tensor], path: Path) -> Path:
    """A TorchScript archive whose modules hold these tensors, as OpenAI's files do, program and all."""
    root = _Node()
    for key, tensor in state.items():
        *parents, name = key.split(".")
        node: nn.Module = root
        for part in parents:
            if part not in node._modules:
                node.add_module(part, _Node())
            node = node.get_submodule(part)
        if tensor.is_floating_point():
            node.register_parameter(name, nn.Parameter(tensor.clone(), requires_grad=False))
        else:
            node.register_buffer(name, tensor.clone())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(root).save(str(path))
    return path
