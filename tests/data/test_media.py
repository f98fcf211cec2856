"""Pictures as people have them: every mode, every rotation, every kind of damage."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from binderclip.data.media import OPTIONAL_SUFFIXES, open_image
from binderclip.errors import BinderclipError, MediaError, NeedsExtraError

GOLDENS = Path(__file__).resolve().parent.parent / "goldens"
RED, GREEN = (254, 0, 0), (0, 180, 0)


def two_colours(width: int = 60, height: int = 40) -> Image.Image:
    """Red, with a green top left quarter."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(GREEN, (0, 0, width // 2, height // 2))
    return image


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def near(pixel: object, colour: tuple[int, int, int], off: int = 12) -> bool:
    return all(abs(int(a) - b) <= off for a, b in zip(pixel, colour, strict=True))  # type: ignore[call-overload]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM"])
def test_formats(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.bin"  # what counts is what it holds, not how it ends
    path.write_bytes(saved(two_colours(), kind))
    picture = open_image(path)
    assert (picture.image.mode, picture.image.size, picture.width, picture.height) == ("RGB", (60, 40), 60, 40)
    assert near(picture.image.getpixel((5, 5)), GREEN, 20)
    assert near(picture.image.getpixel((50, 35)), RED, 20)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(orientation: int) -> None:
    """Stored so that a viewer which obeys EXIF shows the green quarter top left."""
    undo = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }[orientation]
    stored = two_colours()
    for turn in undo:
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif.get_ifd(0x8769)[0x9003] = "2021:03:04 05:06:07"
    picture = open_image(saved(stored, "JPEG", exif=exif, quality=95))
    assert picture.image.size == (60, 40)
    assert (picture.width, picture.height) == (60, 40)
    assert near(picture.image.getpixel((5, 5)), GREEN)
    assert picture.taken == "2021-03-04T05:06:07"


@pytest.mark.parametrize("stamp", ["0000:00:00 00:00:00", "    :  :     :  :  ", "yesterday", ""])
def test_a_clock_never_set_is_no_date(stamp: str) -> None:
    exif = Image.Exif()
    exif[0x0132] = stamp
    assert open_image(saved(two_colours(), "JPEG", exif=exif)).taken is None


def test_transparency_is_put_on_white() -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert open_image(saved(clear, "PNG")).image.getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30] + [0] * 765)
    assert open_image(saved(palette, "PNG", transparency=0)).image.getpixel((0, 0)) == (255, 255, 255)
    assert open_image(saved(palette, "PNG")).image.getpixel((0, 0)) == (10, 20, 30)
    assert open_image(saved(Image.new("LA", (4, 4), (0, 0)), "PNG")).image.getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    picture = open_image(saved(Image.fromarray(values), "PNG"))
    assert [picture.image.getpixel((x, 0))[0] for x in range(4)] == [0, 1, 128, 255]
    floats = Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32))
    assert [open_image(floats).image.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


def test_cmyk_and_grey() -> None:
    assert near(open_image(saved(two_colours().convert("CMYK"), "JPEG", quality=95)).image.getpixel((50, 35)), RED, 20)
    assert open_image(saved(Image.new("L", (3, 3), 77), "PNG")).image.getpixel((0, 0)) == (77, 77, 77)
    assert open_image(saved(Image.new("1", (3, 3), 1), "PNG")).image.getpixel((0, 0)) == (255, 255, 255)


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN)]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert near(open_image(data).image.getpixel((0, 0)), RED)


@pytest.mark.parametrize("size", [(1, 1), (30000, 1), (1, 30000)])
def test_extreme_shapes(size: tuple[int, int]) -> None:
    assert open_image(saved(Image.new("RGB", size), "PNG")).image.size == size


def test_draft_decodes_a_large_jpeg_small() -> None:
    data = saved(two_colours(1600, 1200), "JPEG")
    picture = open_image(data, min_side=224)
    assert (picture.width, picture.height) == (1600, 1200)
    assert min(picture.image.size) >= 224
    assert picture.image.size == (400, 300)
    assert open_image(data).image.size == (1600, 1200)


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header promises more than there is."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


DAMAGED = {
    "a bomb": (png_claiming(60000, 60000), "too large"),
    "a promise": (png_claiming(300, 300), "damaged"),
    "text": (b"hello, I am a letter\n" * 50, "no picture"),
    "half a JPEG": (saved(two_colours(400, 400), "JPEG")[:2000], "damaged"),
    "half a PNG": (saved(two_colours(400, 400), "PNG")[:150], "damaged"),
    "a page": (b"<html><body>404</body></html>", "no picture"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n", "no picture"),
    "nothing": (b"", "no picture"),
}


@pytest.mark.parametrize("what", sorted(DAMAGED))
def test_damage_is_one_clear_error(what: str) -> None:
    data, reason = DAMAGED[what]
    with pytest.raises(MediaError, match=reason) as caught:
        open_image(data)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "AVIF"])
def test_random_damage_never_escapes(kind: str) -> None:
    """Whatever a byte flip or a cut does: a picture or a MediaError, never another exception."""
    good = saved(two_colours(64, 48), kind)
    rng = np.random.default_rng(7)
    for _ in range(60):
        data = bytearray(good)
        for place in rng.integers(0, len(data), 4):
            data[place] = rng.integers(256)
        cut = bytes(data[: rng.integers(1, len(data) + 1)])
        with contextlib.suppress(MediaError):
            assert open_image(cut).image.mode == "RGB"


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="No such file"):
        open_image(tmp_path / "none.jpg")
    with pytest.raises(MediaError, match="not a regular file"):
        open_image(tmp_path)
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(MediaError, match="empty"):
        open_image(tmp_path / "empty.jpg")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.jpg")
        with pytest.raises(MediaError, match="not a regular file"):
            open_image(tmp_path / "pipe.jpg")


@pytest.mark.parametrize("suffix", sorted(OPTIONAL_SUFFIXES))
def test_optional_formats_name_their_extra(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix.upper()}"
    path.write_bytes(b"0123456789")
    with pytest.raises(BinderclipError) as caught:
        open_image(path)
    if isinstance(caught.value, NeedsExtraError):
        assert f"binderclip[{OPTIONAL_SUFFIXES[suffix]}]" in str(caught.value)


def test_heic_with_its_extra(tmp_path: Path) -> None:
    """As a telephone writes it: HEVC, with a date in EXIF (made by pillow_heif from `two_colours(128, 96)`)."""
    picture = open_image(GOLDENS / "telephone.heic")
    assert (picture.image.mode, picture.image.size) == ("RGB", (128, 96))
    assert near(picture.image.getpixel((5, 5)), GREEN, 30)
    assert near(picture.image.getpixel((120, 90)), RED, 30)
    assert picture.taken == "2022-02-03T04:05:06"
    (tmp_path / "cut.heic").write_bytes((GOLDENS / "telephone.heic").read_bytes()[:300])
    with pytest.raises(MediaError):
        open_image(tmp_path / "cut.heic")


def test_raw_without_a_picture_is_one_line(tmp_path: Path) -> None:
    import rawpy  # noqa: F401

    (tmp_path / "x.nef").write_bytes(b"0123456789" * 100)
    with pytest.raises(MediaError, match="is damaged"):
        open_image(tmp_path / "x.nef")
