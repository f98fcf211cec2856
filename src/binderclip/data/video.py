"""Frames of videos from files that nobody vouches for, decoded in one guarded path (PyAV, extra `video`).

Whatever the file holds, the result is upright 8-bit RGB pictures with their times, or one `binderclip.errors.MediaError`
that says why not. Only containers that hold their own data are opened: no playlist, which could name other files or
addresses. At most a few frames and one second of packets are in memory, however long the video is.
"""

from __future__ import annotations

import itertools
import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Self

from PIL import Image

from binderclip.errors import InputError, MediaError, NeedsExtraError

__all__ = ["MAX_FRAMES", "MAX_FRAME_PIXELS", "VIDEO_SUFFIXES", "Frame", "Video", "frame_at", "is_video"]

#: Files with these endings are taken for videos when a folder is walked.
VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .qt .3gp .3g2 .mkv .webm .avi .divx .wmv .asf .flv .f4v .mpg .mpeg .vob .m2ts .mts .ogv .mxf".split()
)
#: Most frames that are taken from one video: over a day at one a second.
MAX_FRAMES = 100_000
#: Most pixels of one frame: 8K twice over.
MAX_FRAME_PIXELS = 2 * 7680 * 4320

_FORMATS = "mov,mp4,matroska,webm,avi,asf,flv,mpeg,mpegts,mpegvideo,ogg,mxf,m4v"
_MAX_WAITING = 32 << 20  # bytes of packets that are held back in the hope that they need no decoding
_COVER = 0x400  # FFmpeg's AV_DISPOSITION_ATTACHED_PIC
_THREADS = 4  # each decoder thread holds frames of its own
_TURNS = dict(zip((90, 180, 270), list(Image.Transpose)[2:5], strict=True))  # counter-clockwise


@dataclass(frozen=True)
class Frame:
    """One picture of a video.

    Attributes:
        time: seconds since the first frame.
        image: RGB, 8 bits, upright.
    """

    time: float
    image: Image.Image


def is_video(path: str | bytes | os.PathLike[Any]) -> bool:
    """Whether a file's name says that it is a video."""
    return os.path.splitext(os.fsdecode(path))[1].lower() in VIDEO_SUFFIXES


class Video:
    """A video that is open for reading; use it in a `with`.

    ::

        with Video("clip.mp4") as video:
            for frame in video.frames(every=1.0):
                print(frame.time, frame.image.size)

    Args:
        source: a path, or a binary file that can seek and stays the caller's.

    Attributes:
        width: of a frame, upright, in pixels.
        height: of a frame, upright, in pixels.
        duration: seconds, as the file says; None when it does not.
        rate: frames a second, as the file says; None when it does not.
        taken: when it was recorded, `YYYY-MM-DDTHH:MM:SS`, or None.
        damaged: packets that could not be decoded so far.

    Raises:
        MediaError: the file is missing, empty, damaged, too large, or no video.
        NeedsExtraError: PyAV is not installed.
    """

    def __init__(self, source: str | os.PathLike[str] | BinaryIO) -> None:
        try:
            import av
        except ImportError:
            raise NeedsExtraError("reading videos", "video") from None
        self.damaged = 0
        self._own: BinaryIO | None = None
        stream = source
        if isinstance(stream, str | os.PathLike):
            stream = self._own = _open(os.fspath(stream))
        try:
            self._container = av.open(
                stream, mode="r", metadata_errors="replace", options={"format_whitelist": _FORMATS}, buffer_size=1 << 18
            )
        except Exception as error:  # damaged files reach every corner of a demuxer
            self._close_own()
            raise MediaError(_reason(error, "is no video that can be read")) from None
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        # The one still picture on the cover of a song is no video.
        videos = [one for one in self._container.streams.video if not int(getattr(one, "disposition", 0)) & _COVER]
        if not videos:
            raise MediaError("has no moving picture in it")
        self._stream: Any = videos[0]
        codec = self._stream.codec_context
        if codec is None:
            raise MediaError("is of a codec that cannot be decoded here")
        _check_size(codec.width, codec.height)
        codec.thread_type, codec.thread_count = "AUTO", min(os.cpu_count() or 1, _THREADS)
        codec.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
        self.rate = float(self._stream.average_rate) if self._stream.average_rate else None
        self.duration = self._length()
        self.taken = _recorded(self._container.metadata.get("creation_time"))
        self.width, self.height = self._upright(codec.width, codec.height)

    def _length(self) -> float | None:
        if self._stream.duration is not None and self._stream.time_base is not None:
            return float(self._stream.duration * self._stream.time_base)
        return None if self._container.duration is None else self._container.duration / 1e6

    def _upright(self, width: int, height: int) -> tuple[int, int]:
        """Size after the turn and the shape of a pixel, from the first frame: the turn is told with the frames."""
        first = next(self._decoded(math.inf), None)
        if first is None:
            raise MediaError("has no picture that can be decoded" if self.damaged else "has no frame in it")
        self._rewind()
        size: tuple[int, int] = _picture(first).size
        return size

    def _rewind(self) -> None:
        try:
            self._container.seek(0)
        except Exception as error:
            raise MediaError(f"is damaged ({_short(error)})") from None
        self._stream.codec_context.flush_buffers()
        self.damaged = 0

    def frames(self, every: float = 1.0, *, after: float | None = None) -> Iterator[Frame]:
        """The first frame, then of each span of `every` seconds the first frame in it.

        Packets before a key frame from which the next frame wanted can be reached are not decoded, so a wide span, or a
        video of many key frames, costs little. What is damaged is passed over and counted in `damaged`.

        Args:
            every: seconds; 0 gives each frame.
            after: a time that a call gave before: go on behind it with what that call would have given.

        Raises:
            InputError: `every` is negative or not finite.
            MediaError: nothing can be decoded, or there would be more than `MAX_FRAMES`.
        """
        if not (math.isfinite(every) and every >= 0):
            raise InputError(f"every={every}: give a number of seconds, 0 or more")
        if every and self.duration is not None and self.duration / every > MAX_FRAMES:
            raise MediaError(_too_long(self.duration, every))
        self._rewind()
        target = -math.inf if after is None else _next(after, every)
        self._target = target
        count = 0
        for frame in self._decoded(target):
            moment = self._time(frame)
            if moment < self._target:
                continue
            if count == MAX_FRAMES:
                raise MediaError(_too_long(moment, every))
            count += 1
            self._target = _next(moment, every)
            yield Frame(moment, _picture(frame))
        if not count and after is None:
            raise MediaError("has no picture that can be decoded")

    def _time(self, frame: Any) -> float:
        start = self._stream.start_time or 0
        if frame.pts is not None:
            return max(float((frame.pts - start) * self._stream.time_base), 0.0)
        self._untimed += 1
        return (self._untimed - 1) / (self.rate or 25.0)

    def _decoded(self, target: float) -> Iterator[Any]:
        """Frames in order. Those before `self._target` may be left out: their packets wait until they are needed."""
        self._target, self._untimed = target, 0
        codec, base, start = self._stream.codec_context, float(self._stream.time_base), self._stream.start_time or 0
        waiting: list[Any] = []
        held = 0
        for packet in self._packets():
            stamp = packet.dts if packet.pts is None else packet.pts
            moment = None if stamp is None else (stamp - start) * base
            if packet.is_keyframe and moment is not None and 0 < moment <= self._target < math.inf:
                waiting.clear()  # what is wanted can be reached from here
                held = 0
                codec.flush_buffers()
            waiting.append(packet)
            held += packet.size
            if moment is None or not moment < self._target or held > _MAX_WAITING:
                yield from itertools.chain.from_iterable(map(self._decode, waiting))
                waiting.clear()
                held = 0
        yield from itertools.chain.from_iterable(map(self._decode, [*waiting, None]))

    def _packets(self) -> Iterator[Any]:
        try:
            for packet in self._container.demux(self._stream):
                if packet.size:  # the last, empty one would end the decoding before what waits is decoded
                    yield packet
        except Exception:  # cut off: what came before is good
            self.damaged += 1

    def _decode(self, packet: Any) -> list[Any]:
        try:
            frames = self._stream.codec_context.decode(packet)
        except MemoryError:
            raise MediaError("is too large for the memory there is") from None
        except Exception:  # one damaged packet is no reason to lose the video
            self.damaged += packet is not None
            return []
        return list(frames)

    def close(self) -> None:
        """Closes the file."""
        self._container.close()
        self._close_own()

    def _close_own(self) -> None:
        if self._own is not None:
            self._own.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def frame_at(source: str | os.PathLike[str] | BinaryIO, time: float) -> Image.Image:
    """The frame of a video at a time in seconds: the first one that is not before it, else the last.

    Raises:
        MediaError: see `Video`.
        NeedsExtraError: see `Video`.
    """
    last = None
    with Video(source) as video:
        for one in video._decoded(time - 1e-6):
            last = one
            if video._time(one) >= time - 1e-6:
                break
        if last is None:
            raise MediaError("has no picture that can be decoded")
        return _picture(last)


def _open(path: str) -> BinaryIO:
    try:
        # O_NONBLOCK: a named pipe must not hang us before we see what it is.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise MediaError(f"cannot be read: {error.strerror or error}") from None
    facts = os.fstat(handle)
    if not stat.S_ISREG(facts.st_mode) or facts.st_size == 0:
        os.close(handle)
        raise MediaError("is empty (zero bytes)" if stat.S_ISREG(facts.st_mode) else "is not a regular file")
    return open(handle, "rb")


def _next(moment: float, every: float) -> float:
    """Start of the first span behind a moment."""
    if every == 0:
        return math.nextafter(moment, math.inf)
    # A frame a hair before its span's start (1/30 s steps are no binary numbers) belongs to it.
    return (math.floor(moment / every + 1e-6) + 1) * every - 1e-6


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_FRAME_PIXELS:
        raise MediaError(f"is too large: frames of {width} x {height} pixels")


def _picture(frame: Any) -> Image.Image:
    """RGB, upright."""
    _check_size(frame.width, frame.height)
    try:
        image: Image.Image = frame.to_image()
    except Exception as error:
        raise MediaError(_reason(error, "has a damaged frame")) from None
    turn = _TURNS.get(round(frame.rotation) % 360)
    return image if turn is None else image.transpose(turn)


def _recorded(stamp: str | None) -> str | None:
    """`2024-05-01T10:00:00.000000Z` to the second; None for the epochs that cameras write when they do not know."""
    if not stamp or len(stamp) < 19 or not stamp[:4].isdigit() or int(stamp[:4]) < 1980:
        return None
    return stamp[:10] + "T" + stamp[11:19]


def _too_long(seconds: float, every: float) -> str:
    return f"is too long: {seconds:,.0f} s give over {MAX_FRAMES:,} frames at one every {every:g} s: take fewer"


def _reason(error: Exception, otherwise: str) -> str:
    import av

    if isinstance(error, MemoryError):
        return "is too large for the memory there is"
    known = isinstance(error, av.error.InvalidDataError | av.error.ArgumentError | av.error.EOFError)
    return otherwise if known else f"is damaged ({_short(error)})"


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 100 else text[:97] + "..."
