"""LABCLIP on 2,000 scenes of two coloured shapes: where binding is lost, and what one matrix repairs.

`python -m benchmarks.evaluate_labclip`. Combinations (not scenes) are split by hash: 20 % test, 15 % validation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import record
from benchmarks.scene_clip import HOW, scene_clip
from binderclip import Encoder
from binderclip.data.embeddings import uniform
from binderclip.data.scenes import SceneSpec
from binderclip.evaluate.labclip import LABCLIP, BindingProbe, bound_scenes
from binderclip.evaluate.metrics.geometry import gap
from binderclip.evaluate.models import square_vectors, vectors_of

Floats = NDArray[np.float32]
SEEDS, RATES = (0, 1, 2), (1e-3, 3e-3, 1e-2)


def recall(X: Floats, T: Floats) -> float:
    """At 1, mean of both directions, in percent of rows whose own pair is strictly nearest."""
    s = X @ T.T
    own, others = np.diag(s), s - 4 * np.eye(len(s), dtype=np.float32)
    return float(((own > others.max(axis=1)).mean() + (own > others.max(axis=0)).mean()) / 2)


def study(model: Any, spec: SceneSpec) -> dict[str, Any]:
    """The probe, then the map by swapped captions and by other rows alone."""
    scenes, vectors = bound_scenes(2000, spec), vectors_of(model)
    report = BindingProbe().run(vectors, scenes)
    figures: dict[str, Any] = {
        m.name: {"value": round(m.value, 4), "n": m.n}
        | ({"ci95": [round(m.low, 4), round(m.high, 4)]} if m.low else {})
        for m in report.metrics
    }
    said = [one.captions()[:2] for one in scenes]
    X = square_vectors(vectors, [one.image for one in scenes if one.image is not None])
    T, W = vectors.texts([a for a, _ in said]), vectors.texts([b for _, b in said])
    u = uniform(7, [one.key for one in scenes])
    test, val, learn = u < 0.2, (u >= 0.2) & (u < 0.35), u >= 0.35
    # each caption once, so that the right one is the only right one
    firsts = np.unique([a for (a, _), t in zip(said, test, strict=True) if t], return_index=True)[1]
    one_each = np.flatnonzero(test)[firsts]
    plain = LABCLIP(epochs=0).fit(X, T)
    figures["held_out"] = {"scenes": int(test.sum()), "learnt_from": int(learn.sum()), "recall_rows": len(one_each)}
    for name, negatives in (("clip", None), ("swapped_negatives", W), ("other_rows_only", None)):
        scores, found, gaps, rates = list[float](), list[float](), list[float](), list[float]()
        for seed in SEEDS if name != "clip" else (0,):
            made, held = plain, (X[val], T[val], W[val])
            if name != "clip":
                wrong = None if negatives is None else negatives[learn]
                tried = [
                    LABCLIP(lr=lr, epochs=100, seed=seed).fit(
                        X[learn], T[learn], wrong, clip_scale=vectors.scale, validation=held
                    )
                    for lr in RATES
                ]
                made = max(tried, key=lambda one: one.score(*held))
                rates.append(made.lr)
            scores.append(made.score(X[test], T[test], W[test]))
            found.append(recall(X[one_each], made.transform(T[one_each])))
            gaps.append(float(gap(X[test], made.transform(T[test]))))
        figures["held_out"][name] = {
            "cross_accuracy": round(float(np.mean(scores)), 4),
            "seeds": [round(v, 4) for v in scores],
            "rates": rates,
            "recall_at_1": round(float(np.mean(found)), 4),
            "modality_gap": round(float(np.mean(gaps)), 4),
        }
    print(figures, flush=True)
    return figures


def main() -> None:
    """Measure and record."""
    torch.set_num_threads(1)
    two = {"objects": (2, 2), "alike": 0.0, "textures": ("plain",), "sizes": ("medium", "large"), "split": "test"}
    figures = {
        "pocket": study(Encoder("pocket", threads=1), SceneSpec(size=128, **two)),
        "scene_clip": study(scene_clip(), SceneSpec(size=32, **two)),
    }
    record(
        "evaluate_labclip",
        figures,
        wanted="image probe over the bag ceiling by 10 points while cross accuracy < 65 %; + 10 points by LABCLIP on "
        "held-out combinations; recall at 1 drops by at most 2 points; other rows alone gain less than a third of it",
        seed=0,
        data="scenes of two objects, split test, that share neither colour nor shape; 2,000 each, 128 and 32 pixels",
        notes=f"scene_clip: {HOW}, which was taught these captions. LABCLIP with 100 epochs of 3 steps; learning rate "
        "(1e-3, 3e-3 or 1e-2) and epoch with the best strict accuracy on validation combinations; scale of the model. "
        "Recall at 1 among held-out captions, each once, mean of both directions",
        methods=("labclip",),
    )


if __name__ == "__main__":
    main()
