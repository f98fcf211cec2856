"""Weights out of any file that published checkpoints come in: safetensors, torch's zip, TorchScript archives."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from binderclip.errors import CheckpointError
from binderclip.hub.jsons import read_json
from binderclip.hub.torchscript import is_torchscript, read_torchscript

__all__ = ["read_safetensors", "read_weights"]

_NESTED = ("state_dict", "model", "model_state_dict")


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a file by their names in it.

    Nothing in the file is run: safetensors hold numbers only, torch's own files are read with ``weights_only``, and
    TorchScript archives by ``binderclip.hub.torchscript.read_torchscript``.

    Raises:
        CheckpointError: missing, truncated, or not a file of weights.
    """
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist: check the path")
    if path.suffix == ".safetensors":
        return _plain(read_safetensors(path))
    if is_torchscript(path):
        return read_torchscript(path)
    return _plain(_read_torch(path))


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} has no {path.name}: copy the whole folder of the model") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is truncated or no safetensors file ({error}): fetch it again") from None


def _read_torch(path: Path) -> Mapping[str, Any]:
    try:
        with warnings.catch_warnings():  # torch warns of old pickle protocols; the refusal below says more
            warnings.simplefilter("ignore", UserWarning)
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n", 1)[0]
        raise CheckpointError(f"{path} holds more than weights, or is damaged ({reason}): it is not opened") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).split("\n", 1)[0]
        raise CheckpointError(f"{path} is truncated or no file of weights ({reason}): fetch it again") from None
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path} holds no table of weights: it is no model's checkpoint")
    return loaded


def _read_shards(index: Path) -> dict[str, Tensor]:
    names = sorted(set(read_json(index).get("weight_map", {}).values()))
    out: dict[str, Tensor] = {}
    for name in names:
        out.update(read_safetensors(index.parent / Path(name).name))
    return out


def _plain(loaded: Mapping[str, Any]) -> dict[str, Tensor]:
    """Training checkpoints keep the weights one level down, and put ``module.`` before each key."""
    for name in _NESTED:
        if isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
    tensors = {k: v for k, v in loaded.items() if isinstance(v, Tensor)}
    if not tensors:
        raise CheckpointError("the file holds no weights: it is no model's checkpoint")
    if all(k.startswith("module.") for k in tensors):
        tensors = {k.removeprefix("module."): v for k, v in tensors.items()}
    return tensors
