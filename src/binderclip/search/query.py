"""What the user asks for: texts and pictures, added, taken away and weighted, as one unit vector."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from binderclip.data.media import IMAGE_SUFFIXES, OPTIONAL_SUFFIXES
from binderclip.data.video import is_video
from binderclip.errors import InputError, MediaError
from binderclip.search.types import EncoderLike, FloatArray

__all__ = ["Term", "encode_query", "parse_query"]

_WEIGHT = re.compile(r"(\d+(?:\.\d+)?):(?!\d)(.+)", re.DOTALL)
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Term:
    """One part of a query: a text, or the path of a picture or video, with its weight (negative: away from it)."""

    text: str
    weight: float = 1.0
    is_image: bool = False


def parse_query(words: Sequence[str] | str, *, plus: Sequence[str] = (), minus: Sequence[str] = ()) -> list[Term]:
    """Reads a query as it is typed.

    Words up to a lone `+` or `-` are one text: `cat on a sofa + night - "city lights"`. `2:cat` weighs a text twice
    (`3:30` does not: a weight is not followed by a digit). A text that is the path of a file is that picture.

    Args:
        words: the words of a command line, or one string, which is one text or one path.
        plus: more texts or paths to add.
        minus: texts or paths to move away from.

    Raises:
        InputError: nothing is asked for, a picture is not there, or it is an address on the network.
    """
    spans: list[tuple[float, list[str]]] = [(1.0, [])]
    for word in [words] if isinstance(words, str) else words:
        if word in ("+", "-"):
            spans.append((1.0 if word == "+" else -1.0, []))
        else:
            spans[-1][1].append(word)
    if not spans[0][1]:
        spans.pop(0)  # "- dog" alone is allowed: away from dogs
    if any(not span for _, span in spans):
        raise InputError("the query has a + or - with nothing behind it: name a text or a picture there")
    terms = [term for sign, span in spans for term in _terms(span, sign)]
    terms += [_term(text, 1.0) for text in plus] + [_term(text, -1.0) for text in minus]
    if not terms:
        raise InputError('nothing to search for: give a text or a picture, as in: binderclip search "a red bicycle"')
    return terms


def _terms(span: Sequence[str], sign: float) -> list[Term]:
    # A picture is a term of its own even without a sign before or after it.
    if len(span) > 1 and any(
        _looks_like_image(_WEIGHT.sub(r"\2", word)) and _is_file(_unweighted(word)) for word in span
    ):
        return [_term(word, sign) for word in span]
    return [_term(" ".join(span), sign)]


def _unweighted(text: str) -> str:
    found = _WEIGHT.fullmatch(text)
    return text if found is None or _is_file(text) else found[2]


def _term(text: str, sign: float) -> Term:
    bare = _unweighted(text).strip()
    found = _WEIGHT.fullmatch(text)
    weight = float(found[1]) if found is not None and bare != text.strip() else 1.0
    if not bare:
        raise InputError("a text of the query is empty: name what to look for")
    if _URL.match(bare):
        raise InputError(
            f"{bare} is an address on the network and nothing is fetched: save the picture and name the file"
        )
    if _is_file(bare):
        return Term(bare, sign * weight, is_image=True)
    if _looks_like_image(bare):
        raise InputError(f"no such picture: {bare}")
    return Term(bare, sign * weight)


def _is_file(text: str) -> bool:
    try:
        path = Path(text).expanduser()
        # "cat" is a text even where a file of that name lies about; "./cat" and "cat.jpg" are files.
        return path.is_file() and (os.sep in text or "/" in text or _looks_like_image(text))
    except (OSError, ValueError, RuntimeError):
        return False


def _looks_like_image(text: str) -> bool:
    suffix = Path(text).suffix.lower()
    return suffix in IMAGE_SUFFIXES or suffix in OPTIONAL_SUFFIXES or is_video(text)


def encode_query(terms: Sequence[Term], encoder: EncoderLike) -> FloatArray:
    """The unit vector of a query: sum over terms of weight times unit vector, brought to length 1.

    Args:
        terms: from `parse_query`.
        encoder: makes the terms' unit vectors.

    Returns:
        A vector [D].

    Raises:
        InputError: the terms cancel each other.
    """
    vectors = np.zeros((len(terms), encoder.dim), dtype=np.float32)  # [T, D]
    texts = [i for i, term in enumerate(terms) if not term.is_image]
    images = [i for i, term in enumerate(terms) if term.is_image]
    if texts:
        vectors[texts] = encoder.encode_text([terms[i].text for i in texts])
    for i in [i for i in images if is_video(terms[i].text)]:
        from binderclip.search.frames import vectors_of_video

        try:
            mean = vectors_of_video(Path(terms[i].text).expanduser(), encoder)[1].mean(axis=0)
        except MediaError as error:
            raise InputError(f"{terms[i].text} {error}: name a video or a picture that opens") from None
        vectors[i] = mean / max(float(np.linalg.norm(mean)), 1e-12)
        images.remove(i)
    if images:
        vectors[images] = encoder.encode_image([Path(terms[i].text).expanduser() for i in images])
    weights = np.array([term.weight for term in terms], dtype=np.float32)
    summed = weights @ vectors
    length = float(np.linalg.norm(summed))
    if length < 1e-6 * max(float(np.abs(weights).sum()), 1.0):
        raise InputError("the parts of the query cancel each other: change a weight")
    return np.asarray(summed / length, dtype=np.float32)
