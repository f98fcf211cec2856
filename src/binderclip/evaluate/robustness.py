"""Parts of the robustness suite that need no model: effective robustness, shape bias, drawn factors, influence."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from binderclip.data.hashing import Draws
from binderclip.errors import InputError
from binderclip.evaluate.metrics.ranking import average_ranks
from binderclip.evaluate.metrics.significance import pearson, welch

__all__ = ["FACTORS", "EffectiveRobustness", "cue_conflict", "factor", "influence", "lmm_accuracy", "shape_bias"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class EffectiveRobustness:
    """``rho = acc_shift - beta(acc_id)``, ``beta(a) = expit(intercept + slope logit a)`` (Taori et al. 2020, 2007.00644).

    Ordinary least squares in logits over baseline models, which must be no CLIPs. Its residuals average 0 in logits, not in
    accuracy.

    Args:
        slope: of the line.
        intercept: of the line.
        n: baseline models.
        residuals: of the baselines, in logits.
    """

    slope: float
    intercept: float
    n: int
    residuals: tuple[float, ...]

    @classmethod
    def fit(cls, acc_id: ArrayLike, acc_shift: ArrayLike, rows: int = 10_000) -> EffectiveRobustness:
        """The line through baselines.

        Args:
            acc_id: accuracies of M models where they were trained for ``[M]``.
            acc_shift: those under the shift ``[M]``.
            rows: test items; accuracies are clipped to ``[1 / 2n, 1 - 1 / 2n]``.

        Raises:
            InputError: fewer than two models, or all of one accuracy.
        """
        x, y = _logit(acc_id, rows), _logit(acc_shift, rows)
        if len(x) < 2 or len(x) != len(y) or float(np.ptp(x)) == 0.0:
            raise InputError("effective robustness needs at least two baselines of different accuracy: add some")
        slope = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
        intercept = float(y.mean() - slope * x.mean())
        return cls(slope, intercept, len(x), tuple((y - intercept - slope * x).tolist()))

    def beta(self, acc_id: ArrayLike, rows: int = 10_000) -> Floats:
        """The accuracy under the shift that the line expects."""
        return 1.0 / (1.0 + np.exp(-(self.intercept + self.slope * _logit(acc_id, rows))))

    def rho(self, acc_id: ArrayLike, acc_shift: ArrayLike, rows: int = 10_000) -> Floats:
        """Effective robustness: what is above the line."""
        out: Floats = np.asarray(acc_shift, np.float64) - self.beta(acc_id, rows)
        return out


def _logit(accuracy: ArrayLike, rows: int) -> Floats:
    a = np.clip(np.asarray(accuracy, np.float64), 0.5 / rows, 1.0 - 0.5 / rows)
    out: Floats = np.log(a / (1.0 - a))
    return out


def shape_bias(answers: ArrayLike, shapes: ArrayLike, textures: ArrayLike) -> tuple[float, int]:
    """Share of shape among the answers that are either cue, and their number m; NaN for m = 0 (Geirhos et al. 2019).

    Args:
        answers: class of each picture ``[N]``.
        shapes: class of its outline.
        textures: class of its filling, another one.
    """
    a, s, t = (np.asarray(v) for v in (answers, shapes, textures))
    right, other = (a == s) & (s != t), (a == t) & (s != t)
    m = int(right.sum() + other.sum())
    return (float(right.sum()) / m if m else math.nan), m


def cue_conflict(outline: Image.Image, filling: Image.Image, side: int = 224) -> Image.Image:
    """The silhouette of one cut-out filled with patches from the middle of another, on white.

    Raises:
        InputError: a picture without transparency, or an empty one.
    """
    alpha = _alpha(outline).resize((side, side), Image.Resampling.BICUBIC)
    inner = _alpha(filling).getbbox()
    if inner is None or alpha.getbbox() is None:
        raise InputError("a cut-out is empty: leave it out")
    x0, y0, x1, y1 = inner
    w, h = max(1, (x1 - x0) // 3), max(1, (y1 - y0) // 3)
    patch = filling.convert("RGB").crop((x0 + w, y0 + h, x0 + 2 * w, y0 + 2 * h))
    patch = patch.resize((max(1, side // 4), max(1, side // 4)), Image.Resampling.BICUBIC)
    ground = Image.new("RGB", (side, side), "white")
    tiles = Image.new("RGB", (side, side))
    for x in range(0, side, patch.width):
        for y in range(0, side, patch.height):
            tiles.paste(patch, (x, y))
    return Image.composite(tiles, ground, alpha)


def _alpha(image: Image.Image) -> Image.Image:
    if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in image.info:
        raise InputError("shape bias needs cut-outs: pictures with a transparent ground")
    return image.convert("RGBA").getchannel("A")


def _turn(image: Image.Image, draws: Draws) -> Image.Image:
    return image.rotate(45, Image.Resampling.BICUBIC, fillcolor=_mean(image))


def _occlude(image: Image.Image, draws: Draws) -> Image.Image:
    out, (w, h) = image.copy(), image.size
    bw, bh = round(0.45 * w), round(0.45 * h)
    x, y = round(draws.unit("x") * (w - bw)), round(draws.unit("y") * (h - bh))
    out.paste(_mean(image), (x, y, x + bw, y + bh))
    return out


def _partial(image: Image.Image, draws: Draws) -> Image.Image:
    """Only a corner of three fifths of each side is seen, in the middle of an even ground."""
    w, h = image.size
    a, b = round(0.6 * w), round(0.6 * h)
    x, y = draws.integer("x", 0, 1) * (w - a), draws.integer("y", 0, 1) * (h - b)
    out = Image.new("RGB", (w, h), _mean(image))
    out.paste(image.crop((x, y, x + a, y + b)), ((w - a) // 2, (h - b) // 2))
    return out


def _small(image: Image.Image, draws: Draws) -> Image.Image:
    w, h = image.size
    out = Image.new("RGB", (w, h), _mean(image))
    out.paste(image.resize((w // 2, h // 2), Image.Resampling.BICUBIC), (w // 4, h // 4))
    return out


def _large(image: Image.Image, draws: Draws) -> Image.Image:
    w, h = image.size
    return image.resize((w, h), Image.Resampling.BICUBIC, (w / 4, h / 4, 3 * w / 4, 3 * h / 4))


#: Visual factors that can be drawn into any picture, after ImageNet-X's names.
FACTORS: dict[str, Callable[[Image.Image, Draws], Image.Image]] = {
    "smaller": _small,
    "larger": _large,
    "darker": lambda image, draws: image.point(lambda v: 0.35 * v),
    "brighter": lambda image, draws: image.point(lambda v: 255 - 0.35 * (255 - v)),
    "colour": lambda image, draws: Image.merge("RGB", image.split()[1:] + image.split()[:1]),
    "pose": _turn,
    "object blocking": _occlude,
    "partial view": _partial,
}


def factor(image: Image.Image, name: str, key: str = "", seed: int = 0) -> Image.Image:
    """A picture with a visual factor drawn into it.

    Raises:
        InputError: an unknown factor.
    """
    if name not in FACTORS:
        raise InputError(f"there is no factor {name!r}: use {', '.join(FACTORS)}")
    return FACTORS[name](image.convert("RGB"), Draws(seed, f"{key}/{name}"))


def _mean(image: Image.Image) -> tuple[int, int, int]:
    r, g, b = (int(v) for v in np.asarray(image.convert("RGB"), np.float64).mean(axis=(0, 1)))
    return r, g, b


def influence(models: Sequence[Mapping[str, Any]], measure: str) -> list[dict[str, Any]]:
    """What goes with a measure over models: rank correlation of each number, mean difference of each value of a word.

    Args:
        models: a row each: the measure, and factors such as parameters, samples seen, architecture, loss, fine-tuned.
        measure: key of the number to explain.

    Returns:
        rows with factor, kind ("rank" or "difference"), coef, low, high, p and n; few models give wide intervals.
    """
    y = np.array([float(row[measure]) for row in models])
    out: list[dict[str, Any]] = []
    for name in sorted({key for row in models for key in row} - {measure}):
        values = [row.get(name) for row in models]
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
            t = pearson(average_ranks(np.array(values, np.float64))[:, None], average_ranks(y))
            out.append(_influence(name, "rank", t, len(y)))
            continue
        for word in sorted({str(v) for v in values}):
            t = welch(np.array([str(v) == word for v in values])[:, None], y)
            out.append(_influence(f"{name}={word}", "difference", t, len(y)))
    return out


def _influence(name: str, kind: str, t: Any, n: int) -> dict[str, Any]:
    return {"factor": name, "kind": kind, "n": n} | {k: float(getattr(t, k)[0]) for k in ("coef", "low", "high", "p")}


def lmm_accuracy(
    ask: Callable[[Any, str], str], images: Sequence[Any], labels: Sequence[int], classes: Sequence[str]
) -> tuple[float, list[str]]:
    """Share of pictures for which a language model with eyes names the right class, and its answers.

    The answer counts when it holds the right name and no longer class name that contains it.

    Args:
        ask: (picture, question) to text; yours, none comes with the library.
        images: whatever `ask` takes.
        labels: class of each.
        classes: names.
    """
    question = f"What is in this picture? Answer with one of: {', '.join(classes)}."
    answers = [ask(image, question) for image in images]
    right = []
    for answer, label in zip(answers, labels, strict=True):
        named = [name for name in classes if name.casefold() in answer.casefold()]
        right.append(max(named, key=len, default="") == classes[label])
    return float(np.mean(right)), answers
