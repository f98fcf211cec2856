"""What the endings of file names mean to every source."""

from __future__ import annotations

from binderclip.data.media import IMAGE_SUFFIXES, OPTIONAL_SUFFIXES

__all__ = ["AUDIO", "IMAGE", "MEDIUM_OF", "SPLITS", "VIDEO"]

#: Endings of pictures, those that need an extra too.
IMAGE = IMAGE_SUFFIXES | frozenset(OPTIONAL_SUFFIXES)
#: Endings of videos.
VIDEO = frozenset(".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .wmv .ts .ogv".split())
#: Endings of sounds.
AUDIO = frozenset(".wav .flac .ogg .oga .opus .mp3 .m4a .aac .aiff".split())
#: Ending -> the field of a pair that holds it.
MEDIUM_OF: dict[str, str] = {}
for _suffixes, _medium in ((IMAGE, "image"), (VIDEO, "video"), (AUDIO, "audio")):
    MEDIUM_OF |= dict.fromkeys(_suffixes, _medium)
#: Folders that name a split, not a class.
SPLITS = frozenset("train training val valid validation dev test testing".split())
