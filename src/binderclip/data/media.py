"""Pictures from files that nobody vouches for, decoded in one guarded path.

Whatever the file holds (rotation in EXIF, CMYK, palettes, 16 bits, transparency, animation), the result is an upright 8-bit
RGB picture, or one ``binderclip.errors.MediaError`` that says why not. Only formats that Pillow decodes by itself are
tried: none that starts another program. Transparent pixels are put on white; of an animation the first frame is taken.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import stat
import struct
import threading
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from binderclip.errors import MediaError, NeedsExtraError

__all__ = ["IMAGE_SUFFIXES", "MAX_PIXELS", "OPTIONAL_SUFFIXES", "Picture", "Source", "open_image"]

Source = str | os.PathLike[str] | bytes | BinaryIO | Image.Image

#: Files with these endings are taken for pictures when a folder is walked.
IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .gif .bmp .dib .webp .tif .tiff .avif .ppm .pgm .pbm .pnm .jp2 .j2k .ico".split()
)
#: Endings that need an extra, and which.
OPTIONAL_SUFFIXES = dict.fromkeys([".heic", ".heif", ".hif"], "heic") | dict.fromkeys(
    ".nef .cr2 .cr3 .arw .dng .orf .rw2 .raf .pef .srw".split(), "raw"
)
#: Most pixels of one picture: Pillow's own limit for a decompression bomb. A 108-megapixel telephone picture passes.
MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 89_478_485)

_PLUGINS = "Bmp Gif Jpeg Mpo Png Ppm WebP Tiff Avif Jpeg2K Ico".split()
_FORMATS = "JPEG MPO PNG GIF BMP DIB WEBP TIFF AVIF PPM JPEG2000 ICO HEIF".split()
_BIG_PIXELS = 30_000_000
# Pictures over 30 megapixels are decoded one at a time, so that memory stays bounded with any number of threads.
_one_big = threading.Lock()
_heic_lock = threading.Lock()
_heic_ready = False

# Our own check refuses what is too large; below that limit Pillow's warning would only frighten.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Picture:
    """A decoded picture and what its file says of it.

    Attributes:
        image: RGB, 8 bits, upright. It may be smaller than the file's picture when ``min_side`` was given.
        width: of the file's picture, upright, in pixels.
        height: of the file's picture, upright, in pixels.
        taken: when the camera took it, ``YYYY-MM-DDTHH:MM:SS`` without a time zone, or ``None``.
    """

    image: Image.Image
    width: int
    height: int
    taken: str | None = None


def open_image(source: Source, *, min_side: int | None = None) -> Picture:
    """Decode one picture.

    Args:
        source: a path, the bytes of a file, an open binary file, or a Pillow image.
        min_side: let a JPEG be decoded at a half, a quarter or an eighth as long as its short side stays at least this
            many pixels; several times faster on large photos. ``None`` decodes in full.

    Raises:
        MediaError: the file is missing, empty, damaged, too large, or no picture.
        NeedsExtraError: HEIC or RAW without the extra.
    """
    if isinstance(source, Image.Image):
        return _finish(source, None)
    if isinstance(source, str | os.PathLike):
        return _open_path(os.fspath(source), min_side)
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    return _decode(stream, min_side)


def _open_path(path: str, min_side: int | None) -> Picture:
    extra = OPTIONAL_SUFFIXES.get(os.path.splitext(path)[1].lower())
    if extra == "raw":
        return _decode_raw(path)
    if extra == "heic":
        _register_heic()
    try:
        # O_NONBLOCK: a named pipe must not hang us before we see what it is.
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise MediaError(f"cannot be read: {error.strerror or error}") from None
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
        os.close(fd)
        raise MediaError("is empty (zero bytes)" if stat.S_ISREG(status.st_mode) else "is not a regular file")
    with open(fd, "rb") as stream:
        return _decode(stream, min_side)


@lru_cache(maxsize=1)
def _load_plugins() -> None:
    """Import the decoders we allow, and no other: Pillow would load some forty."""
    for name in _PLUGINS:
        with contextlib.suppress(ImportError):  # an old Pillow without AVIF reads all the rest
            importlib.import_module(f"PIL.{name}ImagePlugin")


def _formats() -> list[str]:
    _load_plugins()
    return [name for name in _FORMATS if name in Image.OPEN]


def _decode(stream: BinaryIO, min_side: int | None) -> Picture:
    try:
        with Image.open(stream, formats=_formats()) as image:
            if image.width * image.height > MAX_PIXELS:
                raise MediaError(f"is too large: {image.width} x {image.height} pixels")
            size = image.size
            if min_side is not None:
                image.draft("RGB", (min_side, min_side))
            if image.width * image.height > _BIG_PIXELS:
                with _one_big:
                    return _finish(image, size)
            return _finish(image, size)
    except MediaError:
        raise
    except UnidentifiedImageError:
        raise MediaError("is no picture that can be read") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise MediaError(f"is too large: over {MAX_PIXELS // 1_000_000} million pixels") from None
    except MemoryError:
        raise MediaError("is too large for the memory there is") from None
    except Exception as error:
        # Damaged files reach every corner of a decoder: struct.error, SyntaxError, ValueError, EOFError, ...
        raise MediaError(f"is damaged ({_short(error)})") from None


def _finish(image: Image.Image, size: tuple[int, int] | None) -> Picture:
    """Load, turn upright, flatten to RGB."""
    width, height = size or image.size
    orientation, taken = _exif(image)
    image.load()
    if orientation in (5, 6, 7, 8):
        width, height = height, width
    if orientation != 1:
        image = ImageOps.exif_transpose(image)
    return Picture(_to_rgb(image), width, height, taken)


def _exif(image: Image.Image) -> tuple[int, str | None]:
    try:
        exif = image.getexif()
        if not exif:
            return 1, None
        orientation = exif.get(0x0112, 1)
        stamp = exif.get_ifd(0x8769).get(0x9003) or exif.get(0x0132)
    except (ValueError, TypeError, KeyError, OSError, SyntaxError, struct.error):
        return 1, None  # damaged EXIF is no reason to lose the picture
    return (orientation if orientation in range(1, 9) else 1), _iso_date(stamp)


def _iso_date(stamp: Any) -> str | None:
    """EXIF's ``YYYY:MM:DD HH:MM:SS`` as ISO 8601; ``None`` for what cameras write when their clock was never set."""
    text = str(stamp or "").strip().strip("\x00")
    date, _, clock = text.partition(" ")
    parts = date.replace("-", ":").split(":")
    if len(parts) != 3 or not all(p.isdigit() for p in parts) or int(parts[0]) == 0:
        return None
    clock = clock if len(clock) == 8 and clock.replace(":", "").isdigit() else "00:00:00"
    return f"{int(parts[0]):04d}-{int(parts[1]):02d}-{int(parts[2]):02d}T{clock}"


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "La", "RGBa", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _from_deep(image: Image.Image) -> Image.Image:
    """16 and 32 bit grey to 8 bits: Pillow's own conversion clips at 255 instead of scaling."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float32))
    top = float(values.max(initial=0.0))
    if image.mode.startswith("I;16") or 255.0 < top <= 65535.0:
        values = values / 257.0
    elif top > 65535.0:
        values = values * (255.0 / top)
    elif image.mode == "F" and top <= 1.0:
        values = values * 255.0
    return Image.fromarray(np.clip(values + 0.5, 0, 255).astype(np.uint8))


def _register_heic() -> None:
    global _heic_ready
    with _heic_lock:
        if _heic_ready:
            return
        try:
            import pillow_heif
        except ImportError:
            raise NeedsExtraError("reading HEIC pictures", "heic") from None
        pillow_heif.register_heif_opener()
        _heic_ready = True


def _decode_raw(path: str) -> Picture:
    try:
        import rawpy
    except ImportError:
        raise NeedsExtraError("reading RAW pictures", "raw") from None
    try:
        with rawpy.imread(path) as raw:
            pixels = raw.postprocess(half_size=True, use_camera_wb=True)
            height, width = raw.sizes.iheight, raw.sizes.iwidth
    except Exception as error:
        raise MediaError(f"is damaged ({_short(error)})") from None
    return Picture(Image.fromarray(pixels), int(width), int(height))


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 100 else text[:97] + "..."
