"""The same random weights in open_clip and in binderclip: what the speed and parity benchmarks compare."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import binderclip
from benchmarks.common import open_clip


def pair(name: str, seed: int = 0) -> tuple[Any, Any]:
    """A model of open_clip with random weights, and the same weights loaded by binderclip from a folder of its layout."""
    module = open_clip()
    torch.manual_seed(seed)
    theirs = module.create_model(name, pretrained=None).eval()
    state = theirs.state_dict()
    with torch.no_grad():
        for (
            key,
            value,
        ) in state.items():  # norms and scales of a fresh model are all one: give every tensor something to lose
            if value.is_floating_point() and value.ndim == 1 and "running_var" not in key:
                value.add_(0.02 * torch.randn_like(value))
    config = {"model_cfg": module.get_model_config(name), "preprocess_cfg": {}}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        save_file({k: v.contiguous() for k, v in state.items()}, folder / "open_clip_model.safetensors")
        (folder / "open_clip_config.json").write_text(json.dumps(config))
        ours = binderclip.load(str(folder)).eval()
    return ours, theirs


def exported(clip: Any, folder: Path) -> binderclip.Encoder:
    """The same model as an encoder that runs on ONNX Runtime: what `binderclip models export` makes."""
    from binderclip.engine.torch_export import export_onnx
    from binderclip.hub.native import save

    save(clip, folder)
    export_onnx(clip, folder)
    return binderclip.Encoder(str(folder))
