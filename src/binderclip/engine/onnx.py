"""The towers of an exported checkpoint on ONNX Runtime.

A folder holds ``image.onnx`` (``pixels`` float32 ``[N, 3, H, W]`` -> ``embedding`` ``[N, D]``) and ``text.onnx`` (``ids``
and ``eos`` int64 ``[N, L]``, ``[N]`` -> ``embedding``). Their initialisers point into ``model.safetensors`` beside them,
so that there is one copy of the weights. A session is made at its first use: a search never pays for the image tower.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from binderclip.errors import CheckpointError, NeedsPartError

__all__ = ["OnnxTowers", "graph_of"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class OnnxTowers:
    """Lazily opened sessions of one folder.

    Args:
        folder: where ``image.onnx`` and ``text.onnx`` are.
        threads: of one session; ``None`` uses every core.
        shares: tower to the folder of the model whose it is.
    """

    def __init__(self, folder: Path, threads: int | None = None, shares: Mapping[str, Path] | None = None) -> None:
        self.folder, self.threads, self.shares = folder, threads, dict(shares or {})
        self._sessions: dict[str, Any] = {}
        self._lock = threading.Lock()

    @staticmethod
    def serves(folder: Path, shares: Mapping[str, Path] | None = None) -> bool:
        """Whether a folder, with those that it shares towers with, holds an exported checkpoint."""
        places = {"image": folder, "text": folder, **(shares or {})}
        return all(any((at / f"{tower}.onnx").is_file() for at in (folder, place)) for tower, place in places.items())

    def image(self, pixels: Floats) -> Floats:
        """``[N, 3, H, W]`` normalised pixels -> ``[N, D]``."""
        out: Floats = self._session("image").run(["embedding"], {"pixels": pixels})[0]
        return out

    def text(self, ids: Ints, eos: Ints) -> Floats:
        """``[N, L]`` ids and ``[N]`` end positions -> ``[N, D]``."""
        out: Floats = self._session("text").run(["embedding"], {"ids": ids, "eos": eos})[0]
        return out

    def graph(self, tower: str) -> Path:
        """The file of a tower: the folder's own, or that of the model whose tower it is.

        Raises:
            NeedsPartError: there is none.
        """
        return graph_of(tower, self.folder, self.shares)

    def _session(self, tower: str) -> Any:
        with self._lock:
            if tower not in self._sessions:
                self._sessions[tower] = self._open(tower)
            return self._sessions[tower]

    def _open(self, tower: str) -> Any:
        import onnxruntime as ort

        path = self.graph(tower)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self.threads or os.cpu_count() or 1
        # Threads that spin while they wait would take the cores from the threads that decode pictures.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            first = str(error).splitlines()[0][:160]
            raise CheckpointError(
                f"{path.name} of {self.folder.name} cannot be opened ({first}): install it again"
            ) from None


def graph_of(tower: str, folder: Path, shares: Mapping[str, Path]) -> Path:
    """The graph of a tower: the folder's own, or that of the model whose tower it is.

    Raises:
        NeedsPartError: there is none.
    """
    for place in (folder, shares.get(tower, folder)):
        if (place / f"{tower}.onnx").is_file():
            return place / f"{tower}.onnx"
    raise NeedsPartError(f"{folder.name} has no {tower} tower: use a model that has one")
