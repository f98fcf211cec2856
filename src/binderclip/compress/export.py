"""A checkpoint folder that runs without torch: weights, and one graph a tower that refers to them.

Each graph is run beside torch on a few inputs before the folder is there at all; a folder is whole or absent.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from binderclip.errors import CheckpointError, InputError, NeedsPartError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from binderclip.model.clip import CLIP

__all__ = ["Exported", "export", "whole_folder"]

PARITY_TEXTS = ("a photo of a dog", "two red bicycles in the rain", "x")


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: where.
        engine: that it was checked on.
        differences: tower -> largest difference of an entry of a unit vector from torch's.
        bytes: of the folder.
    """

    folder: Path
    engine: str
    differences: Mapping[str, float]
    bytes: int


def export(clip: CLIP, out: Path, *, engine: str = "onnx", half: bool = False, tolerance: float = 1e-4) -> Exported:
    """Save a CLIP with its graphs, and compare each tower with torch.

    Args:
        clip: the model; it stays as it is.
        out: a new folder.
        engine: that will run it, and that it is compared on: ``onnx`` or ``openvino``; ``torch`` writes the weights alone.
        half: store fp16 weights; the graphs calculate in float32 either way. Vectors then differ by about 1e-3 from the
            full model's, and the comparison is with the rounded weights.
        tolerance: largest difference of an entry of a unit vector.

    Raises:
        InputError: the folder is there already, or no such engine.
        NeedsExtraError: ``onnx`` or ``openvino`` is not installed.
        NeedsPartError: the model has no tokenizer or no preprocess.
        CheckpointError: the engine does not give what torch gives; nothing is written.
    """
    import torch

    from binderclip.engine.torch_export import export_onnx
    from binderclip.hub import native

    if engine not in ("onnx", "openvino", "torch"):
        raise InputError(f"{engine!r} is no engine to export for: give onnx, openvino or torch")
    with whole_folder(out) as work:
        native.save(clip, work, dtype=torch.float16 if half else None)
        differences: dict[str, float] = {}
        if engine != "torch":
            stored = native.load(work).eval()
            differences = export_onnx(stored, work, tolerance=tolerance)
            if engine == "openvino":
                differences = _on_openvino(stored, work, tolerance)
    return Exported(out, engine, differences, sum(path.stat().st_size for path in out.iterdir()))


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its name at the end, or goes away with an error.

    Raises:
        InputError: `out` is there already, or no folder can be made beside it.
    """
    if out.exists():
        raise InputError(f"{out} is there already: choose another folder, or move it away")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        place = tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.")
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror}") from None
    with place as work:
        made = Path(work) / "made"
        made.mkdir()
        yield made
        os.replace(made, out)


def _on_openvino(clip: CLIP, folder: Path, tolerance: float) -> dict[str, float]:
    """Largest differences of OpenVINO's unit vectors from torch's."""
    import torch

    from binderclip.engine.opening import shared_towers
    from binderclip.engine.openvino import OpenVinoTowers

    if clip.preprocess is None or clip.tokenizer is None:
        raise NeedsPartError(f"{clip.name} has no preprocess or no tokenizer: it cannot be exported")
    size = clip.preprocess.size
    towers = OpenVinoTowers(folder, shares=shared_towers(clip.config))
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    ids, eos = clip.tokenizer(list(PARITY_TEXTS))
    with torch.inference_mode():
        wanted: dict[str, Any] = {
            "image": clip.encode_image(pixels).numpy(),
            "text": clip.encode_text((torch.from_numpy(ids), torch.from_numpy(eos))).numpy(),
        }
    found = {"image": towers.image(pixels.numpy()), "text": towers.text(ids, eos)}
    worst = {name: float(np.abs(found[name] - wanted[name]).max()) for name in found}
    for name, difference in worst.items():
        if not difference <= tolerance:
            raise CheckpointError(
                f"OpenVINO's {name} tower is off by {difference:.2g}, over {tolerance:g}: export for onnx, or use torch"
            )
    return worst
