"""5,000 strings of our own for tokenizer parity: written captions, typing habits, fuzzed Unicode. Made by a formula."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator

COLOURS = "red blue teal off-white jet-black violet amber khaki".split()
THINGS = (
    "bicycle;saint bernard;wok;double-decker bus;snow leopard;T-shirt;café table;kite;CD player;mother-in-law".split(
        ";"
    )
)
PLACES = "in the rain;on a beach at dusk;under a bridge;beside the girl's desk;near 2nd Ave.;at 10:45 p.m.".split(";")
PLACES.append("by St. Mary's")
SHAPES = [
    "a photo of a {c} {t}",
    "Two {c} {t}s {p}!!",
    "it's the {t}; they're {c}, we've seen them {p}",
    "  A\t{c}\n{t}   {p}  ",
    "{t}, {c}, {p} #wow @someone http://example.org/a?b=1&c=2",
    "I'LL GO {p} -- {t} ({c}) 3.14 x 1,000",
    "&lt;b&gt;{t}&lt;/b&gt; &amp; {c} &quot;{p}&quot;",
    "{c}_{t}/{p}\\n...",
    "<start_of_text>{t}<end_of_text> {c}",
    "l\u2019{t} \u201c{c}\u201d \u2014 {p}\u2026 \u00bd \u2167 n\u00ba1",
]
BLOCKS = [(0x20, 0x7F), (0xA0, 0x250), (0x370, 0x530), (0x5D0, 0x5EB), (0x620, 0x64B), (0x905, 0x93A), (0xE01, 0xE2F)]
BLOCKS += [(0x3041, 0x3097), (0x30A1, 0x30FB), (0x4E00, 0x4FFF), (0xAC00, 0xAD00), (0x2010, 0x2060), (0x2190, 0x2300)]
BLOCKS += [(0x1F300, 0x1F600), (0x1F900, 0x1FA00), (0xFF01, 0xFF5F), (0x1D400, 0x1D455), (0x0, 0x20)]


def draws(seed: str) -> Iterator[int]:
    """Endless 32-bit numbers from a hash, the same on every platform."""
    for i in range(1 << 30):
        digest = hashlib.sha256(f"{seed}/{i}".encode()).digest()
        yield from (int.from_bytes(digest[j : j + 4], "big") for j in range(0, 32, 4))


def caption(i: int) -> str:
    """The i-th written caption."""
    n = draws(f"caption{i}")
    shape = SHAPES[next(n) % len(SHAPES)]
    parts = {"c": COLOURS[next(n) % 8], "t": THINGS[next(n) % 10], "p": PLACES[next(n) % 7]}
    text = shape.format(**parts)
    return text * (1 + 9 * (next(n) % 40 == 0))  # some are far too long


def fuzz(i: int) -> str:
    """The i-th fuzzed string: mostly of one block, sprinkled with others; only characters that Unicode 14 knows."""
    n = draws(f"fuzz{i}")
    home = BLOCKS[next(n) % len(BLOCKS)]
    text = ""
    for _ in range(next(n) % 40):
        low, high = home if next(n) % 10 < 7 else BLOCKS[next(n) % len(BLOCKS)]
        letter = chr(low + next(n) % (high - low))
        text += " " if unicodedata.category(letter) == "Cn" else letter
    return text


def strings() -> list[str]:
    """3,000 captions and 2,000 fuzzed strings."""
    return [caption(i) for i in range(3000)] + [fuzz(i) for i in range(2000)]
