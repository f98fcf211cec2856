"""CLIP-KD: an empirical study of distilling CLIP models (Yang et al. 2023, arXiv 2307.12732)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from binderclip.cards import Card
from binderclip.data.pairs import Pair
from binderclip.data.transforms import View
from binderclip.errors import InputError
from binderclip.losses import gather_rows, info_nce, kl_distill, mse_distill
from binderclip.model.clip import CLIP
from binderclip.train.base import Features, Loss, Objective, TrainBatch
from binderclip.train.parts.dropping import drop_tokens
from binderclip.train.parts.frozen_teacher import FrozenTeacher
from binderclip.train.parts.sites import with_site

__all__ = ["CLIPKD", "contrast_gradients", "gradient_distill", "one_way"]

CARD = Card(
    slug="clip_kd",
    name="CLIP-KD",
    title="CLIP-KD: An Empirical Study of CLIP Model Distillation",
    arxiv="2307.12732",
    year=2023,
    room="compress",
    provides="CLIPKD",
    kind="Objective",
    files=("train/parts/frozen_teacher.py",),
    claim="better: ViT-T/16 ImageNet zero-shot 30.6 -> 34.9",
    must_show={
        "GD's closed form equals autograd; 0 when student = teacher": "tests/train/test_clip_kd.py::test_gd_is_autograd",
        "student = teacher: CRD = 0, FD = 0, ICL = task": "tests/train/test_clip_kd.py::test_a_student_like_its_teacher",
        "teacher without gradient; FD = mean of (2 - 2 cos)/D": "tests/train/test_clip_kd.py::test_the_teacher_stays",
        "FD on kept vectors equals FD live; stale ones refused": "tests/train/test_clip_kd.py::test_kept_vectors",
        "CIFAR-100 held out: FD over task by 2 points (target)": (
            "missed:train_clip_kd: 9.6 % against 12.0 %, 3 seeds; a student of width 32 after 400 steps"
        ),
        "unified not under FD by 0.5 points (target)": "bench:train_clip_kd",
        "student-teacher cosine over 0.8 after FD (target)": (
            "missed:train_clip_kd: images 0.40, texts 0.80; the student of width 32 sees 16 patches and 400 steps"
        ),
        "the export holds neither P nor teacher": "tests/train/test_clip_kd.py::test_export_is_the_bare_student",
    },
)


class CLIPKD(Objective):
    """``L = task + crd CRD + icl ICL + fd FD`` (+ gd GD + afd AFD); the unified method is the default.

    ``v, t``: student's unit vectors, ``v^T, t^T``: teacher's, ``s, s_T``: scales; ``v', t'``: where the widths d and D
    differ, the student's raw features through a linear map d -> D, normalised, else ``v, t``. All over the gathered batch.

    - task: ``clip_loss(v, t, s)``
    - CRD: ``[KL(softmax(s_T v^T t^T') || softmax(s v t')) + the same of text rows] / 2``
    - FD: ``mse(v', v^T) + mse(t', t^T)``, element mean; its weight is for D = 512 and taken times D / 512
    - GD: mean squared difference of InfoNCE's gradients, see `gradient_distill`; weight times ``(N / 1024)^2 D / 512``
    - ICL: ``[CE(c v' t^T', diag) + CE(c t' v^T', diag)] / 2``, own scale c
    - AFD: ``clip_loss(norm(W_v [v'; v^T]), norm(W_t [t'; t^T]), own scale)``

    The teacher sees the student's pixels at its own size (``binderclip.train.parts.frozen_teacher``).

    Args:
        teacher: name or path of a model, or a CLIP.
        task: weight.
        crd: weight.
        icl: weight.
        fd: weight.
        gd: weight; about 1e6 for the true form, 1e8 for the reference's.
        gd_form: "true", or "reference", which divides by s where the gradient multiplies.
        afd: weight.
        mask: share of the student's patches that are dropped (MFD; 0.75 in the paper); the teacher sees all.
        raw_scale: multiply ICL's and AFD's logits by the parameter itself, ln(1/0.07) at first, as the reference does,
            and not by its exponential.
        teacher_size: side in pixels at which the teacher looks; None takes its own.
        cache: folder of the teacher's vectors, made when missing; needs views that come again.

    Raises:
        InputError: a share or form that there is not.
    """

    clamp = (1.0, 100.0)

    def __init__(
        self,
        teacher: str | Path | CLIP = "pocket",
        task: float = 1.0,
        crd: float = 1.0,
        icl: float = 1.0,
        fd: float = 2000.0,
        gd: float = 0.0,
        gd_form: str = "true",
        afd: float = 0.0,
        mask: float = 0.0,
        raw_scale: bool = False,
        teacher_size: int | None = None,
        cache: str | Path | None = None,
    ) -> None:
        super().__init__()
        if gd_form not in ("true", "reference") or not 0 <= mask < 1:
            raise InputError(
                f"gd_form is {gd_form!r}, mask {mask}: use true or reference, and a share from 0 to below 1"
            )
        self.weights = {"task": task, "crd": crd, "icl": icl, "fd": fd, "gd": gd, "afd": afd}
        self.gd_form, self.mask, self.raw_scale = gd_form, mask, raw_scale
        self.teacher = FrozenTeacher(teacher, size=teacher_size, cache=cache)
        self.draws = mask > 0

    def setup(self, clip: CLIP, recipe: Mapping[str, Any]) -> None:
        """The teacher, and what bridges to it."""
        self.teacher.prepare(clip, recipe)
        d, D = clip.embed_dim, self.teacher.embed_dim
        w = self.weights
        if d != D and (w["icl"] or w["fd"] or w["gd"] or w["afd"]):
            self.P_v, self.P_t = nn.Linear(d, D), nn.Linear(d, D)
        if w["icl"]:
            self.icl_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        if w["afd"]:
            self.W_v, self.W_t = nn.Linear(2 * D, d), nn.Linear(2 * D, d)
            self.afd_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.to(clip.device)

    def fields(self, pair: Pair, epoch: int, views: tuple[View, ...]) -> Mapping[str, NDArray[Any]]:
        """The teacher's kept vector of the view."""
        return self.teacher.fields(pair, epoch)

    def encode(self, clip: CLIP, batch: TrainBatch) -> Features:
        """The student's raw features ``[N, d]`` and the teacher's unit vectors ``[N, D]``."""
        hidden = self.mask and self.training
        seen = with_site(batch, "embed.out", drop_tokens(1 - self.mask)) if hidden else batch
        image = clip.encode("image", seen.views[0], seen.image_at).pooled
        kept = batch.fields.get("teacher_image")
        return {
            "image": image,
            "text": clip.encode_text((batch.ids[0], batch.eos[0]), normalize=False),
            "teacher_image": self.teacher.image(batch.views[0]) if kept is None else kept.to(image.dtype),
            "teacher_text": self.teacher.text([texts[0] for texts in batch.texts], image),
        }

    def loss(self, clip: CLIP, features: Features, batch: TrainBatch, step: int, total: int) -> Loss:
        """Every part with a weight."""
        v, t = (F.normalize(features[side], dim=-1) for side in ("image", "text"))
        v_T, t_T = (features[f"teacher_{side}"].detach() for side in ("image", "text"))
        v_, t_ = v, t
        if hasattr(self, "P_v"):
            v_, t_ = F.normalize(self.P_v(features["image"]), dim=-1), F.normalize(self.P_t(features["text"]), dim=-1)
        s, s_T, D = clip.scale, self.teacher.scale, v_T.shape[1]
        made: dict[str, Callable[[], Tensor]] = {
            "task": lambda: info_nce(v, t, s),
            "crd": lambda: (_relation(v, t, v_T, t_T, s, s_T) + _relation(t, v, t_T, v_T, s, s_T)) / 2,
            "icl": lambda: self._icl(v_, t_, v_T, t_T),
            "fd": lambda: mse_distill(v_, v_T) + mse_distill(t_, t_T),
            "gd": lambda: self._gd(v_, t_, v_T, t_T, s),
            "afd": lambda: self._afd(v_, t_, v_T, t_T),
        }
        N = len(gather_rows(v_T))
        by = {"fd": D / 512, "gd": (N / 1024) ** 2 * D / 512}
        parts = {name: part() for name, part in made.items() if self.weights[name]}
        weighted = [self.weights[name] * by.get(name, 1.0) * part for name, part in parts.items()]
        return Loss(torch.stack(weighted).sum(), parts)

    def _gd(self, v: Tensor, t: Tensor, v_T: Tensor, t_T: Tensor, s: Tensor) -> Tensor:
        v, t, v_T, t_T = (gather_rows(rows) for rows in (v, t, v_T, t_T))  # the keys' gradients need all anchors
        return gradient_distill(v, t, v_T, t_T, s, self.teacher.scale, self.gd_form)

    def _icl(self, v: Tensor, t: Tensor, v_T: Tensor, t_T: Tensor) -> Tensor:
        c = self.icl_scale if self.raw_scale else self.icl_scale.exp()
        return (one_way(v, t_T, c) + one_way(t, v_T, c)) / 2

    def _afd(self, v: Tensor, t: Tensor, v_T: Tensor, t_T: Tensor) -> Tensor:
        c = self.afd_scale if self.raw_scale else self.afd_scale.exp()
        return info_nce(
            F.normalize(self.W_v(torch.cat([v, v_T], dim=1)), dim=-1),
            F.normalize(self.W_t(torch.cat([t, t_T], dim=1)), dim=-1),
            c,
        )

    def after_step(self, clip: CLIP, step: int, total: int) -> None:
        """All scales are clamped alike."""
        super().after_step(clip, step, total)
        with torch.no_grad():
            for name in ("icl_scale", "afd_scale"):
                if hasattr(self, name) and not self.raw_scale:
                    getattr(self, name).clamp_(0.0, math.log(100.0))


def one_way(a: Tensor, b: Tensor, scale: Tensor | float) -> Tensor:
    """``CE(s a b', diag)`` over the rows ``[N, D]`` of ``a``; all processes' rows of ``b`` are compared with."""
    keys = gather_rows(b)
    offset = dist.get_rank() * len(a) if len(keys) != len(b) else 0
    return F.cross_entropy(scale * a @ keys.T, torch.arange(offset, offset + len(a), device=a.device))


def _relation(a: Tensor, b: Tensor, a_T: Tensor, b_T: Tensor, s: Tensor, s_T: float) -> Tensor:
    """``KL(softmax(s_T a^T b^T') || softmax(s a b'))``, mean over the rows of ``a``."""
    return kl_distill(s * a @ gather_rows(b).T, s_T * a_T @ gather_rows(b_T).T)


def contrast_gradients(p: Tensor, k: Tensor, s: Tensor | float, form: str = "true") -> tuple[Tensor, Tensor]:
    """Gradients of ``CE(s p k', diag)`` in anchors p and keys k, both ``[N, D]``, in closed form.

    ``dL/dp = (P - Y) k s / N`` and ``dL/dk = (P - Y)' p s / N`` with ``P = softmax(s p k')``, Y the identity; the form
    "reference" takes ``1 / s`` for s in both places.
    """
    factor = s if form == "true" else 1 / s
    P = (factor * p @ k.T).softmax(-1)  # [N, N]
    error = (P - torch.eye(len(p), dtype=P.dtype, device=P.device)) * factor / len(p)
    return error @ k, error.T @ p


def gradient_distill(
    v: Tensor, t: Tensor, v_T: Tensor, t_T: Tensor, s: Tensor | float, s_T: float, form: str = "true"
) -> Tensor:
    """GD: mean squared difference of student's and teacher's gradients, summed over both directions' anchors and keys."""
    total = v.new_zeros(())
    for a, b, a_T, b_T in ((v, t, v_T, t_T), (t, v, t_T, v_T)):
        for own, wanted in zip(contrast_gradients(a, b, s, form), contrast_gradients(a_T, b_T, s_T, form), strict=True):
            total = total + mse_distill(own, wanted)
    return total
