"""A run's state on disk: whole at every moment, without pickle, and the optimiser's part of it by parameter names.

A checkpoint is a folder ``checkpoints/step-000120`` with ``state.safetensors`` (tensors) and ``state.json`` (all else, and
the size and CRC-32 of the tensors). It is written aside under a name that begins with a dot, flushed, and renamed; an
older one is removed only when the new one stands. One process writes a run's checkpoints at a time; any may read them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from binderclip.data.files import sync_folder
from binderclip.errors import CheckpointError

__all__ = ["latest", "load_optimizer", "load_state", "optimizer_tensors", "prune", "save_state", "step_folder"]

TENSORS, FACTS, KIND, FORMAT = "state.safetensors", "state.json", "binderclip training state", 1
_STEP = re.compile(r"step-(\d+)|\.step-(\d+)\.old")
_LEFT = re.compile(r"\.(.+)\.(old|gone|part)")
# How torch computes, not what: these stay as the new optimiser has them.
_FORMS = ("params", "names", "foreach", "fused", "capturable", "differentiable")


def step_folder(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step belongs: ``run_dir/checkpoints/step-000120``."""
    return run_dir / "checkpoints" / f"step-{step:06d}"


def save_state(
    run_dir: Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], *, keep: int | None = None
) -> Path:
    """Write the checkpoint of a step; one that is there is replaced, and there until then.

    Args:
        run_dir: folder of the run.
        step: steps done.
        tensors: by name; on any device, of any layout, also sharing memory.
        facts: what JSON can hold. Tuples come back as lists, keys as text, floats bit for bit.
        keep: how many checkpoints are kept, this one too, see ``prune``; None removes none.

    Returns:
        ``step_folder(run_dir, step)``.

    Raises:
        CheckpointError: it cannot be written (disk full); all that was there is as it was, and the line says where the
            last whole checkpoint is. Or the folder holds something else.
    """
    folder = step_folder(run_dir, step)
    text = json.dumps({"facts": facts})  # before the disk is touched
    aside = folder.with_name(f".{folder.name}.part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists() and not _own(folder):
            raise CheckpointError(f"{folder} is there and holds no training state: choose another folder for the run")
        try:
            _mend(folder.parent)
            _write(aside, tensors, text)
            old = folder.with_name(f".{folder.name}.old")
            if folder.exists():
                os.replace(folder, old)
            os.replace(aside, folder)
            sync_folder(folder.parent)
            shutil.rmtree(old, ignore_errors=True)
        except BaseException:
            with contextlib.suppress(OSError):
                _mend(folder.parent)
            raise
    except (OSError, SafetensorError) as error:
        last = _newest(folder.parent)
        kept = f"the last whole checkpoint is {last}" if last else "there is no earlier checkpoint"
        raise CheckpointError(
            f"{folder} cannot be written ({_reason(error)}): make room, then resume; {kept}"
        ) from None
    if keep is not None:
        prune(run_dir, keep)
    return folder


def _write(aside: Path, tensors: Mapping[str, Tensor], text: str) -> None:
    aside.mkdir()
    path = aside / TENSORS
    save_file(_separate(tensors), path)
    manifest = {"kind": KIND, "format": FORMAT, "bytes": path.stat().st_size, "crc32": _crc(path), **json.loads(text)}
    (aside / FACTS).write_text(json.dumps(manifest), encoding="utf-8")
    for name in (TENSORS, FACTS):
        with open(aside / name, "rb+") as stream:
            os.fsync(stream.fileno())
    sync_folder(aside)


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Dense tensors in memory of their own, as the format wants them."""
    out: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        storage = own.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != own.nbytes:
            own = own.clone()
        seen.add(own.untyped_storage().data_ptr())
        out[name] = own
    return out


def _crc(path: Path) -> int:
    value = 0
    with open(path, "rb") as stream:
        while part := stream.read(1 << 24):
            value = zlib.crc32(part, value)
    return value


def _mend(parent: Path) -> None:
    """Put back what a killed write moved away, and remove what it left."""
    for path in sorted(parent.iterdir()):
        match = _LEFT.fullmatch(path.name)
        if match is None or not _own(path):
            continue
        if match[2] == "old" and not (parent / match[1]).exists() and _whole(path):
            os.replace(path, parent / match[1])
        else:
            shutil.rmtree(path, ignore_errors=True)


def _own(folder: Path) -> bool:
    """Whether nothing is lost when it goes: a folder with no more than what is written here."""
    return folder.is_dir() and {path.name for path in folder.iterdir()} <= {TENSORS, FACTS}


# -- finding and reading -------------------------------------------------------------------------------------------------


def latest(run_dir: Path) -> Path | None:
    """The newest whole checkpoint of a run; None where there is none. Nothing is changed on disk."""
    return _newest(run_dir / "checkpoints")


def prune(run_dir: Path, keep: int = 2, spare: Collection[int] = ()) -> None:
    """Remove all but the newest whole checkpoints, and those of the steps to spare (the best one)."""
    for step, path in _found(run_dir / "checkpoints")[max(keep, 1) :]:
        if step not in spare and not path.name.startswith("."):
            gone = path.with_name(f".{path.name}.gone")
            with contextlib.suppress(OSError):  # one more checkpoint is no reason to stop a run
                os.replace(path, gone)
                shutil.rmtree(gone)


def _newest(parent: Path) -> Path | None:
    return next((path for _, path in _found(parent)), None)


def _found(parent: Path) -> list[tuple[int, Path]]:
    """Step and folder of each whole checkpoint, newest first; of a step whose folder was moved away, that one."""
    if not parent.is_dir():
        return []
    found = {}
    for path in sorted(parent.iterdir()):  # names with a dot come first, so the proper name holds where both are
        match = _STEP.fullmatch(path.name)
        if match and _whole(path):
            found[int(match[1] or match[2])] = path
    return sorted(found.items(), reverse=True)


def _whole(folder: Path) -> bool:
    try:
        return bool(_manifest(folder)["bytes"] == (folder / TENSORS).stat().st_size)
    except (OSError, ValueError):
        return False


def _manifest(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    if not isinstance(found, dict) or found.get("kind") != KIND or not {"format", "bytes", "facts"} <= set(found):
        raise ValueError(f"{FACTS} is not of binderclip")
    if found["format"] != FORMAT:
        raise ValueError(f"its format is {found['format']} and this version reads {FORMAT}: upgrade binderclip")
    return found


def load_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a checkpoint, on the CPU.

    Raises:
        CheckpointError: missing, damaged, of something else or of a newer version; the line says what to do.
    """
    path = folder / TENSORS
    try:
        manifest = _manifest(folder)
        if path.stat().st_size != manifest["bytes"] or _crc(path) != manifest.get("crc32"):
            raise ValueError(f"{TENSORS} is damaged")
        return load_file(path), manifest["facts"]
    except (OSError, ValueError, SafetensorError) as error:
        rest = [other for _, other in _found(folder.parent) if other != folder]
        instead = f"remove it to resume from {rest[0]}" if rest else "start the run anew"
        raise CheckpointError(f"{folder} is no checkpoint to resume from ({_reason(error)}): {instead}") from None


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).split("\n", 1)[0]


# -- the optimiser -------------------------------------------------------------------------------------------------------


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state by parameter names, for ``save_state``.

    Args:
        optimizer: of ``make_optimizer``: its groups hold ``names``.

    Returns:
        ``exp_avg/clip.image.proj.weight`` and so on to tensors (the optimiser's own, not copies), and the rest: groups,
        numbers of the state, shapes.
    """
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    shapes: dict[str, list[int]] = {}
    for name, parameter in _named(optimizer).items():
        shapes[name] = list(parameter.shape)
        for key, value in optimizer.state.get(parameter, {}).items():
            (tensors if isinstance(value, Tensor) else values)[f"{key}/{name}"] = value
    keys = sorted({whole.partition("/")[0] for whole in (*tensors, *values)})
    groups = [
        {"names": group["names"], **{key: value for key, value in group.items() if key not in _FORMS}}
        for group in optimizer.param_groups
    ]
    return tensors, {"kind": _kind(optimizer), "keys": keys, "groups": groups, "values": values, "shapes": shapes}


def load_optimizer(
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    *,
    missing_ok: bool = False,
) -> list[str]:
    """Give an optimiser the state that ``optimizer_tensors`` took, bit for bit; its own is dropped.

    Args:
        optimizer: over parameters of the same names, in any groups and order.
        tensors: others among them (the weights of the model, in one checkpoint) are passed over.
        facts: as given out.
        missing_ok: give state where name and shape fit, and no more: for the next phase, which may train other parts.
            Otherwise names and shapes must be the same, and groups of the same names get their numbers (learning rate,
            betas, ...) too.

    Returns:
        Names of parameters that begin without state.

    Raises:
        CheckpointError: state of another optimiser, or of other parameters.
    """
    if facts.get("kind") != _kind(optimizer) or not {"keys", "groups", "values", "shapes"} <= set(facts):
        raise CheckpointError(f"the state is of {facts.get('kind', 'no optimizer')}, the run has {_kind(optimizer)}")
    named, shapes = _named(optimizer), facts["shapes"]
    odd = sorted(
        [n for n, p in named.items() if shapes.get(n) != list(p.shape)] + [n for n in shapes if n not in named]
    )
    if odd and not missing_ok:
        raise CheckpointError(
            f"the state fits other parameters than these: {odd[0]} and {len(odd) - 1} more differ in name or shape; "
            "resume with the recipe that the run began with"
        )
    optimizer.state.clear()
    on_device = {n: bool(g.get("fused") or g.get("capturable")) for g in optimizer.param_groups for n in g["names"]}
    for whole, value in {**tensors, **facts["values"]}.items():
        key, _, name = whole.partition("/")
        if key not in facts["keys"] or name not in named or shapes.get(name) != list(named[name].shape):
            continue
        if isinstance(value, Tensor):  # torch counts steps on the CPU, unless a kernel reads the count
            device = named[name].device if key != "step" or on_device[name] else torch.device("cpu")
            value = value.detach().to(device, copy=True)
        optimizer.state[named[name]][key] = value
    if not missing_ok:
        numbers = {tuple(group["names"]): group for group in facts["groups"]}
        for group in optimizer.param_groups:
            for key, value in numbers.get(tuple(group["names"]), {}).items():
                if key not in _FORMS:
                    group[key] = tuple(value) if isinstance(value, list) else value
    return [name for name, parameter in named.items() if not optimizer.state.get(parameter)]


def _named(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {n: p for g in optimizer.param_groups for n, p in zip(g["names"], g["params"], strict=True)}


def _kind(optimizer: torch.optim.Optimizer) -> str:
    return type(getattr(optimizer, "optimizer", optimizer)).__name__  # accelerate puts a shell around it
