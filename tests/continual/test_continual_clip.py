"""Continual-CLIP on made-up vectors: its identities; on CIFAR-100 they are `bench:continual_clip`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from binderclip.continual.base import Rows
from binderclip.continual.continual_clip import ContinualCLIP, zero_shot_stream
from binderclip.continual.run import run
from binderclip.continual.streams import class_groups, class_incremental, class_order, domain_incremental, multi_domain
from binderclip.errors import InputError

pytestmark = pytest.mark.system("continual_clip")

D, CLASSES = 12, tuple(f"thing_{k}" for k in range(10))


def unit(x: Any) -> Any:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


CENTRES = unit(np.random.default_rng(0).normal(size=(10, D)))


class Fake:
    """Texts of a class are near its centre, whatever the sentence."""

    logit_scale, calls = 20.0, 0

    def encode_text(self, texts: Sequence[str]) -> Any:
        Fake.calls += 1
        at = [int(text.split("thing ")[1].rstrip(".")) for text in texts]
        return (CENTRES[at] + 0.0).astype(np.float32)


def rows(n: int = 300, seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 10, n)
    vectors = unit(CENTRES[y] + 0.5 * rng.normal(size=(n, D))).astype(np.float32)
    return Rows(tuple(f"r{seed}/{i}" for i in range(n)), tuple(CLASSES[k] for k in y), vectors)


def result(increment: int, kind: str = "class", seed: int = 0) -> Any:
    stream = class_incremental(rows(50, 1), rows(), increment, kind=kind, seed=seed)
    return run(ContinualCLIP(), Fake(), stream, untouched=ContinualCLIP())


def test_til() -> None:
    found = result(2, "task")
    assert np.array_equal(found.R, np.tile(found.R[0], (5, 1)))
    assert np.array_equal(found.R[0], found.Z)
    assert found.metrics["forgetting"] == found.metrics["backward_transfer"] == 0
    assert found.trainable == found.bytes == 0
    assert result(2, "class").metrics["forgetting"] > 0  # class confusion, which is no forgetting


@pytest.mark.parametrize("increment", [1, 3, 5])
def test_one_matrix_is_the_loop(increment: int) -> None:
    test = rows()
    stream = class_incremental(rows(50, 1), test, increment)
    found, order = run(ContinualCLIP(), Fake(), stream), stream.classes
    y = np.array([order.index(name) for name in test.y])
    texts = CENTRES[[CLASSES.index(name) for name in order]].astype(np.float32)
    R, A = zero_shot_stream(test.vectors, y, texts, [len(task.classes) for task in stream.tasks])
    assert np.array_equal(R, found.R)
    slow = []
    for i in range(len(stream.tasks)):
        seen = stream.candidates(i, i)
        pool = [k for k, name in enumerate(test.y) if name in seen]
        hits = 0
        for k in pool:
            scores = [float(test.vectors[k] @ texts[c]) for c in range(len(seen))]
            hits += scores.index(max(scores)) == y[k]
        slow.append(100 * hits / len(pool))
    assert pytest.approx(slow, abs=1e-12) == A
    assert found.metrics["average_incremental"] == pytest.approx(A.mean())


def test_more_classes_only_hurt() -> None:
    R = result(1).R
    for j in range(10):
        assert (np.diff(R[j:, j]) <= 0).all()


def test_last() -> None:
    lasts = {result(k, seed=s).metrics["last"] for k in (1, 2, 5, 10) for s in (0, 1)}
    assert max(lasts) - min(lasts) < 1e-9
    averages = [result(k).metrics["average_incremental"] for k in (2, 5)]
    assert averages[0] != averages[1]


def test_texts_are_encoded_once_a_list() -> None:
    Fake.calls = 0
    result(2)
    assert Fake.calls <= 5 + 5  # at most once for each list of classes, of the strategy and of the untouched model


def test_streams() -> None:
    order = class_order(CLASSES)
    assert sorted(order) == sorted(CLASSES)
    assert order != CLASSES
    assert order == class_order(CLASSES)
    assert order != class_order(CLASSES, 1)
    more = class_order((*CLASSES, "thing_10"))
    assert [name for name in more if name != "thing_10"] == list(order)  # a new class moves no other
    assert [len(g) for g in class_groups(order, 3)] == [3, 3, 3, 1]
    assert [len(g) for g in class_groups(order, 2, 5)] == [5, 2, 2, 1]
    with pytest.raises(InputError, match="at least one class a task"):
        class_groups(order, 0)
    stream = class_incremental(rows(50, 1), rows(), 5)
    assert all(set(task.train.y) <= set(task.classes) for task in stream.tasks)
    with pytest.raises(InputError, match="order of classes lacks"):
        class_incremental(rows(), rows(), 2, order=CLASSES[:4])
    two = multi_domain([("a", rows(20, 2), rows(20, 3), "{}"), ("b", rows(20, 4), rows(20, 5), "{}.")])
    assert two.kind == "task"
    assert two.candidates(0, 1) == two.tasks[1].classes


def test_new_dress() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8))
    some = Rows(tuple("abcdefgh"), ("x", "y") * 4, None, [image] * 8)
    stream = domain_incremental(some, some, lambda images: np.stack([np.asarray(i).mean((0, 1)) for i in images]))
    assert stream.kind == "domain"
    assert sum(len(task.train) for task in stream.tasks) == 8
    assert len({task.test.vectors[0].tobytes() for task in stream.tasks if task.test.vectors is not None}) >= 4
    with pytest.raises(InputError, match="give rows with images"):
        domain_incremental(rows(), rows(), lambda images: None)


def test_what_a_strategy_sees() -> None:
    class Nosy(ContinualCLIP):
        def fit_task(self, task: Any) -> None:
            assert not len(task.test)

        def logits(self, rows: Rows, classes: Sequence[str], task: Any = None) -> Any:
            assert set(rows.y) <= {""}
            return super().logits(rows, classes, task)

    run(Nosy(), Fake(), class_incremental(rows(50, 1), rows(), 5))


def test_a_run_goes_on(tmp_path: Any) -> None:
    stream = class_incremental(rows(50, 1), rows(), 2)

    class Stops(ContinualCLIP):
        def fit_task(self, task: Any) -> None:
            if task.index == 3:
                raise KeyboardInterrupt

        def state_dict(self) -> Any:
            return {"seen": np.array([1.0])}

    with pytest.raises(KeyboardInterrupt):
        run(Stops(), Fake(), stream, folder=tmp_path)
    events: list[Any] = []
    found = run(ContinualCLIP(), Fake(), stream, folder=tmp_path, listener=events.append)
    assert [event["task"] for event in events] == [3, 4]
    assert np.array_equal(found.R, run(ContinualCLIP(), Fake(), stream).R)
    with pytest.raises(InputError, match="a run of another stream"):
        run(ContinualCLIP(), Fake(), class_incremental(rows(50, 1), rows(), 5), folder=tmp_path)
    (tmp_path / "run.npz").write_bytes(b"PK nonsense")
    with pytest.raises(InputError, match="is damaged"):
        run(ContinualCLIP(), Fake(), stream, folder=tmp_path)


def test_what_cannot_be() -> None:
    with pytest.raises(InputError, match="do not make 10"):
        zero_shot_stream(np.eye(10), [0], np.eye(10), [3, 3])
    with pytest.raises(InputError, match="not as many"):
        Rows(("a",), ("x", "y"))
    with pytest.raises(InputError, match="encode the rows first"):
        ContinualCLIP().logits(Rows(("a",), ("x",)), ["x"])
