"""Multi-modal reinforced training of MobileCLIP (Vasu et al. 2023, arXiv 2311.17049): stored teachers, stored captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from binderclip.cards import Card
from binderclip.data.hashing import Draws
from binderclip.data.pairs import Pair
from binderclip.data.transforms import View
from binderclip.errors import InputError
from binderclip.losses import gather_rows, info_nce, soft_cross_entropy
from binderclip.model.clip import CLIP
from binderclip.train.base import Features, Loss, Objective, TrainBatch
from binderclip.train.parts.frozen_teacher import FrozenTeacher

__all__ = ["DRObjective", "ensemble_distill"]

CARD = Card(
    slug="reinforced",
    name="Multi-modal reinforced training",
    title="MobileCLIP: Fast Image-Text Models through Multi-Modal Reinforced Training",
    arxiv="2311.17049",
    year=2023,
    room="train",
    provides="DRObjective",
    kind="Objective",
    baseline=True,
    files=("train/parts/frozen_teacher.py",),
    claim="better: 10 to 1000 times fewer samples",
    must_show={
        "Dist is KL plus the teacher's entropy": "tests/train/test_reinforced.py::test_dist_is_kl_plus_entropy",
        "no gradient where the affinities are the teacher's": "tests/train/test_reinforced.py::test_zero_at_the_teacher",
        "teachers are averaged after the softmax": "tests/train/test_reinforced.py::test_average_after_the_softmax",
        "views replayed are bit-identical": "tests/train/test_reinforced.py::test_replayed_views",
    },
)


class DRObjective(Objective):
    """``L = sum over the real and the synthetic caption of lam0 CE2(s v t') + lam1 Dist``.

    ``Dist = [H(q_i2t, p_i2t) + H(q_t2i, p_t2i)] / 2`` with ``H(q, p) = - sum_j q log p``, mean over rows; the student's
    ``p = softmax(s v t')`` has its own scale, the teachers' ``q = mean_k softmax(tau V_k T_k')`` are averaged behind the
    softmax. The two captions' losses are summed. Views come again every ``data.cycle`` epochs (30 or 10 in the paper),
    so that with a cache the teachers look at each view once; without one they run beside the student.

    Args:
        teachers: names or paths of models, or CLIPs; the paper takes two ViT-L/14.
        teacher_scale: ``tau``.
        weights: ``(lam0, lam1)``; (0, 1) in the paper's 12M runs.
        captions: "real", a row's first caption; or "real+synthetic", with one of the others beside, drawn anew each epoch.
        teacher_size: side in pixels at which teachers look; None takes their own.
        cache: folder of the teachers' vectors, made when missing; needs views that come again.

    Raises:
        InputError: no teacher, or an unknown choice of captions.
    """

    def __init__(
        self,
        teachers: str | CLIP | Sequence[str | Path | CLIP] = ("ViT-L-14", "ViT-L-14/datacomp_xl_s13b_b90k"),
        teacher_scale: float = 100.0,
        weights: Sequence[float] = (0.0, 1.0),
        captions: str = "real",
        teacher_size: int | None = None,
        cache: str | Path | None = None,
    ) -> None:
        super().__init__()
        named = [teachers] if isinstance(teachers, str | CLIP) else list(teachers)
        if not named or captions not in ("real", "real+synthetic") or len(weights) != 2:
            raise InputError(
                f"{len(named)} teachers, captions {captions!r}, {len(weights)} weights: give a teacher, real or "
                "real+synthetic, and two weights"
            )
        self.teacher_scale, self.weights, self.synthetic = teacher_scale, tuple(weights), captions != "real"
        self.teachers = [
            FrozenTeacher(name, size=teacher_size, cache=None if cache is None else Path(cache) / str(k))
            for k, name in enumerate(named)
        ]

    def texts(self, pair: Pair, draws: Draws, caption: str) -> tuple[str, ...]:
        """The real caption, and perhaps a synthetic one.

        Raises:
            InputError: a row without synthetic captions where they are asked for; it is counted and passed over.
        """
        if not self.synthetic:
            return (pair.caption,)
        if len(pair.captions) < 2:
            raise InputError("a row has no synthetic caption")
        return pair.caption, draws.choice("synthetic", pair.captions[1:])

    def setup(self, clip: CLIP, recipe: Mapping[str, Any]) -> None:
        """The teachers."""
        for teacher in self.teachers:
            teacher.prepare(clip, recipe)

    def fields(self, pair: Pair, epoch: int, views: tuple[View, ...]) -> Mapping[str, NDArray[Any]]:
        """The teachers' kept vectors of the view."""
        found: dict[str, NDArray[Any]] = {}
        for k, teacher in enumerate(self.teachers):
            found |= teacher.fields(pair, epoch, f"V{k}")
        return found

    def encode(self, clip: CLIP, batch: TrainBatch) -> Features:
        """Unit features: ``image``, ``text0`` (and ``text1``); of teacher k ``V{k}``, ``T{k}0`` (and ``T{k}1``)."""
        image = F.normalize(clip.encode("image", batch.views[0], batch.image_at).pooled, dim=-1)
        features = {"image": image}
        for j, tokens in enumerate(zip(batch.ids, batch.eos, strict=True)):
            features[f"text{j}"] = clip.encode_text(tokens)
        for k, teacher in enumerate(self.teachers):
            kept = batch.fields.get(f"V{k}")
            features[f"V{k}"] = teacher.image(batch.views[0]) if kept is None else kept.to(image.dtype)
            for j in range(len(batch.ids)):
                features[f"T{k}{j}"] = teacher.text([texts[j] for texts in batch.texts], image)
        return features

    def loss(self, clip: CLIP, features: Features, batch: TrainBatch, step: int, total: int) -> Loss:
        """Both terms of each caption, summed over the captions."""
        v, s, (lam0, lam1) = features["image"], clip.scale, self.weights
        parts: dict[str, Tensor] = {}
        value = v.new_zeros(())
        for j, name in enumerate(("real", "synthetic")[: 1 + self.synthetic]):
            t = features[f"text{j}"]
            if lam0:
                parts[f"contrastive_{name}"] = info_nce(v, t, s)
                value = value + lam0 * parts[f"contrastive_{name}"]
            if lam1:
                pairs = [(features[f"V{k}"].detach(), features[f"T{k}{j}"].detach()) for k in range(len(self.teachers))]
                parts[f"distill_{name}"] = ensemble_distill(v, t, s, pairs, self.teacher_scale)
                value = value + lam1 * parts[f"distill_{name}"]
        return Loss(value, parts)


def ensemble_distill(
    v: Tensor, t: Tensor, s: Tensor | float, teachers: Sequence[tuple[Tensor, Tensor]], tau: float = 100.0
) -> Tensor:
    """``[H(q_i2t, p_i2t) + H(q_t2i, p_t2i)] / 2`` against the mean of the teachers' softmax rows.

    Args:
        v: student's unit rows of images ``[N, D]``.
        t: of texts.
        s: student's scale.
        teachers: ``(V_k, T_k)``, unit rows ``[N, D_k]`` each.
        tau: teachers' scale.
    """

    def direction(a: Tensor, b: Tensor, sides: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        q = torch.stack([(tau * A @ gather_rows(B).T).softmax(-1) for A, B in sides]).mean(0)  # [N, M]
        return soft_cross_entropy(s * a @ gather_rows(b).T, q)

    return (direction(v, t, teachers) + direction(t, v, [(T, V) for V, T in teachers])) / 2
