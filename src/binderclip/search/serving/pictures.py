"""Pictures that come in requests: base64, data addresses, bytes; nothing is decoded before its size is known."""

from __future__ import annotations

import base64
import binascii
import io
import re

from PIL import Image, UnidentifiedImageError

from binderclip.data.media import _formats, open_image
from binderclip.errors import InputError, MediaError
from binderclip.search.types import EncoderLike, Pixels

__all__ = ["DATA", "WEB", "model_input", "picture_bytes"]

#: How a picture inside a text begins, and how an address does.
DATA, WEB = re.compile(r"\s*data:image/", re.IGNORECASE), re.compile(r"\s*(?:https?|ftp|file)://", re.IGNORECASE)

_HEAD = re.compile(r"\s*data:image/[a-z0-9.+-]{1,40}(?:;[a-z0-9=.+-]{1,60})*;base64,", re.IGNORECASE)
_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")


def picture_bytes(text: str) -> bytes:
    """The bytes of a picture written as `data:image/...;base64,...`, or as bare base64.

    Raises:
        MediaError: it is neither.
    """
    head = _HEAD.match(text[:300])
    if head is None and DATA.match(text[:20]):
        raise MediaError("is no data address of a picture: write data:image/png;base64, and the base64 of the file")
    body = text[head.end() :] if head else text
    try:
        plain = "".join(body.split()).translate(_URL_SAFE).encode("ascii")
        data = base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise MediaError("is not base64: send the file's bytes in base64, behind data:image/png;base64,") from None
    if not data:
        raise MediaError("is empty (zero bytes)")
    return data


_URL_SAFE = str.maketrans("-_", "+/")


def model_input(data: bytes, encoder: EncoderLike, max_pixels: int) -> Pixels:
    """The model's input [H, W, 3] of a picture's bytes.

    Raises:
        MediaError: it is too large or cannot be decoded.
    """
    _check_size(data, max_pixels)
    try:
        return encoder.pixels(open_image(data, min_side=encoder.min_side).image)
    except InputError:
        raise
    except (ValueError, ArithmeticError, MemoryError, OSError) as error:
        raise MediaError(f"cannot be prepared for the model ({type(error).__name__})") from None


def _check_size(data: bytes, max_pixels: int) -> None:
    """Reads the header alone: a bomb is refused before a pixel of it is made."""
    try:
        with Image.open(io.BytesIO(data), formats=[name for name in _formats() if name in _FORMATS]) as image:
            width, height = image.size
    except UnidentifiedImageError:
        raise MediaError(f"is no picture that can be read (give {', '.join(_FORMATS)})") from None
    except Image.DecompressionBombError:
        width, height = max_pixels, 2
    except Exception as error:  # a damaged header reaches every corner of a decoder
        raise MediaError(f"is damaged ({type(error).__name__})") from None
    if width * height > max_pixels:
        raise MediaError(f"is too large: over {max_pixels:,} pixels; make it smaller")
