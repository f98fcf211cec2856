"""CoOp, Learning to Prompt for Vision-Language Models (Zhou et al. 2022, arXiv 2109.01134).

The words around a class name are vectors that are learnt; pictures are encoded once, and the gradient runs through the
frozen text tower alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F

from binderclip.adapt.base import Adapter, Few
from binderclip.adapt.parts import PHOTO, Floats, unit, zero_shot_logits
from binderclip.adapt.prompt_trainer import VIEW, Schedule, content_keys, train_prompts
from binderclip.adapt.prompts import PromptLearner, at_rest, clip_of
from binderclip.cards import Card
from binderclip.errors import InputError

__all__ = ["CoOp"]

CARD = Card(
    slug="coop",
    name="CoOp",
    title="Learning to Prompt for Vision-Language Models",
    arxiv="2109.01134",
    year=2022,
    room="adapt",
    provides="CoOp",
    kind="Adapter",
    verb="fit",
    needs=("embeddings", "text.prompts"),
    baseline=True,
    must_show={
        "untrained, with words to start from, it is zero-shot": "tests/adapt/test_coop.py::test_untrained_is_zero_shot",
        "training is SGD by hand, one context for all classes": "tests/adapt/test_coop.py::test_one_step_by_hand",
        "only the context trains: no weight of the model moves": "tests/adapt/test_coop.py::test_the_model_stays",
        "no picture is encoded again": "tests/adapt/test_coop.py::test_pictures_are_encoded_once",
    },
)


class CoOp(Adapter):
    """``z = s f W'^T``, ``w'_c`` the unit text feature of ``ctx_1 ... ctx_M name_c .``; only ctx [M, E] is learnt.

    Cross-entropy, SGD, by `Schedule`. Of views, epoch e takes number e mod V. The last epoch is the result: pictures for
    validation are not looked at.

    Args:
        encoder: see `Adapter`; it needs a text tower in torch.
        classes: see `Adapter`.
        templates: without effect on what is learnt.
        seed: of the start, the batches and the views.
        n_ctx: M, where `ctx_init` names no words.
        ctx_init: words to start from, as "a photo of a"; M is how many tokens they are.
        position: of the context: "end", "middle" or "front" (`PromptLearner`).
        class_specific: a context for each class; other classes can then not be named.
        lr: of SGD.
        epochs: None takes 50 for one shot a class, 100 for up to 4, 200 for more.
        batch_size: of the rows.
        warmup_epochs: at a rate of 1e-5.
        n_views: random views of a picture where pictures are encoded; 1 for the picture as the model crops it.
        class_chunk: sentences at a time, for many classes in little memory; None takes all.

    Example:
        >>> from binderclip import Encoder
        >>> f = np.eye(4, 384, dtype=np.float32)
        >>> coop = CoOp(Encoder("pocket"), ["cat", "dog"], n_ctx=2, epochs=2).fit(f, [0, 0, 1, 1])
        >>> coop.for_classes(["horse", "cow", "sheep"]).decision_function(f).shape
        (4, 3)
    """

    learned = ("ctx_",)
    validates = False
    view = VIEW
    ctx_: Any

    def __init__(
        self,
        encoder: Any,
        classes: Sequence[str],
        *,
        templates: str | Sequence[str] = PHOTO,
        seed: int = 0,
        n_ctx: int = 16,
        ctx_init: str = "",
        position: str = "end",
        class_specific: bool = False,
        lr: float = 2e-3,
        epochs: int | None = None,
        batch_size: int = 32,
        warmup_epochs: int = 1,
        n_views: int = 10,
        class_chunk: int | None = None,
    ) -> None:
        super().__init__(encoder, classes, templates=templates, seed=seed)
        self.n_ctx, self.ctx_init, self.position, self.class_specific = n_ctx, ctx_init, position, class_specific
        self.lr, self.epochs, self.batch_size, self.warmup_epochs = lr, epochs, batch_size, warmup_epochs
        self.n_views, self.class_chunk = n_views, class_chunk

    def _fit(self, few: Few) -> None:
        X, y = few.labelled()
        if few.U is not None:
            raise InputError("CoOp learns from labelled pictures: give X and y alone")
        epochs = self.epochs or _epochs(int(np.bincount(y).max()))
        schedule = Schedule(self.lr, epochs, self.batch_size, self.warmup_epochs)
        clip, learner = clip_of(self.encoder), self._learner()
        f = torch.from_numpy(unit(X)).float().to(clip.device)  # [N, V, D]
        marks = torch.from_numpy(y).to(clip.device)

        def loss(rows: torch.Tensor, epoch: int) -> torch.Tensor:
            W = learner.features(chunk=self.class_chunk)  # [C, D]
            return F.cross_entropy(self.scale_ * f[rows, epoch % f.shape[1]] @ W.T, marks[rows])

        keys = content_keys(unit(X).reshape(len(X), -1))
        parameters = list(learner.parameters())
        with at_rest(clip):
            self.history_ = train_prompts(
                parameters, keys, loss, schedule, seed=self.seed, on_progress=self.on_progress
            )
        self.ctx_ = learner.ctx.detach().cpu().numpy()
        self.hyper_ = {"epochs": epochs, "n_ctx": learner.n_ctx}
        self._settle(learner)

    def _learner(self) -> PromptLearner:
        """With its start values."""
        return PromptLearner(
            clip_of(self.encoder),
            self.classes,
            n_ctx=None if self.ctx_init else self.n_ctx,
            init=self.ctx_init,
            position=self.position,
            class_specific=self.class_specific,
            seed=self.seed,
        )

    def _settle(self, learner: PromptLearner) -> None:
        """Class vectors of the context."""
        with torch.no_grad(), at_rest(clip_of(self.encoder)):
            self.W_ = learner.features(chunk=self.class_chunk).double().cpu().numpy()

    def _logits(self, f: Floats) -> Floats:
        return zero_shot_logits(f, self.W_, self.scale_)

    def load_state_dict(self, state: Mapping[str, Any]) -> Self:
        """Take over what `state_dict` gave; the class vectors are made from the names again.

        Raises:
            InputError: the context is missing, not finite, or of another shape.
        """
        super().load_state_dict(state)
        learner = self._learner()
        if learner.ctx.shape != self.ctx_.shape:
            raise InputError(f"the context is {self.ctx_.shape} where {tuple(learner.ctx.shape)} is expected")
        with torch.no_grad():
            learner.ctx.copy_(torch.from_numpy(self.ctx_))
        self._settle(learner)
        return self

    def for_classes(self, names: Sequence[str]) -> CoOp:
        """The same context around other names.

        Raises:
            NotOpenVocabularyError: each class has a context of its own.
        """
        if self.class_specific:
            super().for_classes(names)
        if not hasattr(self, "ctx_"):
            raise InputError("this CoOp has learnt nothing yet: call fit first")
        made = self.clone().set_params(classes=names).load_state_dict(self.state_dict())
        made.hyper_ = dict(self.hyper_)
        return made


def _epochs(shots: int) -> int:
    return 50 if shots <= 1 else 100 if shots <= 4 else 200
