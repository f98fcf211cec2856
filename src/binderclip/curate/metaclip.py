"""MetaCLIP: Demystifying CLIP Data (Xu et al., arXiv 2309.16671): captions balanced over a list of concepts.

A caption is kept by what it says, never by a model's score: it must hold at least one entry of the list M, and entries that
many captions hold are thinned to about t captions, while the tail is kept whole. With N_e captions that hold e,

    p_e = min(1, t / N_e),    P = 1 - prod_{e in caption} (1 - p_e),    keep if hash64(seed, id) / 2^64 < P.

Remove duplicates first: balancing is the last step, or copies eat the quota.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binderclip.cards import Card
from binderclip.curate.base import Arrays, Batch, Curator, Verdict
from binderclip.curate.matching import Matcher
from binderclip.curate.metadata import read_metadata
from binderclip.data.hashing import uniform
from binderclip.data.pairs import Pair
from binderclip.errors import InputError

__all__ = ["MetaCLIP", "count_of_tail_share", "tail_share_of_count"]

CARD = Card(
    slug="metaclip",
    name="MetaCLIP",
    title="Demystifying CLIP Data",
    arxiv="2309.16671",
    year=2023,
    room="curate",
    provides="MetaCLIP",
    kind="Curator",
    verb="filter",
    needs=("captions",),
    files=("curate/matching.py", "curate/metadata.py"),
    must_show={
        "automaton equals the naive substring scan on 2,000 captions x 5,000 entries; words and case": (
            "tests/curate/test_metaclip.py::test_matching_equals_the_naive_scan"
        ),
        "all N_e <= t: everything matched is kept": "tests/curate/test_metaclip.py::test_under_t_all_is_kept",
        "law: p = (0.2, 0.5) is kept at 0.6 +- 0.035 over 2,000 seeds": "tests/curate/test_metaclip.py::test_law",
        "an entry alone in its captions: t +- 3 sqrt(t) are kept": "tests/curate/test_metaclip.py::test_expected_count",
        "1 shard, 7 shards, shuffled: identical ids; a killed pass resumed gives the same": (
            "tests/curate/test_metaclip.py::test_shards_order_and_resuming"
        ),
        "Zipf captions: entropy rises, the top 1 % share falls by >= 30 %, the tail keeps all": (
            "tests/curate/test_metaclip.py::test_balance"
        ),
        "WordNet glosses: entropy rises, the top 1 % share falls by >= 30 %, the tail keeps all": (
            "missed:curate_metaclip: entropy rises and the tail keeps all, but the share falls by 10.8 % (0.440 to 0.392): "
            "a gloss holds 5.7 entries, and one rare entry keeps the whole gloss with its common words"
        ),
        "50k synthetic pairs, same budget: class-average accuracy >= random subset": "bench:curate_metaclip",
    },
)


class MetaCLIP(Curator):
    """Balances captions over concepts. Columns of a batch: entries of each caption (flat), and how many each has.

    Args:
        metadata: the list M: entries, a file of an entry a line (or a JSON list), or WordNet's Parquet file.
        t: most captions of an entry, about; the paper: 20,000 for 400M pairs, 170,000 for 2.5B.
        tail_share: share of all matches that are of entries under t; chooses t by the pool instead (about 0.06 at the
            400M setting), which is how t is carried to other sizes and languages.
        seed: of the draws.
        language: keeps rows whose metadata say this ``language``; the others have the reason "language".

    Raises:
        InputError: no list, or neither ``t`` nor ``tail_share``.

    Example:
        >>> rows = [Pair(str(i), captions=("a dog runs",)) for i in range(1000)] + [Pair("cat", captions=("a cat",))]
        >>> from binderclip.curate.base import curate_rows
        >>> verdict, _ = curate_rows(MetaCLIP(["dog", "cat"], t=100), rows)
        >>> int(verdict.keep.sum()) in range(70, 130), verdict.reason[-1]
        (True, 'tail')
    """

    def __init__(
        self,
        metadata: Sequence[str] | str | os.PathLike[str] = (),
        t: int | None = 20_000,
        tail_share: float | None = None,
        seed: int = 0,
        language: str | None = None,
    ) -> None:
        if not metadata:
            raise InputError("MetaCLIP needs metadata: a text file of a concept a line, or WordNet's Parquet file")
        if tail_share is None and (t is None or t < 1):
            raise InputError(f"t is {t}: give the most captions of an entry, at least 1, or tail_share")
        if tail_share is not None and not 0 < tail_share <= 1:
            raise InputError(f"tail_share is {tail_share}: give a share over 0 and up to 1")
        self.metadata, self.t, self.tail_share, self.seed, self.language = metadata, t, tail_share, seed, language
        entries = read_metadata(metadata) if isinstance(metadata, str | os.PathLike) else metadata
        self.matcher = Matcher(entries)

    @property
    def entries(self) -> list[str]:
        """The list M, by number."""
        return self.matcher.entries

    def settings(self) -> dict[str, Any]:
        """The list by its content."""
        content = hashlib.sha256("\n".join(self.entries).encode("utf-8", "surrogateescape")).hexdigest()
        return super().settings() | {"metadata": content}

    def read(self, rows: Sequence[Pair]) -> Arrays:
        """``flat`` [sum of matches], ``spans`` [captions] matches of each, ``captions`` [N] (-1: another language)."""
        flat: list[int] = []
        spans: list[int] = []
        captions = np.zeros(len(rows), np.int32)
        for i, row in enumerate(rows):
            if self.language is not None and str(row.metadata.get("language", "")) != self.language:
                captions[i] = -1
                continue
            captions[i] = len(row.captions)
            for caption in row.captions:
                found = self.matcher(caption)
                flat += found
                spans.append(len(found))
        return {"flat": np.array(flat, np.uint32), "spans": np.array(spans, np.int32), "captions": captions}

    def scan(self, batch: Batch) -> Arrays:
        """``counts`` N_e [|M|]: captions, not tokens and not rows; ``texts`` and ``matched`` captions [1]."""
        columns = batch.columns
        counts = np.bincount(columns["flat"].astype(np.int64), minlength=len(self.entries)).astype(np.uint64)
        matched = np.array([np.count_nonzero(columns["spans"])], np.uint64)
        return {"counts": counts, "texts": np.array([len(columns["spans"])], np.uint64), "matched": matched}

    def close(self, partial: Arrays) -> Arrays:
        """``p`` [|M|] float32, ``t`` [1], and the counts.

        Raises:
            InputError: no caption, or none that holds an entry.
        """
        if not partial["texts"][0]:
            raise InputError("no row has a caption: MetaCLIP chooses by captions, name their column or another source")
        if not partial["matched"][0]:
            raise InputError("no caption holds an entry of the list: choose a list of the captions' language")
        counts = partial["counts"]
        t = self.t if self.tail_share is None else count_of_tail_share(counts, self.tail_share)
        assert t is not None
        p = np.minimum(1.0, t / np.maximum(counts.astype(np.float64), 1)).astype(np.float32)
        return partial | {"p": p, "t": np.array([t], np.uint64)}

    def judge(self, batch: Batch, plan: Arrays) -> Verdict:
        """One of the captions that match is picked, then kept with probability P, the score; the weight is 1 / P."""
        n, p = len(batch), plan["p"]
        u, which = uniform(self.seed, batch.ids), uniform(self.seed + 1, batch.ids)
        score, pick, reason = np.zeros(n), np.full(n, -1, np.int64), []
        for i, captions in enumerate(_by_row(batch.columns)):
            matched = [k for k, entries in enumerate(captions or ()) if len(entries)]
            if captions is None:
                reason.append("language")
            elif not matched:
                reason.append("no-match" if captions else "no-caption")
            else:
                pick[i] = matched[int(which[i] * len(matched))]
                entries = captions[pick[i]]
                chances = p[entries].tolist()
                score[i] = 1 - math.prod(1 - chance for chance in chances)
                least = int(np.argmin(chances))
                tail = max(chances) >= 1
                reason.append("tail" if tail else f"head:{self.entries[entries[least]]}")
        keep = u < score
        weight = np.divide(1.0, score, out=np.zeros(n), where=keep)
        return Verdict(keep, weight, score, reason, caption=pick)

    def about(self, plan: Arrays) -> dict[str, Any]:
        """What was counted."""
        counts, t = plan["counts"], int(plan["t"][0])
        return {
            "captions": int(plan["texts"][0]),
            "captions_matched": int(plan["matched"][0]),
            "entries": len(counts),
            "entries_seen": int(np.count_nonzero(counts)),
            "t": t,
            "head_entries": int((counts > t).sum()),
            "tail_share": round(tail_share_of_count(counts, t), 6),
        }


def tail_share_of_count(counts: NDArray[Any], t: float) -> float:
    """Share of all matches that are of entries with fewer than ``t``: p = sum of N_e < t / sum of N_e."""
    values = counts.astype(np.float64)
    return float(values[values < t].sum() / max(values.sum(), 1))


def count_of_tail_share(counts: NDArray[Any], share: float) -> int:
    """The t of a tail share: of the counts in ascending order, the one whose cumulative share first comes nearest."""
    values = np.sort(counts[counts > 0]).astype(np.float64)
    if not len(values):
        raise InputError("no entry was found: there are no counts to choose t by")
    shares = np.cumsum(values) / values.sum()
    return int(values[int(np.argmin(np.abs(shares - share)))])


def _by_row(columns: Arrays) -> Iterator[list[NDArray[Any]] | None]:
    """The entries of each caption of a row; None for another language."""
    ends = np.cumsum(columns["spans"])
    caption = 0
    for count in columns["captions"].tolist():
        if count < 0:
            yield None
            continue
        here = range(caption, caption + count)
        yield [columns["flat"][ends[k] - columns["spans"][k] : ends[k]] for k in here]
        caption += count
