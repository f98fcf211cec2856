"""Batches: capped, in order, and never lost to one bad input."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest

from binderclip.search.serving.batching import Batcher
from binderclip.search.serving.failures import ApiError, BusyError


class Model:
    """Rows [value, 2 value]; refuses -1, gives no number for -2; can be held still."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, values: list[int]) -> np.ndarray:
        self.go.wait(10)
        self.batches.append(list(values))
        if -1 in values:
            raise ValueError("poison")
        rows = np.array([[v, 2 * v] for v in values], np.float32)
        rows[np.array(values) == -2] = np.nan
        return rows


def batcher(model: Model, rows: int = 4, cost: int = 100, limit: int = 1000) -> Batcher[int]:
    return Batcher("texts", model, rows=rows, cost=cost, limit=limit)


def run(job: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(job)


async def ask(lane: Batcher[int], values: list[int], cost: list[int] | None = None) -> list[Any]:
    jobs = [lane.submit(v, c) for v, c in zip(values, cost or [1] * len(values), strict=True)]
    found = await asyncio.gather(*jobs, return_exceptions=True)
    await lane.close()
    return found


def test_answers_are_in_order_and_batches_are_capped() -> None:
    model = Model()
    rng = np.random.default_rng(0)
    costs = rng.integers(1, 60, 50).tolist()
    found = run(_in_loop(lambda: batcher(model), list(range(50)), costs))
    assert [row.tolist() for row in found] == [[v, 2 * v] for v in range(50)]
    assert list(itertools.chain(*model.batches)) == list(range(50))
    for batch in model.batches:
        assert len(batch) <= 4
        assert len(batch) == 1 or len(batch) * max(costs[v] for v in batch) <= 100
    assert len(model.batches) < 40  # some went together


async def _in_loop(make: Any, values: list[int], costs: list[int] | None = None) -> list[Any]:
    return await ask(make(), values, costs)


def test_one_that_costs_more_than_a_batch_may_goes_alone() -> None:
    model = Model()
    run(_in_loop(lambda: batcher(model), [1, 2, 3], [1, 500, 1]))
    assert [2] in model.batches


@pytest.mark.parametrize("bad", [[0], [7], [3, 4], [0, 1, 2, 3, 4, 5, 6, 7]])
def test_a_poisonous_input_fails_alone(bad: list[int]) -> None:
    model = Model()
    values = [-1 if i in bad else i for i in range(8)]
    found = run(_in_loop(lambda: batcher(model, rows=8), values))
    assert [i for i, one in enumerate(found) if isinstance(one, ValueError)] == bad
    assert all(found[i].tolist() == [i, 2 * i] for i in range(8) if i not in bad)


def test_a_row_that_is_no_number_fails_alone() -> None:
    found = run(_in_loop(lambda: batcher(Model()), [1, -2, 3]))
    assert [type(one) for one in found] == [np.ndarray, ArithmeticError, np.ndarray]


def test_a_model_that_loses_a_row_is_an_error_not_a_mix_up() -> None:
    async def go() -> list[Any]:
        lane: Batcher[int] = Batcher("texts", lambda v: np.ones((1, 2), np.float32), rows=4, cost=9, limit=9)
        return await ask(lane, [1, 2, 3])

    # Alone, each has its one row; together they are refused and tried alone.
    assert all(isinstance(one, np.ndarray) for one in run(go()))


def test_what_comes_while_the_model_is_busy_is_one_batch() -> None:
    model = Model()

    async def go() -> None:
        lane = batcher(model, rows=16)
        model.go.clear()
        first = asyncio.create_task(lane.submit(0, 1))
        await asyncio.sleep(0.05)
        rest = [asyncio.create_task(lane.submit(v, 1)) for v in range(1, 11)]
        await asyncio.sleep(0.05)
        model.go.set()
        await asyncio.gather(first, *rest)
        await lane.close()

    run(go())
    assert model.batches == [[0], list(range(1, 11))]


def test_who_gave_up_is_not_computed() -> None:
    model = Model()

    async def go() -> None:
        lane = batcher(model)
        model.go.clear()
        first = asyncio.create_task(lane.submit(0, 1))
        await asyncio.sleep(0.05)
        gone, stays = asyncio.create_task(lane.submit(1, 1)), asyncio.create_task(lane.submit(2, 1))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0.02)
        model.go.set()
        await asyncio.gather(first, stays)
        await lane.close()

    run(go())
    assert model.batches == [[0], [2]]


def test_the_queue_is_bounded_and_places_are_given_back() -> None:
    async def go() -> None:
        lane = batcher(Model(), limit=10)
        with lane.admit(6), lane.admit(4):
            with pytest.raises(BusyError) as told, lane.admit(1):
                pass
            assert told.value.status == 429
            assert told.value.retry_after == 1
        # Larger than the queue, and alone: it would never have its turn otherwise.
        with lane.admit(25), pytest.raises(BusyError), lane.admit(1):
            pass
        assert lane.pending == 0
        await lane.close()
        with pytest.raises(ApiError, match="stopping"), lane.admit(1):
            pass

    run(go())


def test_closing_answers_what_waits() -> None:
    model = Model()

    async def go() -> list[np.ndarray]:
        lane = batcher(model, rows=2)
        model.go.clear()
        waiting = [asyncio.create_task(lane.submit(v, 1)) for v in range(7)]
        await asyncio.sleep(0.02)
        model.go.set()
        await lane.close()
        return await asyncio.gather(*waiting)

    assert [row[0] for row in run(go())] == list(range(7))
