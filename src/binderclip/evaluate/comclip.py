"""ComCLIP: training-free compositional matching (Jiang et al. 2022, arXiv 2211.13854).

A caption is split into subject, predicate and object, the picture into sub-pictures that show only those parts; parts that
fit their words are added to the picture's vector before it is compared with the caption. It wraps any CLIP and re-ranks a
short list where it matters which word belongs to which thing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from binderclip.cards import Card
from binderclip.data.media import open_image
from binderclip.errors import InputError
from binderclip.evaluate.base import Report, plain, resampled, share
from binderclip.evaluate.data import Item
from binderclip.evaluate.metrics.calibration import softmax
from binderclip.evaluate.models import Model, TorchEncoder, vectors_of

__all__ = ["Choice", "ComCLIP", "Part", "Rerank", "choose", "parse", "show_only", "svo"]

CARD = Card(
    slug="comclip",
    name="ComCLIP",
    title="ComCLIP: Training-Free Compositional Image and Text Matching",
    arxiv="2211.13854",
    year=2022,
    room="evaluate",
    provides="ComCLIP",
    kind="Probe",
    must_show={
        "no entities parsed: score equals CLIP's cos (1e-6); all unmatched: v' = 2v, CLIP's score": (
            "tests/evaluate/test_comclip.py::test_without_parts_it_is_clip"
        ),
        "weights sum to 1 (1e-6); parts [a, a] equal [a]; duplicates are merged": (
            "tests/evaluate/test_comclip.py::test_weights_and_duplicates"
        ),
        "overlay of disjoint boxes shows both, black elsewhere": "tests/evaluate/test_comclip.py::test_overlay",
        "parser: S, V, O of 100 sentences 'the A verb the B' in 100 %": (
            "tests/evaluate/test_comclip.py::test_hundred_sentences"
        ),
        "bit-stable under batch size": "tests/evaluate/test_comclip.py::test_the_same_bits_in_any_batch",
        "scenes with exact boxes, true against swapped captions: CLIP + 5 points (pocket + 8.3; a CLIP of scenes - 19.5)": (
            "bench:evaluate_comclip"
        ),
        "with random boxes the gain vanishes (at most 2 points either way)": (
            "missed:evaluate_comclip: - 6.0 (pocket, match 0.7), + 2.0 (match best): no gain is left, one is a loss"
        ),
    },
)

Floats = NDArray[np.float64]
Box = tuple[float, float, float, float]
Found = Sequence[tuple[Sequence[float], str]]  # boxes and what is in them


@dataclass(frozen=True)
class Part:
    """Words of a caption that a part of the picture may show.

    Args:
        words: "red circle", or the verb.
        of: of a predicate, the words of its subject and object; empty for an entity.
    """

    words: str
    of: tuple[str, ...] = ()


_ARTICLES = frozenset("a an the one two three four five six some his her its their this that these those".split())
_JOINS = frozenset("and or , . ; : but while".split())
_AUXILIARY = frozenset("is are was were be being".split())
_PLACES = frozenset(
    "on in at of with by near under over above below behind beside between through across along around into onto to from "
    "left right front next top inside outside against for".split()
)
_FRAMES = frozenset("picture image photo photograph drawing painting view close-up".split())


def svo(subject: str, verb: str, thing: str) -> list[Part]:
    """The parts of a triplet, as SVO-Probes and ComVG have them; empty words are left out."""
    known = tuple(word for word in (subject, thing) if word)
    return [*(Part(word) for word in dict.fromkeys(known)), *([Part(verb, known)] if verb else [])]


def parse(caption: str) -> list[Part]:
    """Entities with their attributes and the predicates between them, by rules: no model, English.

    Articles and numbers open a noun phrase; "and" and punctuation close it; words of place, forms of "be", words in "-ing"
    and the last word before the next article are the predicate.
    """
    words = re.findall(r"[\w'-]+|[,.;:]", caption.lower())
    entities: list[str] = []
    predicates: list[tuple[str, str, str]] = []
    subject, verb = "", ""
    for chunk, followed in _chunks(words):
        if not chunk:
            subject = verb = ""
            continue
        noun, after = _split(chunk, followed)
        if noun and noun.split()[-1] not in _FRAMES:
            entities.append(noun)
            if subject and verb:
                predicates.append((subject, verb, noun))
            subject, verb = noun, ""
        verb = after if noun or after else verb
    merged = [Part(noun) for noun in dict.fromkeys(entities)]
    return merged + [Part(p, tuple(dict.fromkeys((s, o)))) for s, p, o in dict.fromkeys(predicates)]


def _chunks(words: Sequence[str]) -> list[tuple[list[str], bool]]:
    """Runs of words that begin behind an article, and whether another article ends them."""
    found: list[tuple[list[str], bool]] = []
    chunk: list[str] = []
    for word in words:
        if word in _ARTICLES or word in _JOINS:
            if chunk:
                found.append((chunk, word in _ARTICLES))
            if word in _JOINS:
                found.append(([], False))  # no predicate reaches over it
            chunk = []
        else:
            chunk.append(word)
    return [*found, (chunk, False)] if chunk else found


def _split(chunk: Sequence[str], followed: bool) -> tuple[str, str]:
    """A run of words as (noun phrase, predicate)."""
    at = next(
        (
            i
            for i, word in enumerate(chunk)
            if word in _PLACES or word in _AUXILIARY or (i and word.endswith("ing") and len(word) > 4)
        ),
        None,
    )
    if at is not None and at > 1 and followed and chunk[at] in _PLACES and re.search(r"[^s]s$", chunk[at - 1]):
        at -= 1  # "man sits on": the verb belongs to the place
    if at is None and followed and len(chunk) > 1:
        at = len(chunk) - 1
    if at is None:
        return " ".join(chunk), ""
    return " ".join(chunk[:at]), " ".join(word for word in chunk[at:] if word not in _AUXILIARY)


def show_only(image: Image.Image, boxes: Sequence[Sequence[float]]) -> Image.Image:
    """The picture at its own size with all but the union of the boxes (x0, y0, x1, y1) black."""
    pixels = np.asarray(image.convert("RGB"))
    out = np.zeros_like(pixels)
    for x0, y0, x1, y1 in boxes:
        part = (slice(max(int(y0), 0), int(np.ceil(y1))), slice(max(int(x0), 0), int(np.ceil(x1))))
        out[part] = pixels[part]
    return Image.fromarray(out)


class ComCLIP:
    """``score = cos(v + sum_k a_k v_k, t)`` with ``a_k = s_k / sum_j s_j``, ``s_k = max(<v_k, t_k>, 0)``.

    ``v``, ``t``: picture and caption; ``v_k``: the picture with all but part k black; ``t_k``: that part's words. An entity
    shows the union of its regions, a predicate that of its subject and object; without a match a part is the whole picture.
    Where the ``s_k`` add up to less than 1e-6 the weights are equal. Sub-pictures are padded to a square with black, so that
    a centre crop loses no part. Pictures and texts are encoded one at a time: a score is the same bits in any company.

    Args:
        clip: a model.
        parser: "rules", or a function from a caption to its parts (a language model behind it, or `svo` of known triplets).
        regions: function from a picture to (box, phrase) pairs, as of a dense captioner; None for none.
        match: an entity is in every region whose phrase has a cosine over this to its words; "best": in the best one.
        weights: "sum", or "softmax" of the model's scale times s_k.
        normalize_parts: False: vectors as the towers give them, for a torch `CLIP` only.

    Attributes:
        failures: how many (picture, caption) had a parser or regions that raised; they scored as CLIP does.

    Raises:
        InputError: an unknown parser or weighting, or raw vectors of a model that has none.
    """

    def __init__(
        self,
        clip: Model,
        parser: str | Callable[[str], list[Part]] = "rules",
        regions: Callable[[Image.Image], Found] | None = None,
        match: float | str = 0.7,
        weights: str = "sum",
        normalize_parts: bool = True,
    ) -> None:
        if (isinstance(parser, str) and parser != "rules") or weights not in ("sum", "softmax"):
            raise InputError(f"parser {parser!r}, weights {weights!r}: use 'rules' or a function, 'sum' or 'softmax'")
        self.vectors = vectors_of(clip)
        if not normalize_parts and not isinstance(self.vectors.encoder, TorchEncoder):
            raise InputError(
                "normalize_parts=False needs a torch CLIP, as of binderclip.load: others give unit vectors"
            )
        self.parser = parse if isinstance(parser, str) else parser
        self.regions, self.match, self.weights = regions, match, weights
        self.normalize_parts, self.failures = normalize_parts, 0

    def score(self, image: Image.Image, caption: str) -> float:
        """How well they fit, -1 to 1."""
        return float(self.score_matrix([image], [caption])[0, 0])

    def score_matrix(self, images: Sequence[Image.Image], captions: Sequence[str]) -> Floats:
        """``[N, M]``; a picture's regions are asked for once."""
        out = np.empty((len(images), len(captions)))
        for i, image in enumerate(images):
            found = self._found(image)
            for j, caption in enumerate(captions):
                out[i, j] = self._one(image, caption, found)[0]
        return out

    def explain(self, image: Image.Image, caption: str) -> list[tuple[str, Image.Image, float]]:
        """(words, sub-picture, weight) of each part; the weights sum to 1."""
        return self._one(image, caption, self._found(image))[1]

    def clip_score(self, image: Image.Image, caption: str) -> float:
        """The model's own cosine."""
        return float(_cos(self._image(image), self._text(caption)))

    def _one(
        self, image: Image.Image, caption: str, found: Found | None
    ) -> tuple[float, list[tuple[str, Image.Image, float]]]:
        v, t = self._image(image), self._text(caption)
        try:
            parts = None if found is None else list(dict.fromkeys(self.parser(caption)))
        except Exception:  # a parser of the user's: what it raises is counted, never lost
            parts = None
        if parts is None:
            self.failures += 1
        if not parts or found is None:
            return float(_cos(v, t)), []
        entities = {part.words: self._matched(part.words, found) for part in parts if not part.of}
        shown = []
        for part in parts:
            if part.of:
                groups = [entities.get(word, []) for word in part.of]
                boxes = [box for group in groups for box in group] if all(groups) else []
            else:
                boxes = entities[part.words]
            shown.append(_padded(show_only(image, boxes)) if boxes else image)
        V = np.stack([self._image(one) for one in shown])  # [parts, D]
        s = np.array([float(row @ self._text(part.words)) for row, part in zip(V, parts, strict=True)])
        a = self._weights(s)
        whole = v + (a[:, None] * V).sum(axis=0)
        return float(_cos(whole, t)), [
            (p.words, one, float(weight)) for p, one, weight in zip(parts, shown, a, strict=True)
        ]

    def _weights(self, s: Floats) -> Floats:
        if self.weights == "softmax":
            return np.asarray(softmax(self.vectors.scale * s[None])[0], np.float64)
        s = np.maximum(s, 0.0)
        return s / s.sum() if s.sum() >= 1e-6 else np.full(len(s), 1.0 / len(s))

    def _matched(self, words: str, found: Found) -> list[Box]:
        """Boxes whose phrases say the same."""
        if not found:
            return []
        t = self._text(words)
        cosines = [1.0 if phrase == words else float(_cos(self._text(phrase), t)) for _, phrase in found]
        if self.match == "best":
            keep = [int(np.argmax(cosines))]
        else:
            keep = [i for i, value in enumerate(cosines) if value > float(self.match)]
        boxes = [found[i][0] for i in keep]
        return [(float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in boxes]

    def _found(self, image: Image.Image) -> Found | None:
        """Regions of a picture; None where the function failed."""
        try:
            return list(self.regions(image)) if self.regions is not None else []
        except Exception:  # as for the parser
            return None

    def _image(self, image: Image.Image) -> Floats:
        rows = self._raw("image", image) if not self.normalize_parts else self.vectors.images([Item("one", image)])[0]
        return np.asarray(rows, np.float64)

    def _text(self, text: str) -> Floats:
        rows = self._raw("text", text) if not self.normalize_parts else self.vectors.texts([text])[0]
        return np.asarray(rows, np.float64)

    def _raw(self, side: str, one: Any) -> Any:
        assert isinstance(self.vectors.encoder, TorchEncoder)
        return self.vectors.encoder.raw(side, one)


@dataclass(frozen=True)
class Choice:
    """A picture and two captions, of which the first fits; or a caption and two pictures (SVO-Probes, ComVG).

    Args:
        id: of the row.
        image: the one that fits.
        caption: the one that fits.
        negative: a caption that does not.
        other: a picture that does not fit the caption.
    """

    id: str
    image: Image.Image
    caption: str
    negative: str = ""
    other: Image.Image | None = None


def choose(comclip: ComCLIP, rows: Sequence[Choice], data: str = "choices") -> Report:
    """Accuracy of CLIP and of ComCLIP on the same rows, a tie being wrong, and the gain with its interval.

    Raises:
        InputError: no rows, or one with neither a negative nor another picture.
    """
    if not rows or any(not row.negative and row.other is None for row in rows):
        raise InputError("there is nothing to choose from: give rows with a negative caption or another picture")
    before = comclip.failures
    table: list[dict[str, Any]] = []
    for row in rows:
        margins = []
        for score in (comclip.clip_score, comclip.score):
            wrong = [score(row.image, row.negative)] if row.negative else []
            wrong += [score(row.other, row.caption)] if row.other is not None else []
            margins.append(score(row.image, row.caption) - max(wrong))
        table.append({"id": row.id, "caption": row.caption, "clip_margin": margins[0], "margin": margins[1]})
    hits = np.array([[r["clip_margin"] > 0, r["margin"] > 0] for r in table])
    gain = hits[:, 1].astype(float) - hits[:, 0]
    failed = comclip.failures - before
    return Report(
        "comclip",
        comclip.vectors.name,
        data,
        (
            share("clip_accuracy", hits[:, 0]),
            share("accuracy", hits[:, 1]),
            resampled("gain", lambda at: float(gain[at].mean()), len(rows), unit="share"),
            plain("failures", failed, len(rows), "lower"),
        ),
        tuple(table),
        notes=(f"{failed} scores fell back to CLIP's: the parser or the regions failed",) if failed else (),
    )


class Rerank:
    """The first k of a search, in ComCLIP's order; what the search did not find stays lost.

    Args:
        find: function from a caption and k to pictures or paths, the best first.
        comclip: scores them.
        k: how many are looked at.
    """

    def __init__(self, find: Callable[[str, int], Sequence[Any]], comclip: ComCLIP, k: int = 10) -> None:
        self.find, self.comclip, self.k = find, comclip, k

    def __call__(self, caption: str) -> list[tuple[Any, float]]:
        """(picture or path, score), the best first; equal scores stay in the search's order."""
        hits = list(self.find(caption, self.k))[: self.k]
        scores = [self.comclip.score(open_image(hit).image, caption) for hit in hits]
        order = np.argsort(-np.array(scores), kind="stable")
        return [(hits[i], scores[i]) for i in order]


def _padded(image: Image.Image) -> Image.Image:
    """In the middle of a black square."""
    side = max(image.size)
    if image.width == image.height:
        return image
    square = Image.new("RGB", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _cos(a: Floats, b: Floats) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
