"""Videos to read, written with PyAV: flat colours, or frames that are given."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av")


def flat(colours: Sequence[tuple[int, int, int]], each: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """`each` frames of every colour: [T, H, W, 3]."""
    frames = [np.full((size[1], size[0], 3), colour, np.uint8) for colour in colours for _ in range(each)]
    return np.stack(frames)


def counting(count: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """Frames [T, H, W, 3] no two of which are alike: a bar that moves, and a brightness that rises."""
    frames = np.zeros((count, size[1], size[0], 3), np.uint8)
    for i in range(count):
        frames[i, :, :, 1] = 40 + (i * 7) % 160
        frames[i, :, (i * 3) % size[0] :, 0] = 200
    return frames


def write_video(
    path: Path,
    frames: np.ndarray,
    *,
    rate: int = 25,
    codec: str = "mpeg4",
    gop: int = 12,
    tags: dict[str, str] | None = None,
) -> Path:
    """Writes frames [T, H, W, 3] as a video and returns where it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        out.metadata.update(tags or {})
        stream = out.add_stream(codec, rate=rate)
        stream.width, stream.height = frames.shape[2], frames.shape[1]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = gop
        stream.bit_rate = 2_000_000
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        out.mux(stream.encode(None))
    return path


def write_sound(path: Path, *, cover: bool = False) -> Path:
    """Writes a second of silence and no picture, or the one on its cover."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=44100, layout="mono")
        if cover:
            front = out.add_stream("mjpeg", rate=1)
            front.width, front.height, front.pix_fmt = 32, 32, "yuvj420p"
            front.disposition = av.stream.Disposition.attached_pic
            picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8), format="rgb24")
            out.mux(front.encode(picture))
            out.mux(front.encode(None))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def turn_right(path: Path) -> Path:
    """Says in an MP4's header that its picture is to be shown a quarter turned to the right."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path
