"""Red Circle: what does CLIP know about a red circle? (Shtedritski, Rupprecht & Vedaldi 2023, arXiv 2304.06712).

Drawing a red circle around a thing makes a large CLIP speak of that thing while it still sees the scene: to pick the box an
expression refers to, to name keypoints, to find them. No training. It is also a warning: a circle drawn around a person
shifts what a model says towards negative labels (`mark_shift` measures it), so look before you rely on it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from binderclip.cards import Card
from binderclip.data.hashing import Draws
from binderclip.data.regions import draw_mark
from binderclip.errors import InputError, NeedsExtraError
from binderclip.evaluate.base import Metric, Report, plain, share
from binderclip.evaluate.metrics.calibration import softmax
from binderclip.evaluate.models import Model, square_vectors, vectors_of
from binderclip.evaluate.vectors import Vectors

__all__ = [
    "COLOURS",
    "MarkProbe",
    "RedCircle",
    "Referring",
    "find_keypoint",
    "mark_shift",
    "name_keypoints",
    "sinkhorn",
]

CARD = Card(
    slug="red_circle",
    name="Red Circle",
    title="What does CLIP know about a red circle? Visual prompt engineering for VLMs",
    arxiv="2304.06712",
    year=2023,
    room="evaluate",
    provides="RedCircle",
    kind="Probe",
    files=("data/regions.py",),
    must_show={
        "pixels outside line and ellipse unchanged for outside=none (exact), inside unchanged for all variants": (
            "tests/evaluate/test_red_circle.py::test_pixels_that_stay"
        ),
        "Sinkhorn: rows and columns sum to 1 (1e-4); recovers the permutation of a permutation matrix times 10": (
            "tests/evaluate/test_red_circle.py::test_sinkhorn"
        ),
        "subtracting changes the ranking of boxes (planted), never that of texts for a box": (
            "tests/evaluate/test_red_circle.py::test_subtraction"
        ),
        "an ensemble of one equals the single; the order of boxes is irrelevant": (
            "tests/evaluate/test_red_circle.py::test_ensembles_and_order"
        ),
        "table of accuracy for circle, rectangle, crop, blur and foveal, chance 50 %, with intervals": (
            "bench:evaluate_red_circle"
        ),
        "keypoints on synthetic stamps, crop and circle: chance + 5 points, or reported as not emergent": (
            "bench:evaluate_red_circle"
        ),
    },
)

Box = tuple[float, float, float, float]
Point = tuple[float, float]
Floats = NDArray[np.float64]
OUTLINES = ("circle", "box", "cross", "arrow", "contour")

#: Colours of the ablation.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "purple": (160, 32, 240),
}


class RedCircle:
    """Score of each box for each text: ``s_bt = mean over clips, variants of tau (cos(e_b, t) - 1/Q sum_q cos(e_b, t_q))``.

    ``e_b`` is the whole picture with box ``b`` marked on its own pixels, squeezed to the model's square. The subtracted mean
    over ``Q`` expressions that do not belong to the picture takes away what makes a box attractive to any text.

    Args:
        clips: a model, or several to average.
        outside: variants to average: "none", "blur" (15 % of the short side) or "grey" outside the ellipse.
        subtract: ``Q``, at most so many negatives, drawn without replacement.
        shape: any kind of `binderclip.data.regions.draw_mark`: "circle", "box", "arrow", "cross", "blur", "crop", ...
        colour: of the line.
        width: of the line in pixels; None as there.
        padding: the box grows by this share to each side before the mark is drawn.
        prefix: put before every text, negatives too.
        seed: of the drawing of negatives.

    Raises:
        InputError: no clip or no variant.

    Example:
        >>> from binderclip import Encoder
        >>> scorer = RedCircle(Encoder("pocket"), outside=("none",))
        >>> photo = Image.new("RGB", (64, 48), "white")
        >>> scorer.score(photo, [(0, 0, 20, 20), (30, 10, 60, 40)], ["a dog"]).shape
        (2, 1)
    """

    def __init__(
        self,
        clips: Model | Sequence[Model],
        *,
        outside: Sequence[str] = ("none", "blur", "grey"),
        subtract: int = 500,
        shape: str = "circle",
        colour: tuple[int, int, int] = (255, 0, 0),
        width: int | None = None,
        padding: float = 0.0,
        prefix: str = "",
        seed: int = 0,
    ) -> None:
        several = list(clips) if isinstance(clips, list | tuple) else [clips]
        if not several or not outside or subtract < 0:
            raise InputError("marks need at least one model and one variant of the outside, and subtract of at least 0")
        self.clips: list[Vectors] = [vectors_of(clip) for clip in several]
        self.outside = tuple(outside) if shape in OUTLINES else ("none",)
        self.subtract, self.prefix, self.seed = subtract, prefix, seed
        self.mark: Mapping[str, Any] = {"kind": shape, "colour": colour, "width": width, "padding": padding}

    def score(
        self,
        image: Image.Image,
        boxes: Sequence[Sequence[float]],
        texts: Sequence[str],
        negatives: Sequence[str] | None = None,
    ) -> Floats:
        """Scores ``[K, T]`` of K boxes (x0, y0, x1, y1 in pixels) for T texts.

        Args:
            image: upright, RGB, at its own resolution.
            boxes: K of them.
            texts: expressions.
            negatives: expressions of other pictures; without them nothing is subtracted.

        Raises:
            InputError: no boxes, or one without a pixel in the picture.
        """
        if not len(boxes):
            raise InputError("there are no boxes to choose from: give at least one")
        marked = [draw_mark(image, box, outside=how, **self.mark) for how in self.outside for box in boxes]
        said = [self.prefix + text for text in texts]
        others = [self.prefix + text for text in self._drawn(negatives or ())]
        total = np.zeros((len(boxes), len(texts)))
        for clip in self.clips:
            e = square_vectors(clip, marked).astype(np.float64).reshape(len(self.outside), len(boxes), -1)
            s = e @ clip.texts(said).T.astype(np.float64)  # [variants, K, T]
            if others:
                s = s - (e @ clip.texts(others).T.astype(np.float64)).mean(axis=2, keepdims=True)
            total += clip.scale * s.mean(axis=0)
        return total / len(self.clips)

    def _drawn(self, negatives: Sequence[str]) -> list[str]:
        known = list(dict.fromkeys(negatives))
        if self.subtract == 0 or len(known) <= self.subtract:
            return known if self.subtract else []
        return Draws(self.seed, "negatives").shuffled("which", sorted(known))[: self.subtract]


@dataclass(frozen=True)
class Referring:
    """An expression and the box it refers to.

    Args:
        id: of the row.
        image: RGB.
        boxes: to choose from.
        text: the expression.
        target: number of the right box.
        picture: names the picture, so that negatives come from others; the id by default.
    """

    id: str
    image: Image.Image
    boxes: tuple[Box, ...]
    text: str
    target: int
    picture: str = ""


@dataclass(frozen=True)
class MarkProbe:
    """Which mark works on which model: accuracy of the chosen box for every shape, colour, width and padding.

    Args:
        shapes: kinds of `draw_mark`; colour and width vary outlines only.
        colours: names of `COLOURS`.
        widths: in pixels; None = the default.
        paddings: shares of the box's side.
        outside: variants to average, for outlines.
        subtract: negatives from the other rows' pictures; 0 for none.
        prefix: before each expression.
    """

    shapes: tuple[str, ...] = ("circle", "box", "crop", "blur", "none")
    colours: tuple[str, ...] = ("red",)
    widths: tuple[int | None, ...] = (None,)
    paddings: tuple[float, ...] = (0.0,)
    outside: tuple[str, ...] = ("none",)
    subtract: int = 500
    prefix: str = ""

    def run(self, clips: Model | Sequence[Model], rows: Sequence[Referring], data: str = "referring") -> Report:
        """Measure; a tie with a wrong box is not correct.

        Raises:
            InputError: no rows.
        """
        if not rows:
            raise InputError("there are no expressions to measure on: give at least one row")
        models = [vectors_of(c) for c in (clips if isinstance(clips, list | tuple) else [clips])]
        numbers: list[Metric] = []
        table: list[dict[str, Any]] = []
        for name, options in self._cells().items():
            scorer = RedCircle(models, outside=self.outside, subtract=self.subtract, prefix=self.prefix, **options)
            hits = []
            for row in rows:
                own = row.picture or row.id
                negatives = [r.text for r in rows if (r.picture or r.id) != own] if self.subtract else None
                s = scorer.score(row.image, row.boxes, [row.text], negatives)[:, 0]
                margin = float(s[row.target] - np.delete(s, row.target).max(initial=-np.inf))
                hits.append(margin > 0)
                table.append({"id": row.id, "mark": name, "margin": margin, "correct": margin > 0})
            numbers.append(share(f"accuracy_{name}", hits))
        best = max(numbers, key=lambda m: m.value)
        numbers.append(plain("chance", float(np.mean([1 / len(r.boxes) for r in rows])), len(rows), "", "share"))
        notes = [f"the best mark is {best.name.removeprefix('accuracy_')}"]
        if any("crop" in m.name and m is best for m in numbers):
            notes.append("a crop beats every mark: this model does not follow marks, a skill of large models")
        return Report(
            "red_circle", " + ".join(m.name for m in models), data, tuple(numbers), tuple(table), notes=tuple(notes)
        )

    def _cells(self) -> dict[str, dict[str, Any]]:
        cells: dict[str, dict[str, Any]] = {}
        for shape, colour, width, padding in itertools.product(self.shapes, self.colours, self.widths, self.paddings):
            lined = shape in OUTLINES
            parts = [shape, colour if lined and len(self.colours) > 1 else ""]
            parts += [f"width{width}" if lined and width else "", f"padding{padding:g}" if padding else ""]
            options: dict[str, Any] = {"shape": shape, "padding": padding}
            if lined:
                options |= {"colour": COLOURS[colour], "width": width}
            cells.setdefault("_".join(part for part in parts if part), options)
        return cells


def sinkhorn(S: ArrayLike, *, tolerance: float = 1e-4, most: int = 1000) -> Floats:
    """``exp(S)`` ``[K, K]`` made doubly stochastic in the log domain, rows then columns, until row sums are 1 too.

    Args:
        S: scores; where they spread over more than 20, some matrices need more rounds.
        tolerance: of the row sums.
        most: rounds.
    """
    L = np.array(S, np.float64)
    for _ in range(most):
        L -= np.logaddexp.reduce(L, axis=1, keepdims=True)
        L -= np.logaddexp.reduce(L, axis=0, keepdims=True)
        if np.abs(np.exp(L).sum(axis=1) - 1).max(initial=0.0) <= tolerance:
            break
    return np.exp(L)


def _point_scores(
    model: Model, image: Image.Image, points: Sequence[Point], names: Sequence[str], radius: float, marks: Sequence[str]
) -> Floats:
    """``[points, names]``, the mean over marks: a circle of `radius` x the short side, a crop of thrice that."""
    clip, total = vectors_of(model), np.zeros((len(points), len(names)))
    for kind in marks:
        r = radius * min(image.size) * (3 if kind == "crop" else 1)
        boxes = [(x - r, y - r, x + r, y + r) for x, y in points]
        total += RedCircle(clip, outside=("none",), shape=kind).score(image, boxes, names)
    return total / len(marks)


def name_keypoints(
    clip: Model,
    image: Image.Image,
    points: Sequence[Point],
    names: Sequence[str],
    *,
    radius: float = 0.06,
    marks: Sequence[str] = ("circle",),
) -> NDArray[np.int64]:
    """The number of each of K points' name ``[K]``, each name once: Sinkhorn on ``tau cos``, then the best assignment.

    Args:
        clip: a model.
        image: RGB.
        points: (x, y) in pixels.
        names: as in "the left eye of a bird".
        radius: of the circle as a share of the short side.
        marks: averaged; ("circle", "crop") is the ensemble with a crop of three radii.

    Raises:
        InputError: not as many names as points.
        NeedsExtraError: scipy is not installed.
    """
    if len(points) != len(names) or not len(points):
        raise InputError(f"{len(points)} points and {len(names)} names: give one name a point")
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise NeedsExtraError("naming keypoints", "learn") from None
    S = _point_scores(clip, image, points, names, radius, marks)
    _, columns = linear_sum_assignment(-sinkhorn(S))
    return np.asarray(columns, np.int64)


def find_keypoint(
    clip: Model,
    image: Image.Image,
    name: str,
    *,
    grid: int = 14,
    others: Sequence[str] = (),
    radius: float = 0.06,
    marks: Sequence[str] = ("circle",),
) -> Point:
    """Where a keypoint is (x, y): of the centres of a grid the one that fits the name best, less the mean over other names.

    Args:
        clip: a model.
        image: RGB.
        name: of the keypoint.
        grid: cells a side.
        others: other names.
        radius: as for `name_keypoints`.
        marks: as there.
    """
    steps = (np.arange(grid) + 0.5) / grid
    points = [(float(x) * image.width, float(y) * image.height) for y in steps for x in steps]
    S = _point_scores(clip, image, points, [name, *others], radius, marks)
    return points[int((S[:, 0] - (S[:, 1:].mean(axis=1) if others else 0.0)).argmax())]


def mark_shift(
    clip: Model, images: Sequence[Image.Image], boxes: Sequence[Sequence[float]], texts: Sequence[str]
) -> tuple[Floats, Floats]:
    """Class probabilities ``[N, T]`` without and with a red circle: what the mark alone makes the model say.

    Args:
        clip: a model; the softmax uses its own scale.
        images: N pictures.
        boxes: one a picture, around the person or thing.
        texts: neutral labels and those whose rise would harm.
    """
    vectors = vectors_of(clip)
    W = vectors.texts(texts).T
    marked = [draw_mark(image, box) for image, box in zip(images, boxes, strict=True)]
    before, after = (softmax(vectors.scale * (square_vectors(vectors, x) @ W)) for x in (list(images), marked))
    return before, after
