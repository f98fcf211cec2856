"""The towers of an exported checkpoint on OpenVINO (extra ``fast``), from the same two graphs as ONNX Runtime's.

On some processors it is several times faster on small towers and slower on large ones: ``binderclip tune`` measures. The
runtime alone is used; the part of the package that reports its use is never imported.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from binderclip.engine.onnx import Floats, Ints, graph_of
from binderclip.errors import CheckpointError, NeedsExtraError

__all__ = ["OpenVinoTowers"]


class OpenVinoTowers:
    """Lazily compiled graphs of one folder, in float32.

    Args:
        folder: where ``image.onnx`` and ``text.onnx`` are.
        threads: of one graph; ``None`` uses every core.
        shares: tower to the folder of the model whose it is.

    Raises:
        NeedsExtraError: OpenVINO is not installed.
    """

    def __init__(self, folder: Path, threads: int | None = None, shares: Mapping[str, Path] | None = None) -> None:
        try:
            import openvino
        except ImportError:
            raise NeedsExtraError("the engine openvino", "fast") from None
        self._core: Any = openvino.Core()
        self.folder, self.threads, self.shares = folder, threads, dict(shares or {})
        self._graphs: dict[str, Any] = {}
        self._lock = threading.Lock()

    def image(self, pixels: Floats) -> Floats:
        """``[N, 3, H, W]`` normalised pixels -> ``[N, D]``."""
        return self._run("image", {"pixels": pixels})

    def text(self, ids: Ints, eos: Ints) -> Floats:
        """``[N, L]`` ids and ``[N]`` end positions -> ``[N, D]``."""
        return self._run("text", {"ids": ids, "eos": eos})

    def _run(self, tower: str, inputs: Mapping[str, npt.NDArray[Any]]) -> Floats:
        with self._lock:
            if tower not in self._graphs:
                self._graphs[tower] = self._open(tower)
        # A request of its own for every call: calls from several threads do not meet.
        out: Floats = self._graphs[tower].create_infer_request().infer(inputs)["embedding"].copy()
        return out

    def _open(self, tower: str) -> Any:
        path = graph_of(tower, self.folder, self.shares)
        settings = {
            "INFERENCE_NUM_THREADS": self.threads or os.cpu_count() or 1,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            return self._core.compile_model(self._core.read_model(path), "CPU", settings)
        except Exception as error:
            first = str(error).strip().splitlines()[0][:160]
            raise CheckpointError(
                f"{path.name} of {self.folder.name} cannot be run by OpenVINO ({first}): use --engine onnx"
            ) from None
