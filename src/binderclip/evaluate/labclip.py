"""LABCLIP: CLIP is a bag of words across modalities but not within one (Koishigarina et al. 2025, arXiv 2502.03566).

"A red cube and a blue sphere" and "a blue cube and a red sphere" look alike to CLIP. Linear probes show that each modality
on its own knows which attribute belongs to which object; one matrix on the texts, learnt with swapped attributes as
negatives, repairs much of the comparison. The probe says where the fault is, the matrix is a fix on vectors that are there.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from binderclip.cards import Card
from binderclip.data.hashing import Draws, uniform
from binderclip.data.scenes import SceneSpec, scene
from binderclip.errors import InputError, NeedsPartError
from binderclip.evaluate.base import Metric, Report, plain, share
from binderclip.evaluate.linear import lbfgs
from binderclip.evaluate.models import Model, square_vectors, vectors_of

if TYPE_CHECKING:
    from binderclip.model.clip import CLIP

__all__ = ["LABCLIP", "BindingProbe", "Bound", "binding_accuracy", "bound_scenes", "strict_accuracy"]

CARD = Card(
    slug="labclip",
    name="LABCLIP",
    title="CLIP Behaves like a Bag-of-Words Model Cross-modally but not Uni-modally",
    arxiv="2502.03566",
    year=2025,
    room="evaluate",
    provides="LABCLIP",
    kind="Probe",
    must_show={
        "A = I, 0 epochs: identical scores to CLIP (1e-6)": "tests/evaluate/test_labclip.py::test_identity_is_clip",
        "gradient only in A; D*D parameters": "tests/evaluate/test_labclip.py::test_only_the_matrix_learns",
        "oracle: a rotation hides the binding, 50 % before, over 95 % after 25 epochs on held-out scenes": (
            "tests/evaluate/test_labclip.py::test_a_rotation_is_undone"
        ),
        "oracle: held-out (attribute, object) pairs over 90 % with dense 4-d codes": (
            "tests/evaluate/test_labclip.py::test_pairs_never_seen"
        ),
        "bag oracle: strict accuracy 0 before and after any A; uni-modal probe at most 1/2 + 3 points, far over 1/8": (
            "tests/evaluate/test_labclip.py::test_a_bag_stays_a_bag"
        ),
        "image probe over the bag ceiling by 10 points while cross accuracy < 65 % (scene CLIP + 17.0, pocket + 9.2)": (
            "bench:evaluate_labclip"
        ),
        "LABCLIP gains 10 points on held-out combinations": (
            "missed:evaluate_labclip: + 7.6 (pocket), + 5.6 (scene CLIP); 1,294 scenes, swapped ones held out too"
        ),
        "recall at 1 of true captions drops by at most 2 points": "bench:evaluate_labclip",
        "random negatives alone gain less than a third of that": (
            "missed:evaluate_labclip: 42 % of it (3.2 of 7.6 points, pocket), 43 % (scene CLIP); the gains are small"
        ),
    },
)

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Bound:
    """A scene of objects with attributes, each attribute and each object once.

    Args:
        id: of the scene.
        pairs: (attribute, object) of each.
        image: RGB, where there is one.
    """

    id: str
    pairs: tuple[tuple[str, str], ...]
    image: Image.Image | None = None

    @property
    def key(self) -> str:
        """Its combination, in no order: what must not be on both sides of a split.

        The scene with swapped attributes has the same: were it learnt from, a bag would be led to the wrong one of the two.
        """
        return " + ".join(" ".join(sorted(words)) for words in zip(*self.pairs, strict=True))

    def captions(self) -> list[str]:
        """The true caption, then those with the attributes permuted, first the one that is turned by one (the swap).

        The objects' order is drawn from the id, so that it says nothing.
        """
        order = Draws(0, f"caption/{self.id}").shuffled("order", self.pairs)
        k, objects = len(order), [pair[1] for pair in order]
        names = [pair[0] for pair in order]
        turned = names[1:] + names[:1]
        rest = [list(p) for p in itertools.permutations(names) if list(p) not in (names, turned)]
        return [_caption(zip(some, objects, strict=True)) for some in ([names, turned] if k > 1 else [names]) + rest]


def _caption(pairs: Any) -> str:
    parts = [f"{'an' if words[0] in 'aeiou' else 'a'} {words}" for words in (" ".join(pair) for pair in pairs)]
    return " and ".join(parts)


def bound_scenes(count: int, spec: SceneSpec, objects: int = 2) -> list[Bound]:
    """Generated scenes of so many objects that share neither colour nor shape and are all seen.

    Raises:
        InputError: the family never has as many objects.
    """
    if not spec.objects[0] <= objects <= spec.objects[1]:
        raise InputError(f"scenes of {spec.objects} objects never have {objects}: change objects")
    found: list[Bound] = []
    for number in itertools.count():
        if len(found) == count or number > 200 * count:
            break
        made = scene(number, spec)
        pairs = tuple(thing.kind for thing in made.objects)
        alike = len({p[0] for p in pairs}) < objects or len({p[1] for p in pairs}) < objects
        if len(pairs) == objects and not alike and made.masks.any(axis=(1, 2)).all():
            found.append(Bound(made.id, pairs, made.image))
    return found


@dataclass(frozen=True)
class BindingProbe:
    """Where binding is lost: in the pictures, in the texts, or between them.

    ``image`` and ``text``: can a linear classifier on one modality tell the attribute of an object? Two floors: chance
    ``1 / #attributes``, and the bag ceiling ``1 / k``, which a model reaches that knows the attributes but not whose they
    are. ``cross``: ``s(x, true) > s(x, swapped)``, with the share of ties, and the true caption above all permutations.

    Args:
        splits: which of "image", "text", "cross".
        objects: k of each scene.
        decay: weight decay of the classifiers.
        held: share of the combinations they are measured on.
        seed: of the split.
    """

    splits: tuple[str, ...] = ("image", "text", "cross")
    objects: int = 2
    decay: float = 1e-5
    held: float = 0.25
    seed: int = 0

    def run(self, clip: Model, scenes: Sequence[Bound], data: str = "scenes") -> Report:
        """Measure.

        Raises:
            InputError: no scenes, or one with another number of objects or without a picture.
        """
        if not scenes or any(len(s.pairs) != self.objects or s.image is None for s in scenes):
            raise InputError(f"binding needs scenes with a picture and {self.objects} objects each")
        vectors = vectors_of(clip)
        said = [s.captions() for s in scenes]
        X = square_vectors(vectors, [s.image for s in scenes if s.image is not None])
        T = np.stack([vectors.texts(texts) for texts in said])  # [N, k!, D]
        s = np.einsum("nd,ncd->nc", X, T)
        numbers: list[Metric] = []
        for name, rows in (("image", X), ("text", T[:, 0])):
            if name in self.splits:
                hits = binding_accuracy(rows, scenes, decay=self.decay, held=self.held, seed=self.seed)
                each = [float(np.mean(h)) for h in hits.values()]
                flat = share(f"{name}_binding", np.concatenate(list(hits.values())))
                value = float(np.mean(each))  # over objects; the interval is that of all rows, moved to it
                moved = [None if e is None else e - flat.value + value for e in (flat.low, flat.high)]
                numbers.append(Metric(flat.name, value, flat.n, moved[0], moved[1], "wilson", "higher", "share"))
        if "cross" in self.splits:
            numbers += [share("cross_accuracy", s[:, 0] > s[:, 1]), share("cross_ties", s[:, 0] == s[:, 1], "")]
            numbers.append(share("retrieval_accuracy", s[:, 0] > s[:, 1:].max(axis=1)))
        attributes = {pair[0] for one in scenes for pair in one.pairs}
        numbers.append(plain("bag_ceiling", 1 / self.objects, len(scenes), "", "share"))
        numbers.append(plain("chance", 1 / len(attributes), len(scenes), "", "share"))
        table = tuple(
            {"id": one.id, "caption": texts[0], "swapped": texts[1], "margin": float(m), "correct": bool(m > 0)}
            for one, texts, m in zip(scenes, said, s[:, 0] - s[:, 1], strict=True)
        )
        return Report("labclip", vectors.name, data, tuple(numbers), table)


def binding_accuracy(
    X: NDArray[Any], scenes: Sequence[Bound], *, decay: float = 1e-5, held: float = 0.25, seed: int = 0
) -> dict[str, Flags]:
    """For every object: which held-out scenes with it a linear classifier names its attribute right in.

    Args:
        X: unit rows ``[N, D]`` of the scenes.
        scenes: N; combinations are on one side of the split only, by hash.
        decay: weight decay.
        held: share of the combinations to measure on.
        seed: of the split.

    Raises:
        InputError: no object has training and test scenes.
    """
    away = uniform(seed, [s.key for s in scenes]) < held
    names = sorted({pair[0] for s in scenes for pair in s.pairs})
    out: dict[str, Flags] = {}
    for thing in sorted({pair[1] for s in scenes for pair in s.pairs}):
        own = [next((names.index(a) for a, o in s.pairs if o == thing), -1) for s in scenes]
        y = np.array(own, np.int64)
        learn, test = (y >= 0) & ~away, (y >= 0) & away
        if test.any() and len(np.unique(y[learn])) > 1:
            logits, _ = lbfgs(X[learn], y[learn], X[test], decay, len(names))
            out[thing] = logits.argmax(axis=1) == y[test]
    if not out:
        raise InputError("too few scenes to learn attributes from: give more, of more combinations")
    return out


def strict_accuracy(X: Floats, T: Floats, T_swapped: Floats) -> float:
    """Share of rows with ``cos(x, t) > cos(x, t_swapped)``; all unit rows ``[N, D]``."""
    # equal texts must tie to the bit: one sum of products each, in the same order
    true, false = ((X.astype(np.float64) * t).sum(axis=1) for t in (T, T_swapped))
    return float((true > false).mean())


class LABCLIP:
    """``s(x, y) = cos(x, A y)``: one matrix on the texts, learnt on cached vectors; the towers stay as they are.

    ``L = 1/2 [CE over the 2B texts A y, A y^- for each image + CE over the B images for each true text]``: swapped captions
    widen the texts' side only, as in NegCLIP (Yuksekgonul et al. 2023, arXiv 2210.01936). Adam, no weight decay.

    Args:
        init: "identity": the model starts as CLIP; "random": an orthogonal matrix.
        lr: learning rate.
        epochs: passes; 0 leaves CLIP as it is.
        batch: pairs a step.
        scale: "clip": fixed at what `fit` is told; "learned": from there on; or a number.
        seed: of the order of the rows.

    Attributes:
        A: ``[D, D]`` after `fit`.

    Raises:
        InputError: an unknown start, or fewer than one pair a step.
    """

    def __init__(
        self,
        init: str = "identity",
        lr: float = 1e-3,
        epochs: int = 30,
        batch: int = 512,
        scale: float | str = "clip",
        seed: int = 0,
    ) -> None:
        if init not in ("identity", "random") or batch < 1 or (isinstance(scale, str) and scale not in _SCALES):
            raise InputError(f"init {init!r}, batch {batch}, scale {scale!r}: use identity or random, 1 or more, clip")
        self.init, self.lr, self.epochs, self.batch, self.scale, self.seed = init, lr, epochs, batch, scale, seed
        self.A: Floats | None = None

    def fit(
        self,
        images: Floats,
        texts: Floats,
        negatives: Floats | None = None,
        *,
        clip_scale: float = 100.0,
        validation: tuple[Floats, Floats, Floats] | None = None,
    ) -> LABCLIP:
        """Learn A.

        Args:
            images: unit rows ``[n, D]``.
            texts: of their true captions ``[n, D]``.
            negatives: of swapped captions ``[n, D]``; without them only the other rows of a batch are negatives.
            clip_scale: the model's own factor on cosines.
            validation: images, texts, swapped texts: the epoch with the best strict accuracy on them is kept.

        Raises:
            InputError: the sides have different shapes.
        """
        import torch

        sides = [
            torch.from_numpy(np.array(rows, np.float32)) for rows in (images, texts, negatives) if rows is not None
        ]
        if len({side.shape for side in sides}) != 1 or sides[0].dim() != 2:
            raise InputError(f"images, texts and negatives are {[tuple(s.shape) for s in sides]}: give [n, D] of each")
        n, D = sides[0].shape
        generator = torch.Generator().manual_seed(self.seed)
        eye = torch.eye(D)
        A = (eye if self.init == "identity" else torch.linalg.qr(torch.randn(D, D, generator=generator))[0]).clone()
        A.requires_grad_()
        log_scale = torch.tensor(float(np.log(clip_scale if isinstance(self.scale, str) else self.scale)))
        learned = [A, log_scale.requires_grad_()] if self.scale == "learned" else [A]
        optimizer = torch.optim.Adam(learned, lr=self.lr)
        best = -1.0
        for _ in range(self.epochs):
            order = torch.randperm(n, generator=generator)
            for rows in torch.split(order, self.batch):
                loss = bound_loss(A, *(side[rows] for side in sides), scale=log_scale.exp())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if validation is not None:
                now = self._with(A).score(*validation)
                if now > best:
                    best, kept = now, A.detach().clone()
        return self._with(A if validation is None or best < 0 else kept)

    def transform(self, texts: Floats) -> Floats:
        """Unit rows ``A y / |A y|`` ``[n, D]``: made unit after A, not before."""
        if self.A is None:
            raise InputError("there is no matrix yet: call fit first")
        mapped = np.asarray(texts, np.float32) @ self.A.T
        out: Floats = (mapped / np.linalg.norm(mapped, axis=1, keepdims=True)).astype(np.float32)
        return out

    def score(self, images: Floats, texts: Floats, swapped: Floats) -> float:
        """Strict accuracy after A; see `strict_accuracy`."""
        return strict_accuracy(images, self.transform(texts), self.transform(swapped))

    def apply(self, clip: CLIP) -> CLIP:
        """A frozen copy of a CLIP whose text projection is followed by A: the same weights' names, so that it can be saved.

        Raises:
            NeedsPartError: its text tower does not end in a linear projection.
        """
        import torch
        from torch import nn

        from binderclip.model.functions import frozen_copy

        if self.A is None:
            raise InputError("there is no matrix yet: call fit first")
        twin = frozen_copy(clip)
        proj = getattr(twin.tower("text"), "proj", None)
        last = [part for part in proj.modules() if isinstance(part, nn.Linear)][-1:] if proj is not None else []
        if not last or last[0].out_features != len(self.A):
            raise NeedsPartError(f"{clip.name} has no linear text projection to {len(self.A)}: use transform instead")
        A = torch.from_numpy(self.A).to(last[0].weight)
        last[0].weight.data = A @ last[0].weight.data
        if last[0].bias is not None:
            last[0].bias.data = A @ last[0].bias.data
        return twin

    def _with(self, A: Any) -> LABCLIP:
        self.A = A.detach().numpy().copy()
        return self


_SCALES = ("clip", "learned")


def bound_loss(A: Any, images: Any, texts: Any, negatives: Any = None, *, scale: Any = 100.0) -> Any:
    """The loss of a batch as a tensor: unit rows ``[B, D]`` each, A ``[D, D]``."""
    from torch.nn.functional import normalize

    from binderclip.losses import info_nce

    wrong = None if negatives is None else normalize(negatives @ A.T, dim=-1)
    return info_nce(images, normalize(texts @ A.T, dim=-1), scale, extra_negatives=wrong, gather=False)
