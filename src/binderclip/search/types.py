"""The nouns of the room: a row of an index, a hit, and what an index asks of an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Calibration", "EncoderLike", "FloatArray", "Hit", "Pixels", "Row", "show_time"]

FloatArray = NDArray[np.float32]
Pixels = NDArray[np.uint8]


class Calibration(Protocol):
    """What turns a cosine into a probability that the picture shows what the query says."""

    def probability(self, query: FloatArray, cosines: FloatArray) -> NDArray[np.floating[Any]]:
        """Probabilities [N] of cosines [N] for one unit query [D]."""
        ...


class EncoderLike(Protocol):
    """What an index asks of an encoder; `binderclip.Encoder` is one.

    A row must not depend on the other rows of its batch: an index that was stopped and resumed then holds
    the same bits as one that was not.
    """

    @property
    def name(self) -> str:
        """The model's name, as the user gave it."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes when, and only when, the vectors change."""
        ...

    @property
    def dim(self) -> int:
        """Length D of a vector."""
        ...

    @property
    def min_side(self) -> int:
        """Pictures may be decoded at any size whose short side is not under this."""
        ...

    @property
    def calibration(self) -> Calibration | None:
        """Cosine to probability, or None when the model has none."""
        ...

    def pixels(self, image: Image.Image) -> Pixels:
        """Model input [H, W, 3] of one picture. Called from several threads at once."""
        ...

    def encode_pixels(self, pixels: Pixels) -> FloatArray:
        """Unit rows [N, D] of model inputs [N, H, W, 3]."""
        ...

    def encode_text(self, texts: Sequence[str]) -> FloatArray:
        """Unit rows [N, D] of N texts."""
        ...

    def encode_image(self, images: Sequence[Any]) -> FloatArray:
        """Unit rows [N, D] of N paths or PIL images."""
        ...


def show_time(time: float) -> str:
    """Seconds as people write them: `0:12`, `1:02:30`."""
    minutes, seconds = divmod(int(time + 1e-3), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


@dataclass(frozen=True, slots=True)
class Row:
    """One file of an index, or one frame of a video.

    Args:
        path: where it is, as text (bytes that are not UTF-8 are shown as replacement characters).
        raw_path: the same as the operating system's bytes.
        content: hash of what it holds, in hexadecimal; two paths to one content share it.
        size: bytes.
        mtime_ns: when it was last changed, nanoseconds since 1970, UTC.
        width: pixels, upright.
        height: pixels, upright.
        taken: when, after its EXIF data, ISO 8601; None when it does not say.
        time: seconds from the start of the video; None for a picture, and for a video as a whole.
    """

    path: str
    raw_path: bytes
    content: str
    size: int
    mtime_ns: int
    width: int
    height: int
    taken: str | None = None
    time: float | None = None

    @property
    def mtime(self) -> float:
        """When it was last changed, seconds since 1970, UTC."""
        return self.mtime_ns / 1e9

    @property
    def moment(self) -> str:
        """The time for people, as in `0:12` or `1:02:30`; empty where there is none."""
        return "" if self.time is None else show_time(self.time)

    def as_json(self) -> dict[str, Any]:
        """The row as plain values."""
        return {
            "path": self.path,
            "content": self.content,
            "size": self.size,
            "mtime": self.mtime,
            "width": self.width,
            "height": self.height,
            "taken": self.taken,
            "time": self.time,
        }


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer: a row, its cosine to the query, and the near-duplicates folded under it.

    Args:
        row: the file.
        score: cosine to the query, -1 to 1.
        probability: that the file shows what the query says, 0 to 1; None where the model is not calibrated.
        folded: paths of near-duplicates that are not listed on their own.
    """

    row: Row
    score: float
    probability: float | None = None
    folded: tuple[str, ...] = field(default=())

    @property
    def path(self) -> str:
        """Where the file is, as text."""
        return self.row.path

    def as_json(self) -> dict[str, Any]:
        """The hit as plain values: `path`, `score`, `probability`, then the rest."""
        rest = self.row.as_json()
        return {
            "path": rest.pop("path"),
            "score": self.score,
            "probability": self.probability,
            **rest,
            "folded": list(self.folded),
        }
