"""Frames of videos: against a plain decoding of every frame, and on files that are damaged, hostile or no videos."""

from __future__ import annotations

import contextlib
import math
import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest

from binderclip.data import video as module
from binderclip.data.video import Video, frame_at, is_video
from binderclip.errors import InputError, MediaError, NeedsExtraError

from .video_kit import av, counting, flat, turn_right, write_sound, write_video


def plain(path: Path) -> list[tuple[float, bytes]]:
    """Every frame with its time, decoded as simply as can be: the oracle."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        start = float((stream.start_time or 0) * stream.time_base)
        return [(frame.time - start, frame.to_image().tobytes()) for frame in container.decode(stream)]


def sampled(path: Path, every: float) -> list[tuple[float, bytes]]:
    """The first frame of each span, by a loop over all frames."""
    out, spans = [], set()
    for time, picture in plain(path):
        span = math.floor(time / every + 1e-5)
        if span not in spans:
            spans.add(span)
            out.append((time, picture))
    return out


def taken(path: Path, every: float, after: float | None = None) -> list[tuple[float, bytes]]:
    with Video(path) as video:
        return [(frame.time, frame.image.tobytes()) for frame in video.frames(every, after=after)]


def same(found: list[tuple[float, bytes]], expected: list[tuple[float, bytes]]) -> None:
    assert [time for time, _ in found] == pytest.approx([time for time, _ in expected])
    assert [picture for _, picture in found] == [picture for _, picture in expected]


@pytest.mark.parametrize(
    ("codec", "gop", "name"), [("mpeg4", 12, "a.mp4"), ("mpeg4", 300, "a.mkv"), ("mjpeg", 1, "a.avi")]
)
def test_sampling_equals_picking_from_all_frames(tmp_path: Path, codec: str, gop: int, name: str) -> None:
    path = write_video(tmp_path / name, counting(110), codec=codec, gop=gop)
    same(taken(path, 0), plain(path))
    for every in (0.3, 1.0, 2.5, 100.0):
        same(taken(path, every), sampled(path, every))


def test_going_on_behind_a_frame_gives_the_same_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", counting(130), rate=30)
    whole = taken(path, 0.7)
    for i in (0, 2, len(whole) - 1):
        same(taken(path, 0.7, after=whole[i][0]), whole[i + 1 :])


def test_what_no_wanted_frame_needs_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.avi", counting(250), codec="mjpeg", gop=1)
    fed: list[object] = []
    decode = Video._decode
    monkeypatch.setattr(Video, "_decode", lambda self, packet: [fed.append(packet), decode(self, packet)][1])  # type: ignore[func-returns-value]
    assert len(taken(path, 1.0)) == 10
    assert len(fed) < 80  # of 250: one a second, and what the decoder's threads hold


def test_a_frame_by_its_time(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", counting(60))
    frames = plain(path)
    for i in (0, 17, 59):
        assert frame_at(path, frames[i][0]).tobytes() == frames[i][1]
    assert frame_at(path, 99.0).tobytes() == frames[-1][1]


def test_facts(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "a.mp4", counting(50, (80, 48)), tags={"creation_time": "2024-05-01T10:20:30.000000Z"}
    )
    with Video(path) as video:
        assert (video.width, video.height, video.rate, video.taken) == (80, 48, 25.0, "2024-05-01T10:20:30")
        assert video.duration == pytest.approx(2.0)
    assert is_video("trip.MP4")
    assert is_video(b"/x/\xff.mkv")
    assert not is_video("a.png")


def test_a_turned_video_is_upright(tmp_path: Path) -> None:
    frames = flat([(250, 0, 0)], 5)
    frames[:, :, 32:] = (0, 0, 250)  # red on the left, blue on the right
    path = turn_right(write_video(tmp_path / "a.mp4", frames))
    with Video(path) as video:
        assert (video.width, video.height) == (48, 64)
        (frame,) = video.frames()
    upper, lower = frame.image.getpixel((24, 8)), frame.image.getpixel((24, 56))
    assert upper[0] > 200 > 60 > upper[2]
    assert lower[2] > 200 > 60 > lower[0]


def _bad(folder: Path, kind: str) -> Path:
    path = folder / "a.mp4"
    if kind == "text":
        path.write_text("the quick brown fox\n" * 50)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "sound":
        write_sound(path)
    elif kind == "cover":
        write_sound(path, cover=True)
    elif kind == "playlist":
        write_video(folder / "secret.mp4", counting(30))
        path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.mp4\n#EXT-X-ENDLIST\n")
    elif kind == "list":
        write_video(folder / "secret.mp4", counting(30))
        path.write_text("ffconcat version 1.0\nfile secret.mp4\n")
    elif kind == "header":
        path.write_bytes(write_video(folder / "b.mp4", counting(30)).read_bytes()[:200])
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("text", "no video"), ("empty", "zero bytes"), ("missing", "cannot be read"), ("pipe", "regular file"),
        ("sound", "no moving picture"),
        ("cover", "no moving picture"), ("playlist", "no video"), ("list", "no video"), ("header", "no video"),
    ],
)  # fmt: skip
def test_what_is_no_video_is_refused_in_one_line(tmp_path: Path, kind: str, reason: str) -> None:
    with pytest.raises(MediaError, match=reason) as caught:
        taken(_bad(tmp_path, kind), 1.0)
    assert "\n" not in str(caught.value)


def test_of_a_video_that_is_cut_off_what_is_there_is_read(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", counting(250))
    whole = taken(path, 1.0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    half = taken(path, 1.0)
    assert 2 < len(half) < 8
    same(half, whole[: len(half)])


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_flipped_bytes_give_frames_or_one_line(tmp_path: Path, name: str) -> None:
    good = write_video(tmp_path / name, counting(40)).read_bytes()
    path = tmp_path / f"b{name}"
    for seed in range(25):
        draw = random.Random(seed)
        data = bytearray(good)
        for _ in range(draw.choice((1, 20, 400))):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(data[: draw.randrange(1, len(data) + 1)] if seed % 3 == 0 else data)
        with contextlib.suppress(MediaError):
            assert taken(path, 0.5)


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", counting(100))
    with Video(path) as video, pytest.raises(InputError, match="every"):
        list(video.frames(-1.0))
    monkeypatch.setattr(module, "MAX_FRAMES", 3)
    with pytest.raises(MediaError, match=r"too long: 4 s .* take fewer"):
        taken(path, 1.0)
    monkeypatch.setattr(Video, "_length", lambda self: None)  # a file that does not say how long it is
    with pytest.raises(MediaError, match="too long"):
        taken(path, 1.0)
    monkeypatch.setattr(module, "MAX_FRAME_PIXELS", 100)
    with pytest.raises(MediaError, match="too large: frames of 64 x 48"):
        taken(path, 1.0)


def test_without_pyav_one_line_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", counting(5))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(NeedsExtraError, match=r"binderclip\[video\]"):
        Video(path)


@pytest.mark.data
def test_real_clips(shared_data: Path) -> None:
    sizes = {}
    for path in sorted((shared_data / "videos").iterdir()):
        if not is_video(path):
            continue
        with Video(path) as video:
            frames = list(video.frames())
            sizes[path.name] = (frames[0].image.size, len(frames), video.damaged)
            assert frames[0].image.size == (video.width, video.height)
            assert video.duration is not None
            assert abs(len(frames) - video.duration) <= 1.5
            assert np.asarray(frames[len(frames) // 2].image).std() > 5
    assert len(sizes) == 11
    assert sizes["rotated_90.mov"][0] == (320, 568)
    assert sizes["corrupted.mp4"][1:] == (5, 1)
    assert sum(damaged for _, _, damaged in sizes.values()) == 1
