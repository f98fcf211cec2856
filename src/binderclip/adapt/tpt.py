"""TPT: Test-Time Prompt Tuning for zero-shot generalisation (Shu et al. 2022, arXiv 2209.07511).

The prompt is tuned on the one unlabelled picture that is to be classified, until the views of it that are sure agree; then
everything is as before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from binderclip.adapt.augmix import augmix
from binderclip.adapt.confidence import marginal_entropy, restored, select_confident
from binderclip.adapt.coop import CoOp
from binderclip.adapt.parts import PHOTO, Ints
from binderclip.adapt.pixels import PixelAdapter, content_key, draw_view
from binderclip.adapt.prompts import PromptLearner, at_rest, clip_of
from binderclip.cards import Card
from binderclip.data.hashing import Draws
from binderclip.data.media import open_image
from binderclip.data.transforms import Augment
from binderclip.errors import InputError

__all__ = ["TPT"]

CARD = Card(
    slug="tpt",
    name="TPT",
    title="Test-Time Prompt Tuning for Zero-Shot Generalization in Vision-Language Models",
    arxiv="2209.07511",
    year=2022,
    room="adapt",
    provides="TPT",
    kind="Adapter",
    verb="predict",
    needs=("stream", "text.prompts"),
    claim="average of four shifted ImageNets 60.81, 3.6 over CLIP with a single prompt",
    must_show={
        "steps=0 equals zero-shot with the same prompt (1e-5)": "tests/adapt/test_tpt.py::test_no_step_is_zero_shot",
        "identical views, selection=1: the objective is the entropy of the one prediction": (
            "tests/adapt/test_tpt.py::test_identical_views"
        ),
        "a step lowers it on at least 95 % of pictures at lr 5e-3": "bench:adapt_tpt",
        "marginal_entropy is -sum p log p (1e-6); of one-hot views, the entropy of their histogram": (
            "tests/adapt/test_tpt.py::test_marginal_entropy"
        ),
        "predictions independent of the order of images, bit for bit": "tests/adapt/test_tpt.py::test_reset",
        "gradients: only ctx; the image tower has no graph": "tests/adapt/test_tpt.py::test_only_the_context",
        "exactly 6 views kept of 64, those of lowest entropy": "tests/adapt/test_tpt.py::test_confident_views",
        "shifted CIFAR-10, 300 images: >= zero-shot - 0.3 everywhere": (
            "missed:adapt_tpt: on pocket-vit at worst - 0.67 points, two pictures of 300 (a third of the light, 31.3 %)"
        ),
        "shifted CIFAR-10: > zero-shot on the mean of four shifts": (
            "missed:adapt_tpt: 40.67 against 40.75 %: one picture of 1,200; a step changes few answers at lr 5e-3"
        ),
        "shifted CIFAR-10: > the mean of the 64 views' logits on at least half of the shifts": "bench:adapt_tpt",
        "cost note: one text forward and backward of C prompts per image": "tests/adapt/test_tpt.py::test_command",
    },
)


class TPT(PixelAdapter):
    """One step of AdamW on ctx [M, E] lowers ``H(mean_i softmax(s f_i W'^T))`` over the surest views f_i of one picture.

    View 0 is the picture as the model crops it, and what the tuned prompt then classifies. Context and optimiser start
    anew for each picture; what is drawn is a function of (seed, content of the picture), so that order has no effect.

    Args:
        encoder: see `Adapter`; it needs towers in torch.
        classes: see `Adapter`.
        templates: without effect.
        seed: of the views.
        ctx_init: words that the context starts from, unless `fit` is given a `CoOp`; "" with one that has none.
        n_views: views of a picture, the first its centre.
        selection: share of the views that is kept.
        steps: of AdamW; the kept views are chosen before the first.
        lr: of AdamW.
        weight_decay: of AdamW.
        augmix: AugMix on the random crops, for fine-grained classes.
        class_chunk: sentences at a time, for many classes in little memory; None takes all.
    """

    takes = "stream"
    learned = ("ctx_",)
    view = Augment(scale=(0.08, 1.0), flip=0.5, interpolation="bilinear")
    ctx_: Any

    def __init__(
        self,
        encoder: Any,
        classes: Sequence[str],
        *,
        templates: str | Sequence[str] = PHOTO,
        seed: int = 0,
        ctx_init: str = "a photo of a",
        n_views: int = 64,
        selection: float = 0.1,
        steps: int = 1,
        lr: float = 5e-3,
        weight_decay: float = 0.01,
        augmix: bool = False,
        class_chunk: int | None = None,
    ) -> None:
        super().__init__(encoder, classes, templates=templates, seed=seed)
        self.ctx_init, self.n_views, self.selection, self.steps = ctx_init, n_views, selection, steps
        self.lr, self.weight_decay, self.augmix, self.class_chunk = lr, weight_decay, augmix, class_chunk

    def fit(
        self, X: Any = None, y: Any = None, *, X_unlabelled: Any = None, X_val: Any = None, y_val: Any = None
    ) -> Self:
        """Nothing is learnt before the picture comes.

        Args:
            X: a fitted `CoOp` whose context is the start, or None.
            y: without effect.
            X_unlabelled: without effect.
            X_val: without effect.
            y_val: without effect.

        Raises:
            InputError: something to learn from, or a CoOp of another sentence.
        """
        if X is not None and not isinstance(X, CoOp):
            raise InputError("TPT learns from each picture as it comes: call fit() with nothing, or with a fitted CoOp")
        if not (self.n_views >= 1 and self.steps >= 0 and self.lr > 0 and 0 < self.selection <= 1):
            raise InputError("TPT needs n_views from 1, steps from 0, lr above 0, and selection above 0 and at most 1")
        self.hyper_, self.history_ = {}, []
        self._begin()
        if X is None:
            self.ctx_ = PromptLearner(clip_of(self.encoder), self.classes, n_ctx=None, init=self.ctx_init).ctx.detach()
            self.ctx_ = self.ctx_.cpu().numpy()
        else:
            if X.position != "end" or X.class_specific or X.ctx_init != self.ctx_init or not hasattr(X, "ctx_"):
                raise InputError(
                    f"TPT starts from a fitted CoOp with one context at the end and ctx_init {self.ctx_init!r}"
                )
            self.ctx_ = X.ctx_.copy()
        self._settle()
        return self

    def _fit_pictures(self, sources: Sequence[Any], keys: Sequence[str], y: Ints) -> None:
        raise NotImplementedError  # `fit` takes no pictures

    def _settle(self) -> None:
        """The sentences and the class vectors of the start."""
        clip = clip_of(self.encoder)
        self._learner = PromptLearner(clip, self.classes, n_ctx=len(self.ctx_), init=self.ctx_init)
        start = torch.from_numpy(self.ctx_)
        if start.shape != self._learner.ctx.shape:
            raise InputError(f"the context is {tuple(start.shape)} where {tuple(self._learner.ctx.shape)} is expected")
        with torch.no_grad(), at_rest(clip):
            self._learner.ctx.copy_(start)
            self.W_ = self._learner.features(chunk=self.class_chunk).double().cpu().numpy()

    @property
    def cost(self) -> str:
        """What a picture costs, in words."""
        return (
            f"each picture costs {self.n_views} views of it, and for {self.steps} step{'s' * (self.steps != 1)} one text "
            f"forward and backward each of {len(self.classes)} prompts"
        )

    def views_of(self, image: Image.Image) -> Tensor:
        """Normalised pixels ``[V, 3, H, W]`` of a picture: its centre, then random crops."""
        prepare, key = self._prepare, content_key(image)
        made = [prepare.normalize(prepare(image)[None])[0]]
        for i in range(1, self.n_views if self.steps else 1):
            draws = Draws(self.seed, f"tpt/{key}/{i}")
            crop = draw_view(image, self.view, draws, prepare.size, prepare.interpolation)
            mixed = augmix(crop, draws.at("augmix"), prepare) if self.augmix else prepare.normalize(crop[None])[0]
            made.append(mixed)
        clip = clip_of(self.encoder)
        return torch.from_numpy(np.stack(made)).to(clip.device, clip.logit_scale.dtype)

    def _tune(self, f: Tensor) -> list[float]:
        """Move the context for the unit features ``[V, D]`` of one picture's views; the objective before each step."""
        learner, chosen, found = self._learner, None, []
        optimizer = torch.optim.AdamW([learner.ctx], lr=self.lr, weight_decay=self.weight_decay)
        for _ in range(self.steps):
            z = self.scale_ * f @ learner.features(chunk=self.class_chunk).T  # [V, C]
            chosen = select_confident(z, self.selection) if chosen is None else chosen
            loss = marginal_entropy(z[chosen])
            learner.ctx.grad = torch.autograd.grad(loss, learner.ctx)[0]
            optimizer.step()
            found.append(float(loss.detach()))
        return found

    def _one(self, image: Image.Image) -> tuple[Tensor, Tensor]:
        """Logits ``[C]`` of a picture and the context that gave them; everything is as before afterwards."""
        with at_rest(clip_of(self.encoder)) as clip, restored([self._learner.ctx]):
            with torch.no_grad():
                f = clip.encode_image(self.views_of(image)).float()
            with torch.enable_grad():
                self._tune(f)
            with torch.no_grad():
                W = self._learner.features(chunk=self.class_chunk)
            return self.scale_ * f[0] @ W.T, self._learner.ctx.detach().clone()

    def _answer(self, images: Sequence[Image.Image]) -> NDArray[Any]:
        return np.stack([self._one(image)[0].cpu().numpy() for image in images])

    def _pixel_logits(self, pixels: Tensor) -> Tensor:
        raise NotImplementedError  # pictures are looked at one by one, as pictures

    def adapt(self, image: Any) -> NDArray[np.float32]:
        """The context ``[M, E]`` tuned on a picture (path, file content or Pillow image).

        Raises:
            InputError: `fit` was not called.
            MediaError: it cannot be decoded.
        """
        if not hasattr(self, "W_"):
            raise InputError("this TPT is not ready yet: call fit first")
        made: NDArray[np.float32] = self._one(open_image(image, min_side=self._min_side).image)[1].cpu().numpy()
        return made

    def load_state_dict(self, state: Mapping[str, Any]) -> Self:
        """Take over the start that `state_dict` gave.

        Raises:
            InputError: it is missing, not finite, or of another shape.
        """
        super().load_state_dict(state)
        self._settle()
        return self

    def for_classes(self, names: Sequence[str]) -> TPT:
        """The same start around other names."""
        if not hasattr(self, "ctx_"):
            raise InputError("this TPT is not ready yet: call fit first")
        return self.clone().set_params(classes=names).load_state_dict(self.state_dict())
