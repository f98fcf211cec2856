"""From a cosine to the probability that a picture shows what a query says.

Cosines of a CLIP are not comparable between queries: "a photo" is near everything, "a marlinspike" near nothing. With
the mean ``mu`` and covariance ``Sigma`` of reference pictures, the cosine of an unrelated picture has mean ``mu.q`` and
variance ``q' Sigma q``, so::

    z = (cos - mu.q) / sqrt(q' Sigma q)        probability = sigmoid(a z + b)

``a`` and ``b`` are fitted on training rows when a model is built, or by ``binderclip models calibrate``.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from binderclip.errors import CheckpointError

__all__ = ["Calibration"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Calibration:
    """Statistics of reference pictures and the fitted slope and offset.

    Attributes:
        mean: ``mu [D]``, mean of unit image embeddings.
        covariance: ``Sigma [D, D]``.
        a: slope, per standard deviation.
        b: offset.

    Example:
        >>> flat = Calibration(np.zeros(2, np.float32), np.eye(2, dtype=np.float32), a=2.0, b=-4.0)
        >>> flat.probability(np.array([1.0, 0.0]), np.array([0.0, 2.0, 4.0])).round(3).tolist()
        [0.018, 0.5, 0.982]
    """

    mean: Floats
    covariance: Floats
    a: float
    b: float

    def z(self, query: npt.ArrayLike, cosines: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Standard deviations above an unrelated picture.

        Args:
            query: ``q [D]``, unit norm.
            cosines: ``[N]``.

        Returns:
            ``[N]``.
        """
        q = np.asarray(query, dtype=np.float64)
        spread = math.sqrt(max(float(q @ self.covariance.astype(np.float64) @ q), 1e-12))
        centred: npt.NDArray[np.float64] = np.asarray(cosines, dtype=np.float64) - float(
            self.mean.astype(np.float64) @ q
        )
        return centred / spread

    def probability(self, query: npt.ArrayLike, cosines: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """``sigmoid(a z + b)`` for each cosine ``[N]`` of one query ``[D]``."""
        logits = np.clip(self.a * self.z(query, cosines) + self.b, -60.0, 60.0)
        out: npt.NDArray[np.float64] = 1.0 / (1.0 + np.exp(-logits))
        return out

    @classmethod
    def load(cls, folder: Path, config: dict[str, object]) -> Calibration | None:
        """From a checkpoint's folder; ``None`` when the model was never calibrated.

        Raises:
            CheckpointError: the statistics are there and cannot be read.
        """
        fitted = config.get("calibration")
        path = folder / "calibration.safetensors"
        if not isinstance(fitted, dict) or not path.is_file():
            return None
        from safetensors.numpy import load_file

        try:
            arrays = load_file(path)
            mean, covariance = arrays["calibration.mean"], arrays["calibration.covariance"]
            a, b = float(fitted["a"]), float(fitted["b"])
        except Exception as error:
            raise CheckpointError(f"{path.name} cannot be read ({error}): calibrate the model again") from None
        return cls(mean.astype(np.float32), covariance.astype(np.float32), a, b)

    def save(self, folder: Path) -> None:
        """Write the statistics beside a checkpoint and ``a``, ``b`` into its config, each file whole at every moment."""
        from safetensors.numpy import save

        from binderclip.data.files import write_whole

        arrays = {"calibration.mean": self.mean, "calibration.covariance": self.covariance}
        write_whole(folder / "calibration.safetensors", save(arrays))
        path = folder / "config.json"
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        config["calibration"] = config.get("calibration", {}) | {"a": self.a, "b": self.b}
        write_whole(path, json.dumps(config, indent=2).encode())
