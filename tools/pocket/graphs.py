"""The ONNX graphs beside the weights: made by the library's own exporter, sizes reported for the record."""

from __future__ import annotations

from pathlib import Path

from binderclip.engine.torch_export import export_onnx
from binderclip.model.clip import CLIP


def write_graphs(clip: CLIP, folder: Path) -> dict[str, int]:
    """``image.onnx`` and ``text.onnx`` beside the ``model.safetensors`` of ``folder``; their sizes in bytes."""
    export_onnx(clip, folder)
    return {name: (folder / f"{name}.onnx").stat().st_size for name in ("image", "text")}
