"""Calibration of zero-shot probabilities, before and after temperature scaling (Guo et al. 2017, arXiv 1706.04599)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binderclip.data.embeddings import uniform
from binderclip.evaluate.base import Example, Metric, Report, mean_of, plain, resampled, share
from binderclip.evaluate.data import Sets
from binderclip.evaluate.metrics.calibration import (
    brier_rows,
    classwise_ece,
    fit_temperature,
    log_softmax,
    nll,
    reliability,
)
from binderclip.evaluate.vectors import Vectors

__all__ = ["Calibration"]


@dataclass(frozen=True)
class Calibration:
    """ECE, MCE, ACE, classwise ECE, Brier and NLL of ``softmax(scale * cosines)``: the model's own scale, not a fixed 100.

    The temperature is fitted on half of the rows, by the hash of their ids; what it does is measured on the other half. ECE
    usually falls, but it may rise.

    Args:
        templates: a named set, one sentence with ``{}``, or several; those that came with the data otherwise.
        bins: of ECE, MCE and ACE.
        seed: of the hash.
    """

    templates: str | tuple[str, ...] | None = None
    bins: int = 15
    seed: int = 0

    def run(self, vectors: Vectors, sets: Sets) -> Report:
        """Measure.

        Raises:
            InputError: no labels, no class names, or one class only.
        """
        data, y = sets.test.labelled()
        W = vectors.classes(data, self.templates or sets.test.templates or "photos")
        logits = vectors.scale * (vectors.images(data.items) @ W.T).astype(np.float64)  # [N, K]
        predicted = logits.argmax(axis=1)
        p = np.exp(log_softmax(logits))
        confidence, right = p.max(axis=1), predicted == y
        curve = reliability(confidence, right, self.bins)
        losses = -log_softmax(logits)[np.arange(len(y)), y]
        n = len(y)
        numbers: list[Metric] = [
            resampled("ece", self._ece(confidence, right, equal_mass=False), n, "lower", "share", centred=True),
            plain("mce", curve.mce, len(y), "lower", "share"),
            resampled("ace", self._ece(confidence, right, equal_mass=True), n, "lower", "share", 200, centred=True),
            plain("classwise_ece", classwise_ece(p, y, self.bins), len(y), "lower", "share"),
            mean_of("brier", brier_rows(p, y), "lower"),
            mean_of("nll", losses, "lower"),
            mean_of("mean_confidence", confidence, "", "share"),
            share("acc1", right),
            plain("logit_scale", vectors.scale, len(y)),
        ]
        charts = [_diagram("Reliability, all items", curve)]
        notes = []
        fit = uniform(self.seed, data.ids) < 0.5
        if fit.any() and not fit.all():
            T = fit_temperature(logits[fit], y[fit])
            numbers += _after(logits[~fit], y[~fit], T, self.bins)
            scaled = np.exp(log_softmax(logits[~fit] / T)).max(axis=1)
            charts.append(_diagram("The other half, before", reliability(confidence[~fit], right[~fit], self.bins)))
            charts.append(_diagram(f"The other half, temperature {T:.3g}", reliability(scaled, right[~fit], self.bins)))
            notes.append(f"temperature fitted on {fit.sum()} rows by the hash of their ids, measured on {(~fit).sum()}")
        rows = tuple(
            {
                "id": item.id,
                "label": data.classes[y[i]],
                "prediction": data.classes[predicted[i]],
                "confidence": float(confidence[i]),
                "correct": bool(right[i]),
                "nll": float(losses[i]),
            }
            for i, item in enumerate(data.items)
        )
        worst = [i for i in np.argsort(-losses, kind="stable")[:12] if not right[i]]
        examples = tuple(
            Example(
                data.items[i].id,
                f"{confidence[i]:.0%} sure of {data.classes[predicted[i]]}",
                f"it is {data.classes[y[i]]} ({p[i, y[i]]:.1%})",
            )
            for i in worst
        )
        return Report(
            "calibration", vectors.name, data.name, tuple(numbers), rows, tuple(charts), examples, tuple(notes)
        )

    def _ece(
        self, confidence: NDArray[Any], right: NDArray[Any], *, equal_mass: bool
    ) -> Callable[[NDArray[Any]], float]:
        """The calibration error as a function of row numbers."""
        return lambda r: reliability(confidence[r], right[r], self.bins, equal_mass=equal_mass).ece


def _after(logits: NDArray[Any], y: NDArray[Any], T: float, bins: int) -> list[Metric]:
    """NLL and ECE of the other half, before and after."""
    right = logits.argmax(axis=1) == y
    out = [plain("temperature", T, len(y))]
    for name, divisor in (("before", 1.0), ("after", T)):
        logs = log_softmax(logits / divisor)
        out.append(plain(f"nll_{name}", nll(logs, y), len(y), "lower"))
        value = reliability(np.exp(logs).max(axis=1), right, bins).ece
        out.append(plain(f"ece_{name}", value, len(y), "lower", "share"))
    return out


def _diagram(title: str, curve: Any) -> dict[str, Any]:
    return {
        "kind": "reliability",
        "title": title,
        "ece": curve.ece,
        "low": curve.low,
        "high": curve.high,
        "count": curve.count,
        "confidence": curve.confidence,
        "accuracy": curve.accuracy,
    }
