"""The room's protocol: an `Adapter` is a scikit-learn classifier whose start is a CLIP and the names of the classes.

``f`` [N, D] are unit vectors of pictures, ``W`` [C, D] unit vectors of the classes' sentences, ``s`` the model's own scale.
Zero-shot logits, which every adapter begins from, are ``z = s f W^T`` [N, C].

The error of the room, below `NeedsPartError`:

    NotOpenVocabularyError     the method learnt its classes one by one and cannot name others
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from binderclip.adapt.encoding import VIEW, EncoderLike, Rows, encode_readable, encoder_of, rows_of
from binderclip.adapt.parts import PHOTO, Floats, Ints, class_weights, softmax, unit
from binderclip.data.transforms import Augment
from binderclip.errors import InputError, NeedsPartError

__all__ = ["Adapter", "Few", "NotOpenVocabularyError", "numbers_of"]


class NotOpenVocabularyError(NeedsPartError):
    """The method learnt a column for each of its classes: other names need a new fit."""


@dataclass(frozen=True)
class Few:
    """What a method learns from.

    Args:
        X: ``[N, V, D]``, ``V`` views of each row, as given (of any length); no rows where only unlabelled ones were given.
        y: ``[N]`` numbers of classes, or None.
        U: unit vectors ``[M, D]`` of unlabelled pictures, or None.
        X_val: unit vectors ``[N', D]`` of validation pictures, or None.
        y_val: their classes ``[N']``.
    """

    X: Floats
    y: Ints | None
    U: Floats | None = None
    X_val: Floats | None = None
    y_val: Ints | None = None

    def labelled(self) -> tuple[Floats, Ints]:
        """``X`` and ``y``.

        Raises:
            InputError: there are no labels.
        """
        if self.y is None or not len(self.X):
            raise InputError("this method learns from labelled pictures: give X and y")
        return self.X, self.y


class Adapter(ABC):
    """A classifier of pictures that begins as a CLIP.

    Args:
        encoder: an `Encoder`, a torch `CLIP`, or anything with ``encode_image`` and ``encode_text``; shared, never changed.
        classes: names of the C classes; underscores are read as spaces.
        templates: sentences with ``{}`` for the name, or a named set.
        seed: of everything that is drawn.

    Attributes:
        takes: what ``fit`` works on: "embeddings", "preproj", "pixels" or "stream".
        learned: names of the attributes that a fit makes, which `state_dict` holds.
        validates: whether pictures for validation are looked at.
        view: what a random view of a training picture is, where the method has ``n_views``.
        on_progress: told (done, total) of a fit's steps, by the methods that take many.
        W_: class vectors ``[C, D]`` after a fit.
        hyper_: the values that were chosen.
        history_: losses, where there are any.
    """

    takes: ClassVar[str] = "embeddings"
    learned: ClassVar[tuple[str, ...]] = ()
    validates: ClassVar[bool] = True
    view: ClassVar[Augment] = VIEW
    on_progress: Callable[[int, int], None] | None = None

    def __init__(
        self, encoder: Any, classes: Sequence[str], *, templates: str | Sequence[str] = PHOTO, seed: int = 0
    ) -> None:
        self.encoder, self.classes, self.templates, self.seed = encoder, classes, templates, seed
        self._texts: dict[Any, Floats] = {}

    # -- scikit-learn's conventions ------------------------------------------------------------------------------

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments it was made with."""
        return {name: getattr(self, name) for name in list(inspect.signature(type(self)).parameters)}

    def set_params(self, **params: Any) -> Self:
        """Change arguments; they hold from the next fit on.

        Raises:
            InputError: one that the method does not have.
        """
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise InputError(f"{type(self).__name__} has no option {name!r}: it has {', '.join(list(known)[2:])}")
            setattr(self, name, value)
        return self

    def clone(self) -> Self:
        """A copy that has learnt nothing; the encoder, and what it made of the class names, are shared."""
        made = type(self)(**self.get_params())
        made._texts = self._texts
        return made

    def __sklearn_clone__(self) -> Self:
        return self.clone()

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, Tags, TargetTags

        tags = Tags(estimator_type="classifier", target_tags=TargetTags(required=False), transformer_tags=None)
        tags.classifier_tags = ClassifierTags()
        return tags

    # -- learning ------------------------------------------------------------------------------------------------

    def fit(
        self, X: Any = None, y: Any = None, *, X_unlabelled: Any = None, X_val: Any = None, y_val: Any = None
    ) -> Self:
        """Learn.

        Args:
            X: vectors ``[N, D]`` (or ``[N, V, D]``, V views of each row), `Embeddings`, `Pairs`, or a list of pictures;
                pictures are encoded once.
            y: numbers of classes in the order of `classes`, or names; None takes the labels that X carries, if any.
            X_unlabelled: pictures without labels; those that X carries are not looked at here.
            X_val: pictures to choose hyperparameters on.
            y_val: their classes.

        Raises:
            InputError: shapes, labels or an option that cannot be used.
        """
        few = self._few(X, y, X_unlabelled, X_val, y_val)
        self.hyper_: dict[str, Any] = {}
        self.history_: list[float] = []
        self._fit(few)
        return self

    @abstractmethod
    def _fit(self, few: Few) -> None:
        """Learn from vectors; `W_` and `scale_` are there."""

    @abstractmethod
    def _logits(self, f: Floats) -> Floats:
        """Logits ``[N, C]`` of unit vectors ``[N, D]``."""

    # -- using ---------------------------------------------------------------------------------------------------

    def decision_function(self, X: Any) -> NDArray[np.float32]:
        """Logits ``[N, C]`` float32 of single vectors ``[N, D]``, or of whatever else `fit` takes.

        Raises:
            InputError: it was not fitted yet, or X cannot be used.
        """
        if not hasattr(self, "W_"):
            raise InputError(f"this {type(self).__name__} has learnt nothing yet: call fit first")
        f = unit(self._single(rows_of(self._encoder, X), "X"))
        return self._logits(f).astype(np.float32)

    def predict_proba(self, X: Any) -> NDArray[np.float32]:
        """Probabilities ``[N, C]`` float32: the softmax of the logits."""
        return softmax(self.decision_function(X).astype(np.float64)).astype(np.float32)

    def predict(self, X: Any) -> Ints:
        """Numbers of classes ``[N]``."""
        best: Ints = self.decision_function(X).argmax(axis=1).astype(np.int64)
        return best

    def score(self, X: Any, y: Any) -> float:
        """Share of rows whose best class is theirs."""
        found = self.predict(X)
        return float((found == numbers_of(y, self.classes, len(found))).mean())

    def decide(
        self, images: Sequence[Any], ids: Sequence[str]
    ) -> tuple[NDArray[np.float32], list[int], list[tuple[str, str]]]:
        """Logits ``[M, C]`` of the pictures that can be read, their places, and (id, reason) of the others.

        Args:
            images: paths, file contents or Pillow images.
            ids: their names.
        """
        vectors, kept, lost = encode_readable(self._encoder, images, ids)
        empty = np.empty((0, len(self.classes)), np.float32)
        return (self.decision_function(vectors) if kept else empty), kept, lost

    def for_classes(self, names: Sequence[str]) -> Adapter:
        """The same learnt parameters with other class names.

        Raises:
            NotOpenVocabularyError: the method cannot.
        """
        raise NotOpenVocabularyError(
            f"{type(self).__name__} learnt a column for each of its classes: fit it again with the other names"
        )

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """The learnt parameters and nothing else."""
        return {name.rstrip("_"): np.asarray(getattr(self, name)) for name in self.learned}

    def load_state_dict(self, state: Mapping[str, Any]) -> Self:
        """Take over what `state_dict` gave; the class vectors are made from the names again.

        Raises:
            InputError: a part is missing or not finite.
        """
        lost = [name.rstrip("_") for name in self.learned if name.rstrip("_") not in state]
        if lost:
            raise InputError(f"this is no state of {type(self).__name__}: it lacks {', '.join(lost)}")
        for name in self.learned:
            value = np.asarray(state[name.rstrip("_")])
            if np.isnan(value).any():
                raise InputError(f"{name.rstrip('_')} of this state is not a number: fit and save it again")
            setattr(self, name, value)
        self.hyper_, self.history_ = {}, []
        self._begin()
        return self

    @property
    def classes_(self) -> Ints:
        """0 ... C - 1, as scikit-learn's scorers ask for them."""
        return np.arange(len(self.classes))

    # -- within --------------------------------------------------------------------------------------------------

    @property
    def _encoder(self) -> EncoderLike:
        return encoder_of(self.encoder)

    def _begin(self) -> None:
        """Class vectors and scale: texts are encoded once for equal names and templates, clones included."""
        key = (tuple(self.classes), self.templates if isinstance(self.templates, str) else tuple(self.templates))
        if key not in self._texts:
            self._texts[key] = class_weights(self._encoder, self.classes, self.templates)
        self.W_ = self._texts[key]
        self.scale_ = float(getattr(self._encoder, "logit_scale", 100.0))

    def _tried(self) -> tuple[int, ...]:
        """Shape of the logits of two rows that fit: what a state from a file is tried with."""
        return self.decision_function(np.eye(2, self.W_.shape[1], dtype=np.float32)).shape

    def _few(self, X: Any, y: Any, X_unlabelled: Any = None, X_val: Any = None, y_val: Any = None) -> Few:
        if X is None and X_unlabelled is None and self.learned:
            raise InputError(
                "there is nothing to learn from: give X and y, or X_unlabelled where the method can use it"
            )
        encoder, views = self._encoder, int(getattr(self, "n_views", 1))
        rows = None if X is None else rows_of(encoder, X, views=views, seed=self.seed, view=self.view)
        aside = None if X_val is None else rows_of(encoder, X_val)
        more = None if X_unlabelled is None else rows_of(encoder, X_unlabelled)
        self._begin()
        D = self.W_.shape[1]
        for part in (rows, more):
            if part is not None and part.vectors.shape[-1] != D:
                raise InputError(
                    f"vectors have {part.vectors.shape[-1]} numbers and the model's {D}: encode them with it"
                )
        U = None if more is None else unit(self._single(more, "X_unlabelled"))
        if rows is None:
            return Few(np.empty((0, 1, D)), None, U)
        vectors = rows.vectors.astype(np.float64)
        labels = self._numbers(rows, y, "y")
        few = Few(vectors if vectors.ndim == 3 else vectors[:, None], labels, U)
        if aside is None:
            return few
        marks = self._numbers(aside, y_val, "y_val")
        if marks is None:
            raise InputError("the validation pictures have no labels: give y_val")
        return Few(few.X, few.y, U, unit(self._single(aside, "X_val")), marks)

    def _single(self, rows: Rows, name: str) -> Floats:
        D = self.W_.shape[1]
        if rows.vectors.ndim != 2 or rows.vectors.shape[1] != D:
            raise InputError(f"{name} has shape {rows.vectors.shape}: give one vector of {D} numbers a row, [N, {D}]")
        return rows.vectors.astype(np.float64)

    def _numbers(self, rows: Rows, y: Any, name: str) -> Ints | None:
        y = rows.labels if y is None else y
        return None if y is None else numbers_of(y, self.classes, len(rows.vectors), name)


def numbers_of(y: Any, classes: Sequence[str], n: int, name: str = "y") -> Ints:
    """Labels as numbers ``[n]`` in the order of `classes`.

    Raises:
        InputError: there are not n, one is no class, or they are neither names nor whole numbers.
    """
    values = np.asarray(y)
    if values.shape != (n,):
        raise InputError(f"{name} has shape {values.shape} for {n} rows: give one label a row")
    if values.dtype.kind in "UO" and all(isinstance(one, str) for one in values.tolist()):
        at = {key: k for k, key in enumerate(classes)}
        lost = [one for one in values.tolist() if one not in at]
        if lost:
            raise InputError(f"{lost[0]!r} in {name} is none of the {len(at)} classes: check the names")
        return np.array([at[one] for one in values.tolist()], np.int64)
    if values.dtype.kind not in "iuf" or not np.array_equal(values, np.floor(values)):
        raise InputError(f"{name} holds {values.dtype}: give names of classes, or their numbers from 0")
    if n and (values.min() < 0 or values.max() >= len(classes)):
        raise InputError(
            f"{name} goes from {values.min()} to {values.max()}: there are classes 0 to {len(classes) - 1}"
        )
    return values.astype(np.int64)
