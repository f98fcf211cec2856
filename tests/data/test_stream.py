"""The training stream: what is given out, in which order, and that a resumed stream equals an uninterrupted one."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from binderclip.data.ahead import ahead
from binderclip.data.batch import Batch
from binderclip.data.mixed import MixedPairs
from binderclip.data.order import Order, Place, order_of
from binderclip.data.pairs import Bad, Pair, Pairs, RowPairs, ShardPairs
from binderclip.data.stream import Stream
from binderclip.errors import InputError, MediaError
from tests.data.sources_kit import number_of, picture, write_folder, write_shards


class Rows(RowPairs):
    """n rows in memory; each 7th is bad when asked for."""

    def __init__(self, name: str, count: int, bad: bool = False) -> None:
        super().__init__(name)
        self.count, self.bad = count, bad

    @property
    def rows(self) -> int:
        return self.count

    def row(self, number: int) -> Pair | Bad:
        if self.bad and number % 7 == 0:
            return Bad(str(number), "seventh")
        return Pair(f"{self.name}{number}", image=b"x", captions=("c",) if number % 2 else ())


class Shards(ShardPairs):
    """Shards of given sizes in memory."""

    def __init__(self, name: str, *sizes: int) -> None:
        super().__init__(name)
        self.sizes = sizes
        self.shards = tuple(map(str, range(len(sizes))))

    def rows_in(self, shard: int) -> int:
        return self.sizes[shard]

    def read(self, shard: int, start: int = 0, step: int = 1) -> Iterator[Pair | Bad]:
        return (Pair(f"{self.name}{shard}.{i}", image=b"x") for i in range(start, self.sizes[shard], step))


def same(pair: Pair, epoch: int) -> Any:
    return pair.id, epoch


def flat(batches: list[Batch]) -> list[tuple[str, int]]:
    return [(row.id, epoch) for batch in batches for row, epoch in zip(batch.rows, batch.epochs, strict=True)]


def take(stream: Stream, count: int) -> list[Batch]:
    return list(itertools.islice(stream, count))


SOURCES = {
    "rows": lambda: Rows("a", 23),
    "bad rows": lambda: Rows("a", 40, bad=True),
    "shards": lambda: Shards("s", 9, 4, 0, 17, 3, 8),
    "mixed": lambda: MixedPairs([Rows("a", 11, bad=True), Shards("s", 5, 6, 7), Rows("b", 30)], [1, 2, 1.5]),
}


OPTIONS: dict[str, dict[str, Any]] = {
    "threads": {"threads": 3},
    "one reader": {},
    "second of two": {"rank": 1, "world": 2},
    "rows split": {"split": "rows", "worker": 1, "workers": 3},
    "in order": {"shuffle": False},
}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("options", OPTIONS)
def test_resumed_equals_uninterrupted(kind: str, options: str) -> None:
    def make() -> Stream:
        return Stream(SOURCES[kind](), 5, seed=4, load=same, buffer=6, **({"threads": 0} | OPTIONS[options]))

    whole = make()
    expected, states = [], []
    for batch in itertools.islice(whole, 25):
        expected.append(batch)
        states.append(json.loads(json.dumps(whole.state_dict())))
    for stop in (0, 1, 2, 7, 16):
        resumed = make()
        resumed.load_state_dict(states[stop])
        assert flat(take(resumed, 25 - stop - 1)) == flat(expected[stop + 1 :])
        assert resumed.report().state_dict() == whole.report().state_dict()


@pytest.mark.parametrize("kind", SOURCES)
def test_threads_do_not_change_anything(kind: str) -> None:
    runs = [flat(take(Stream(SOURCES[kind](), 4, load=same, threads=n, buffer=8), 20)) for n in (0, 1, 4)]
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.parametrize("kind", ["rows", "shards"])
@pytest.mark.parametrize(("world", "workers"), [(1, 1), (2, 1), (2, 3)])
@pytest.mark.parametrize("split", ["auto", "rows"])
def test_readers_share_an_epoch(kind: str, world: int, workers: int, split: str) -> None:
    """Together the readers give each row once, whatever their number."""
    every: Counter[str] = Counter()
    for rank in range(world):
        for worker in range(workers):
            options = {"rank": rank, "world": world, "worker": worker, "workers": workers, "split": split}
            stream = Stream(SOURCES[kind](), 4, load=same, epochs=1, threads=0, buffer=6, **options)
            try:
                every.update(name for name, _ in flat(list(stream)))
            except InputError:
                assert kind == "shards"  # a reader whose only shard is the empty one
    wanted = SOURCES[kind]()
    assert every == Counter(row.id for row in wanted)


def test_order_differs_by_epoch_and_seed_only() -> None:
    def order(seed: int, epochs: int = 2) -> list[str]:
        return [name for name, _ in flat(list(Stream(Rows("a", 50), 10, seed=seed, load=same, epochs=epochs)))]

    one = order(0)
    assert one == order(0)
    assert one[:50] != one[50:]
    assert sorted(one[:50]) == sorted(one[50:])
    assert one[:50] != order(1)[:50]
    plain = flat(list(Stream(Rows("a", 50), 7, shuffle=False, load=same, epochs=1)))
    assert [name for name, _ in plain] == [f"a{i}" for i in range(50)]
    plain = flat(list(Stream(Shards("s", 70, 3), 7, shuffle=False, load=same, epochs=1)))
    assert [name for name, _ in plain] == [f"s0.{i}" for i in range(70)] + [f"s1.{i}" for i in range(3)]


def test_shuffle_of_a_folder_is_uniform() -> None:
    """Rank correlation of position and row number is near nothing, over the whole source."""
    names = [int(name[1:]) for name, _ in flat(list(Stream(Rows("a", 4000), 100, load=same, epochs=1, threads=0)))]
    mean = (4000 - 1) / 2
    rho = sum((i - mean) * (n - mean) for i, n in enumerate(names)) / sum((i - mean) ** 2 for i in range(4000))
    assert abs(rho) < 4 / 4000**0.5


def test_blocks_of_shards_are_mixed() -> None:
    """The first batch of 32 holds rows of all four open shards."""
    batch = next(iter(Stream(Shards("s", *[100] * 12), 32, load=same, buffer=64, threads=0)))
    assert len({name.split(".")[0] for name in batch.ids}) == 4


def test_weights_hold_in_every_stretch() -> None:
    mixed = MixedPairs([Rows("a", 7), Rows("b", 1000), Shards("c", 50, 60)], [5, 3, 2])
    names = [name[0] for name, _ in flat(take(Stream(mixed, 10, load=same, threads=0), 40))]
    for stop in range(1, len(names)):
        for letter, share in (("a", 0.5), ("b", 0.3), ("c", 0.2)):
            assert abs(names[:stop].count(letter) - share * stop) < 1.5
    by_size = MixedPairs([Rows("a", 30), Rows("b", 10)])
    assert by_size.shares() == (0.75, 0.25)
    once = flat(list(Stream(by_size, 16, load=same, epochs=1)))
    assert Counter(name[0] for name, _ in once) == {"a": 30, "b": 10}


def test_bad_rows_are_passed_over_and_counted() -> None:
    def load(pair: Pair, epoch: int) -> str:
        if pair.id.endswith("5"):
            raise MediaError("is damaged (byte 17)")
        return pair.id

    stream = Stream(Rows("a", 70, bad=True), 8, load=load, need=("image", "caption"), epochs=1, drop_last=True)
    batches = list(stream)
    assert all(len(batch) == 8 for batch in batches)
    # of 70: every 7th is bad; of the others the even ones lack a caption; of the rest those that end in 5 are damaged
    left = [n for n in range(70) if n % 7 and n % 2]
    damaged = [n for n in left if n % 10 == 5]
    bad = {"seventh": 10, "no caption": 60 - len(left), "is damaged": len(damaged)}
    assert stream.report().bad == bad
    assert stream.report().rows == len(left) - len(damaged)
    assert any("byte 17" in line for line in stream.report().examples)
    assert (
        stream.report().lines()[0] == f"{60 - len(left)} of 70 rows ({100 * (60 - len(left)) / 70:.0f} %): no caption"
    )


def test_a_bug_in_load_is_not_a_bad_row() -> None:
    def load(pair: Pair, epoch: int) -> None:
        raise ZeroDivisionError

    for threads in (0, 2):
        with pytest.raises(ZeroDivisionError):
            next(iter(Stream(Rows("a", 5), 2, load=load, threads=threads)))


@pytest.mark.parametrize("threads", [0, 2])
def test_nothing_usable_ends_with_a_line(threads: int) -> None:
    stream = Stream(Rows("a", 5), 2, need=("label",), threads=threads)
    with pytest.raises(InputError, match="no row of a can be used: no label"):
        next(iter(stream))
    with pytest.raises(InputError, match=r"no row of s can be used|s has no rows for reader 1 of 1"):
        next(iter(Stream(Shards("s", 0, 0), 2, load=same, threads=threads)))
    with pytest.raises(InputError, match="no row of a can be used: no label"):
        list(Stream(Rows("a", 5), 2, need=("label",), threads=threads, epochs=1))


def test_fewer_shards_than_readers() -> None:
    with pytest.raises(InputError, match=r"s has 3 shards for 8 readers .*: make at least 8"):
        Stream(Shards("s", 5, 5, 5), 2, world=2, workers=4, split="shards")
    stream = Stream(Shards("s", 5, 5, 5), 2, load=same, world=2, workers=4)
    assert stream.report().notes[0].startswith("s has 3 shards for 8 readers")
    assert len(take(stream, 3)) == 3


def test_one_class_is_told(tmp_path: Path) -> None:
    pairs = Pairs.open(write_folder(tmp_path, 3, classes=1), kind="classes")
    with pytest.raises(InputError, match="only one class, 'class0'"):
        Stream(pairs, 2, need=("image", "label"))


def test_options_are_checked() -> None:
    for options in ({"rank": 1}, {"threads": -1}, {"split": "x"}, {"need": ("colour",)}, {"need": "image"}):
        with pytest.raises(InputError):
            Stream(Rows("a", 3), 2, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError):
        Stream(Rows("a", 3), 0)


def test_a_state_of_something_else_is_refused() -> None:
    state = Stream(Rows("a", 9), 2).state_dict()
    for other, word in ((Stream(Rows("a", 8), 2), "sources"), (Stream(Rows("a", 9), 2, seed=1), "orders")):
        with pytest.raises(InputError, match=f"its {word} differ"):
            other.load_state_dict(state)
    with pytest.raises(InputError, match="another version"):
        Stream(Rows("a", 9), 2).load_state_dict({"version": 0})


def test_steps_per_epoch_and_batch_fields() -> None:
    assert Stream(Rows("a", 23), 5, world=2).steps_per_epoch == 2
    batch = next(iter(Stream(Rows("a", 23), 5, load=same)))
    assert (len(batch), batch.weights.tolist(), batch.labels) == (5, [1.0] * 5, [None] * 5)
    assert len(batch.captions) == len(batch.ids) == 5


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_real_files_are_decoded_and_resumed(kind: str, tmp_path: Path) -> None:
    if kind == "folder":
        write_folder(tmp_path / "f", 30)
        (tmp_path / "f" / "0007.png").write_bytes(picture(7)[:40])

    def open_it() -> Pairs:
        return Pairs.open(tmp_path / "f" if kind == "folder" else write_shards(tmp_path / "t", 5, 6))

    def numbers(batches: list[Batch]) -> list[int]:
        return [number_of(image) for batch in batches for image in batch.samples]

    stream = Stream(open_it(), 4, buffer=8)
    first = take(stream, 5)
    state = json.loads(json.dumps(stream.state_dict()))
    resumed = Stream(open_it(), 4, buffer=8)
    resumed.load_state_dict(state)
    both = numbers(first) + numbers(take(resumed, 9))
    assert both == numbers(take(Stream(open_it(), 4, buffer=8), 14))
    if kind == "folder":
        assert 7 not in both
        assert resumed.report().bad.total() >= 1


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=7).filter(any),
    buffer=st.integers(1, 12),
    stop=st.integers(0, 12),
    readers=st.integers(1, 3),
    split=st.sampled_from(["auto", "rows"]),
    other=st.integers(0, 8),
)
def test_any_shards_can_be_resumed(
    sizes: list[int], buffer: int, stop: int, readers: int, split: str, other: int
) -> None:
    def make() -> Stream:
        sources = [Shards("s", *sizes), *([Rows("r", other)] if other else [])]
        options = {"split": split, "workers": readers, "buffer": buffer}
        return Stream(MixedPairs(sources, [1.0] * len(sources)), 3, load=same, threads=0, **options)  # type: ignore[arg-type]

    whole, resumed = make(), make()
    try:
        take(whole, stop)
        resumed.load_state_dict(json.loads(json.dumps(whole.state_dict())))
        rest = flat(take(resumed, 6))
        assert rest == flat(take(make(), stop + 6))[3 * stop :]
    except InputError:
        reject()  # the first reader's only shards are empty


def test_shards_are_not_read_far_ahead() -> None:
    """Memory: no more rows are read than the block that is being given out."""
    read = []

    class Watched(Shards):
        def read(self, shard: int, start: int = 0, step: int = 1) -> Iterator[Pair | Bad]:
            for row in super().read(shard, start, step):
                read.append(row)
                yield row

    order = Order(buffer=16)
    for given_out, _ in enumerate(order_of(Watched("s", *[50] * 10), order, Place(), epochs=1)):
        assert len(read) <= given_out // 16 * 16 + 16 + order.lanes
    assert len(read) == 500
    read.clear()
    next(order_of(Watched("s", *[50] * 10), Order(buffer=1000, buffer_bytes=20), Place(), epochs=1))
    assert len(read) <= 20 + order.lanes  # each holds one byte


def test_ahead_is_bounded_and_stops() -> None:
    begun = []

    def items() -> Iterator[int]:
        for i in itertools.count():
            begun.append(i)
            yield i

    with ahead(items(), lambda i: i * i, threads=2, depth=5) as results:
        assert [next(results) for _ in range(3)] == [(0, 0), (1, 1), (2, 4)]
    assert len(begun) <= 3 + 5 + 2
