"""Out-of-distribution detection: does a score tell pictures of the classes from pictures of none of them?

MCM (Ming et al. 2022, arXiv 2211.13445), MSP (Hendrycks & Gimpel 2017, arXiv 1610.02136), max-logit (Hendrycks et al. 2022,
arXiv 1911.11132), energy (Liu et al. 2020, arXiv 2010.03759). With cosines ``s_k`` and the model's scale ``tau``::

    MCM = max_k softmax(s_k / T), T = 1      MSP = max_k softmax(tau s_k)
    max-logit = max_k s_k                    energy = T log sum_k exp(tau s_k / T), T = 1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binderclip.errors import InputError
from binderclip.evaluate.base import Example, Metric, Report, plain, share
from binderclip.evaluate.data import Sets
from binderclip.evaluate.metrics.calibration import softmax
from binderclip.evaluate.metrics.ranking import auroc, average_precision, fpr_at_tpr
from binderclip.evaluate.vectors import Vectors

__all__ = ["OOD", "scores_of"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class OOD:
    """AUROC (pictures of the classes positive), AUPR both ways and FPR95 of each score; the zero-shot accuracy beside.

    No outlier sets a temperature or a threshold.

    Args:
        templates: MCM's "a photo of a {}" by default.
        T: temperature of MCM, on cosines.
        energy_temperature: temperature of energy, on ``tau s``.
        resamples: of the bootstrap.
    """

    templates: str | tuple[str, ...] = "a photo of a {}"
    T: float = 1.0
    energy_temperature: float = 1.0
    resamples: int = 200

    def run(self, vectors: Vectors, sets: Sets) -> Report:
        """Measure.

        Raises:
            InputError: no outliers, no class names, or fewer than two classes.
        """
        if sets.outliers is None:
            raise InputError(
                "out-of-distribution detection needs pictures of none of the classes: name them, as in --outliers DIR"
            )
        data = sets.test
        if len(data.classes) < 2:
            raise InputError(
                f"{data.name} has {len(data.classes)} class names: give at least two, as in --labels 'cat,dog'"
            )
        W = vectors.classes(data, self.templates)
        inside = (vectors.images(data.items) @ W.T).astype(np.float64)
        outside = (vectors.images(sets.outliers.items) @ W.T).astype(np.float64)
        one, other = (scores_of(s, vectors.scale, self.T, self.energy_temperature) for s in (inside, outside))
        positive = np.arange(len(inside) + len(outside)) < len(inside)
        numbers: list[Metric] = []
        for name in one:
            numbers += self._of_score(name, np.concatenate([one[name], other[name]]), positive)
        labels = np.array([item.labels[0] if item.labels else -1 for item in data.items])
        known = labels >= 0
        if known.any():
            numbers.append(share("id_acc1", inside[known].argmax(axis=1) == labels[known]))
        rows = [
            {"id": item.id, "inside": which, **{name: float(table[name][i]) for name in table}}
            for which, items, table in ((True, data.items, one), (False, sets.outliers.items, other))
            for i, item in enumerate(items)
        ]
        worst = np.argsort(-other["mcm"], kind="stable")[:12]
        examples = tuple(
            Example(
                sets.outliers.items[i].id,
                f"outlier taken for {data.classes[outside[i].argmax()]}",
                f"MCM above {(one['mcm'] < other['mcm'][i]).mean():.0%} of the inside pictures",
            )
            for i in worst
        )
        chart = {
            "kind": "histogram",
            "title": "MCM score",
            "x": "score",
            "series": {"of the classes": one["mcm"].tolist(), "outliers": other["mcm"].tolist()},
        }
        note = f"{len(inside)} pictures of the classes, {len(outside)} outliers ({sets.outliers.name})"
        return Report("ood", vectors.name, data.name, tuple(numbers), tuple(rows), (chart,), examples, (note,))

    def _of_score(self, name: str, values: Floats, positive: NDArray[Any]) -> list[Metric]:
        n, inside = len(values), int(positive.sum())
        rng = np.random.default_rng(0)
        # Both sides are resampled on their own, so that neither is ever empty.
        draws = [
            (rng.integers(0, inside, inside), inside + rng.integers(0, n - inside, n - inside))
            for _ in range(self.resamples)
        ]
        aurocs = [auroc(values[np.concatenate(pair)], positive) for pair in draws]
        fprs = [fpr_at_tpr(values[a], values[b]) for a, b in draws]
        return [
            _between(f"{name}_auroc", auroc(values, positive), aurocs, n, "higher"),
            _between(f"{name}_fpr95", fpr_at_tpr(values[positive], values[~positive]), fprs, n, "lower"),
            plain(f"{name}_aupr_in", average_precision(values, positive), n, "higher", "share"),
            plain(f"{name}_aupr_out", average_precision(-values, ~positive), n, "higher", "share"),
        ]


def scores_of(cosines: Floats, scale: float, T: float = 1.0, energy_temperature: float = 1.0) -> dict[str, Floats]:
    """Each score of cosines ``[N, K]``, higher = more like the classes, ``[N]``."""
    z = scale * cosines / energy_temperature
    top = z.max(axis=1)
    return {
        "mcm": softmax(cosines / T).max(axis=1),
        "msp": softmax(scale * cosines).max(axis=1),
        "max_logit": cosines.max(axis=1),
        "energy": energy_temperature * (top + np.log(np.exp(z - top[:, None]).sum(axis=1))),
    }


def _between(name: str, value: float, draws: list[float], n: int, better: str) -> Metric:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Metric(name, value, n, float(low), float(high), "bootstrap", better, "share")
