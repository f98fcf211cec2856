"""binderclip's own checkpoints: ``config.json`` and ``model.safetensors`` in a folder.

The config names each tower's constructor and arguments, activation and preprocess among them, and holds a probe: what
the model gives for a fixed picture and a fixed text. It is compared on load, so that a model that was read wrongly is
found before it is used.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from binderclip.errors import CheckpointError
from binderclip.hub.embedded import checkpoint_folder
from binderclip.hub.files import read_safetensors
from binderclip.hub.jsons import read_json
from binderclip.model.build import FORMAT, build
from binderclip.model.clip import CLIP

__all__ = ["CONFIG", "WEIGHTS", "load", "probe", "save"]

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
PROBE_TEXT = "a red bicycle leaning on a wall"
# Largest difference of a unit vector's entries. On `pocket`, other thread counts and kernels give 1e-6, the quick in
# place of the exact GELU 3e-3, and the tanh form, the closest of all, 5e-5.
_TOLERANCE = 2e-5


def probe(clip: CLIP) -> dict[str, list[float]]:
    """Unit features of a picture and a text made by formula.

    The picture is ``sin(0.037 x + 1.3 c) cos(0.023 y)`` at column x, row y, channel c, as normalised pixels.
    """
    found: dict[str, Tensor] = {}
    training = clip.training
    clip.eval()
    with torch.no_grad():
        if "image" in clip.towers:
            size = 224 if clip.preprocess is None else clip.preprocess.size
            x, c = torch.arange(size, dtype=torch.float32), torch.arange(3, dtype=torch.float32)[:, None, None]
            pixels = torch.sin(0.037 * x + 1.3 * c) * torch.cos(0.023 * x[:, None])  # [3, H, W]
            found["image"] = clip.encode_image(pixels[None].to(clip.device, clip.logit_scale.dtype))[0]
        if "text" in clip.towers and clip.tokenizer is not None:
            found["text"] = _probe_text(clip)
    clip.train(training)
    return {name: [round(v, 6) for v in vector.float().tolist()] for name, vector in found.items()}


def _probe_text(clip: CLIP) -> Tensor:
    """The text's features; that a short tower cuts our sentence is nothing to warn the user of."""
    assert clip.tokenizer is not None
    cut = clip.tokenizer.truncated
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        vector = clip.encode_text([PROBE_TEXT])[0]
    clip.tokenizer.truncated = cut
    return vector


def save(clip: CLIP, folder: str | Path, *, dtype: torch.dtype | None = None) -> Path:
    """Write a CLIP.

    Args:
        clip: with the ``config`` that ``binderclip.model.build.build`` makes it from.
        folder: made if missing; other files in it are left alone.
        dtype: of the stored weights (``torch.float16`` halves the file); ``None`` keeps them as they are.

    A tower that the config says is another model's (``shares: {text: pocket}``) is not written again, as long as it is the
    same to the bit; else it is, and the config no longer says so.

    Returns:
        The folder.

    Raises:
        CheckpointError: the config does not describe the model.
    """
    folder = Path(folder)
    state = {k: v.detach().cpu().contiguous() for k, v in clip.state_dict().items()}
    shares = {tower: owner for tower, owner in clip.config.get("shares", {}).items() if _is_shared(state, tower, owner)}
    whole = state
    state = {k: v for k, v in state.items() if k.split(".")[0] not in shares}
    if dtype is not None:
        state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    config = {"format": FORMAT, **clip.config, **({"shares": shares} if "shares" in clip.config else {})}
    folder.mkdir(parents=True, exist_ok=True)
    if clip.tokenizer is not None and config.get("tokenizer", {}).get("kind") == "hf":
        config["tokenizer"] = {**config["tokenizer"], "file": TOKENIZER}
        text = clip.tokenizer.rust.to_str()
        _replace(folder / TOKENIZER, lambda path: path.write_text(text, encoding="utf-8"))
    # The probe is of the weights as stored, built anew, so that a config that lies is found here and not by a user.
    config["probe"] = probe(_fill(config, {**whole, **state}, folder))
    _replace(folder / WEIGHTS, lambda path: save_file(state, path))
    _replace(folder / CONFIG, lambda path: path.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8"))
    return folder


def load(folder: str | Path, *, verify: bool = True) -> CLIP:
    """Read a CLIP in eval mode, weights as float32.

    Args:
        folder: with ``config.json`` and ``model.safetensors``.
        verify: compare the stored probe.

    Raises:
        CheckpointError: files missing or broken, weights that do not fit, or a probe that differs.
    """
    folder = Path(folder)
    config = read_json(folder / CONFIG)
    state = read_safetensors(folder / WEIGHTS)
    for tower, owner in config.get("shares", {}).items():
        state |= _shared(tower, owner)
    clip = _fill(config, state, folder)
    if verify:
        _compare(clip, config.get("probe") or {}, folder)
    return clip


def _shared(tower: str, owner: str) -> dict[str, Tensor]:
    """The weights of one tower of an embedded model.

    Raises:
        CheckpointError: there is no such model.
    """
    folder = checkpoint_folder(str(owner))
    if folder is None:
        raise CheckpointError(
            f"this model shares its {tower} tower with {owner!r}, which is not here: upgrade binderclip"
        )
    return {k: v for k, v in read_safetensors(folder / WEIGHTS).items() if k.startswith(f"{tower}.")}


def _is_shared(state: Mapping[str, Tensor], tower: str, owner: str) -> bool:
    """Whether a tower still has its owner's weights."""
    theirs = _shared(tower, owner)
    own = {k: v for k, v in state.items() if k.startswith(f"{tower}.")}
    return own.keys() == theirs.keys() and all(torch.equal(v, theirs[k].to(v.dtype)) for k, v in own.items())


def _fill(config: Mapping[str, Any], state: Mapping[str, Tensor], folder: Path | None = None) -> CLIP:
    with torch.device("meta"):  # no time spent on random weights that are replaced at once
        clip = build(config, folder)
    # Copied: a mapped file's tensors are not aligned as torch's own, and kernels then round differently.
    assign(clip, {k: v.to(torch.float32 if v.is_floating_point() else v.dtype, copy=True) for k, v in state.items()})
    return clip


def assign(clip: CLIP, state: Mapping[str, Tensor]) -> None:
    """Give a CLIP (on the meta device or not) its weights.

    Raises:
        CheckpointError: keys missing or left over, or of another shape; one line that names the first.
    """
    wanted = clip.state_dict()
    missing, extra = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    wrong = [k for k in wanted if k in state and state[k].shape != wanted[k].shape]
    if missing or extra:
        kind, names = ("missing", missing) if missing else ("unknown", extra)
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise CheckpointError(f"the weights do not fit the config: {kind} {names[0]}{more}; fetch both again")
    if wrong:
        key = wrong[0]
        raise CheckpointError(
            f"the weights do not fit the config: {key} is {list(state[key].shape)}, wanted {list(wanted[key].shape)}"
        )
    trainable = {name: p.requires_grad for name, p in clip.named_parameters()}
    clip.load_state_dict(dict(state), assign=True)
    for name, parameter in clip.named_parameters():
        parameter.requires_grad_(trainable[name])


def _compare(clip: CLIP, stored: Mapping[str, list[float]], folder: Path) -> None:
    if not stored:
        return
    now = probe(clip)
    for name, vector in stored.items():
        got = now.get(name, [])
        worst = max((abs(a - b) for a, b in zip(got, vector, strict=False)), default=float("inf"))
        if len(got) != len(vector) or not worst <= _TOLERANCE:
            raise CheckpointError(
                f"{folder}: the {name} tower does not give what it gave when it was saved (off by {worst:.2g}): "
                "config.json and model.safetensors do not belong together; fetch both again"
            )


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write aside, then rename: a stop leaves the old file or the new one, never half of one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    aside = Path(name)
    try:
        write(aside)
        aside.chmod(0o644)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
