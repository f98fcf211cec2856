"""Search: vectors of pictures, stored in one file, found by what a text or a picture says."""

from __future__ import annotations

from binderclip.search.base import Index
from binderclip.search.types import EncoderLike, Hit, Row

__all__ = ["EncoderLike", "Hit", "Index", "Row"]
