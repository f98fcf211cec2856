"""Runs torchmetrics on arrays made by a formula and writes what it gives to `torchmetrics.json`.

Own environment (torch, torchmetrics 1.x, numpy): `python tests/evaluate/compare_torchmetrics.py`. Tests read the file only.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).with_name("torchmetrics.json")


def arrays() -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [200, 5] and targets [200] by a closed formula, the same on every machine."""
    i, k = np.arange(200)[:, None], np.arange(5)[None]
    y = (np.arange(200) * 7 // 3) % 5
    logits = 2.0 * np.sin(1.7 * i + 2.3 * k) + 1.1 * (k == y[:, None])
    p = np.exp(logits)
    return p / p.sum(axis=1, keepdims=True), y


def main() -> None:
    """Write the golden."""
    import torch
    import torchmetrics

    # the public function rounds confidences to float32
    from torchmetrics.functional.classification.calibration_error import _ce_compute
    from torchmetrics.functional.retrieval import retrieval_normalized_dcg, retrieval_reciprocal_rank

    torch.set_default_dtype(torch.float64)
    p, y = arrays()
    preds, target = torch.from_numpy(p), torch.from_numpy(y)
    confidence, predicted = preds.max(dim=1)
    right = (predicted == target).to(torch.float64)
    hot = torch.nn.functional.one_hot(target, 5).bool()
    out = {
        "torchmetrics": torchmetrics.__version__,
        "ece": _ce_compute(confidence, right, 15, norm="l1").item(),
        "mce": _ce_compute(confidence, right, 15, norm="max").item(),
        "mrr": np.mean([retrieval_reciprocal_rank(preds[i], hot[i]).item() for i in range(200)]),
        "ndcg": [retrieval_normalized_dcg(preds[i], hot[i].long(), top_k=3).item() for i in range(20)],
    }
    GOLDEN.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
