"""A run's state on disk: the same bits after resuming, whole after any death, one line when it cannot be."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from binderclip.errors import CheckpointError
from binderclip.train import checkpoint
from binderclip.train.checkpoint import (
    latest,
    load_optimizer,
    load_state,
    optimizer_tensors,
    prune,
    save_state,
    step_folder,
)
from binderclip.train.optim import make_optimizer, set_rate


def state(step: int) -> dict[str, Tensor]:
    return {"w": torch.full((3, 4), float(step)), "n": torch.tensor(step)}


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_any_tensors_and_facts_come_back_bit_for_bit(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "bf16": torch.randn(3, dtype=torch.bfloat16),
        "f64": torch.randn(2, 2, dtype=torch.float64),
        "scalar": torch.tensor(7.0),
        "empty": torch.zeros(0, 3),
        "flags": torch.tensor([True, False]),
        "rng": torch.get_rng_state(),
        "nan": torch.tensor([math.nan, math.inf, -0.0]),
        "weight": nn.Parameter(torch.randn(2)),
        "whole": base,
        "same": base,
        "turned": base.t(),
        "part": base[1:3],
    }
    facts = {"lr": 0.1 + 0.2, "best": -math.inf, "data": {"at": [1, 2]}, "big": 2**70, "text": "grün", "none": None}
    folder = save_state(tmp_path, 120, tensors, facts)
    assert folder == tmp_path / "checkpoints" / "step-000120" == latest(tmp_path)
    found, told = load_state(folder)
    assert told == facts
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        torch.testing.assert_close(found[name], tensor.detach(), rtol=0, atol=0, equal_nan=True)
    assert math.copysign(1, found["nan"][2].item()) == -1
    assert not {path.suffix for path in folder.iterdir()} - {".safetensors", ".json"}


def test_the_newest_is_found_and_older_ones_go(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    for step in (5, 1_000_000, 20, 999_999):
        save_state(tmp_path, step, state(step), {})
    assert latest(tmp_path) == step_folder(tmp_path, 1_000_000)
    prune(tmp_path, keep=1, spare=[20])
    assert names(tmp_path) == ["step-000020", "step-1000000"]
    save_state(tmp_path, 1_000_001, state(1), {}, keep=2)
    assert names(tmp_path) == ["step-1000000", "step-1000001"]
    save_state(tmp_path, 1_000_001, state(2), {"again": True}, keep=2)
    assert load_state(step_folder(tmp_path, 1_000_001))[1] == {"again": True}
    assert names(tmp_path) == ["step-1000000", "step-1000001"]


# -- resuming ------------------------------------------------------------------------------------------------------------


class Run:
    """A few steps on random data, whose randomness depends on the step alone."""

    def __init__(self, **options: Any) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3))
        self.optimizer = make_optimizer({"clip": self.net}, lr=1e-2, **options)

    def go(self, start: int, stop: int) -> None:
        for step in range(start, stop):
            g = torch.Generator().manual_seed(step)
            set_rate(self.optimizer, 1 / (1 + step))
            self.optimizer.zero_grad()
            self.net(torch.randn(5, 6, generator=g)).square().mean().backward()
            self.optimizer.step()

    def bits(self) -> dict[str, Tensor]:
        tensors, _ = optimizer_tensors(self.optimizer)
        return {**self.net.state_dict(), **tensors}


@pytest.mark.parametrize(
    "options", [{}, {"fused": True}, {"name": "sgd"}, {"name": "sgd", "momentum": 0.0}, {"rates": {"clip.0*": 1e-3}}]
)
def test_a_resumed_run_ends_in_the_same_bits(tmp_path: Path, options: dict[str, Any]) -> None:
    whole, first = Run(**options), Run(**options)
    whole.go(0, 9)
    first.go(0, 4)
    moments, facts = optimizer_tensors(first.optimizer)
    save_state(tmp_path, 4, {**first.net.state_dict(), **moments}, {"optimizer": facts})
    second = Run(**options)
    second.go(7, 9)  # whatever it was before
    found, told = load_state(step_folder(tmp_path, 4))
    second.net.load_state_dict({name: found[name] for name in second.net.state_dict()})
    load_optimizer(second.optimizer, found, told["optimizer"])
    assert second.optimizer.param_groups[0]["lr"] == first.optimizer.param_groups[0]["lr"]
    second.go(4, 9)
    wanted, got = whole.bits(), second.bits()
    assert set(got) == set(wanted)
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


def test_state_goes_by_name_whatever_the_groups(tmp_path: Path) -> None:
    one, other = Run(), Run(rates={"clip.3.*": 1e-4, "clip.0.bias": 1e-3})
    one.go(0, 3)
    load_optimizer(other.optimizer, *optimizer_tensors(one.optimizer))
    first, second = optimizer_tensors(one.optimizer)[0], optimizer_tensors(other.optimizer)[0]
    assert set(first) == set(second)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert all(first[key].data_ptr() != second[key].data_ptr() for key in first)
    assert {g["base_lr"] for g in other.optimizer.param_groups} == {1e-2, 1e-3, 1e-4}  # groups of its own
    assert optimizer_tensors(Run().optimizer)[0] == {}


def test_into_the_next_phase() -> None:
    before, after = Run(), Run()
    before.net[0].requires_grad_(False)
    before.optimizer = make_optimizer({"clip": before.net}, lr=1e-2)
    before.go(0, 3)
    after.net[3] = nn.Linear(8, 5)  # another shape
    after.optimizer = make_optimizer({"clip": after.net}, lr=5e-3)
    kept = optimizer_tensors(before.optimizer)
    with pytest.raises(CheckpointError, match=r"clip\.0\.bias and 3 more differ"):
        load_optimizer(after.optimizer, *kept)
    fresh = load_optimizer(after.optimizer, *kept, missing_ok=True)
    assert sorted(fresh) == ["clip.0.bias", "clip.0.weight", "clip.3.bias", "clip.3.weight"]
    carried = optimizer_tensors(after.optimizer)[0]
    assert sorted(carried) == sorted(
        f"{k}/clip.1.{p}" for k in ("exp_avg", "exp_avg_sq", "step") for p in ("bias", "weight")
    )
    assert {g["base_lr"] for g in after.optimizer.param_groups} == {5e-3}
    after.go(3, 4)
    assert after.optimizer.state[after.net[1].weight]["step"] == 4
    assert after.optimizer.state[after.net[0].weight]["step"] == 1


def test_state_of_another_optimiser_is_refused() -> None:
    with pytest.raises(CheckpointError, match="the state is of SGD, the run has AdamW"):
        load_optimizer(Run().optimizer, *optimizer_tensors(Run(name="sgd").optimizer))
    with pytest.raises(CheckpointError, match="no optimizer"):
        load_optimizer(Run().optimizer, {}, {})


# -- dying ---------------------------------------------------------------------------------------------------------------


def run_dying_at(n: int, work: Callable[[], object], root: Path, *, torn: bool) -> bool:
    """Do the work in a child that dies, without a chance to clean up, at its n-th touch of the disk below root.

    Returns whether it died.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    try:
        left = n

        def touch() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                os._exit(9)

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event.startswith(("open", "os.", "shutil.")) and any(str(root) in str(a) for a in arguments):
                touch()

        def flush(fd: int) -> None:
            touch()
            os_fsync(fd)

        def save(tensors: dict[str, Tensor], path: Path) -> None:  # written by Rust, which no hook sees
            save_file(tensors, path)
            if torn:
                os.truncate(path, path.stat().st_size // 2)
            touch()
            save_file(tensors, path)

        os_fsync, save_file = os.fsync, checkpoint.save_file
        os.fsync, checkpoint.save_file = flush, save  # type: ignore[assignment]
        sys.addaudithook(hook)
        work()
    finally:
        os._exit(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("again", [False, True], ids=["next-step", "same-step"])
def test_a_whole_checkpoint_survives_death_anywhere(tmp_path: Path, again: bool) -> None:
    target = 1 if again else 2
    died = seen = 0
    for n in range(200):
        run = tmp_path / f"run{n}"
        save_state(run, 1, state(1), {"of": "old"})
        work = lambda run=run: save_state(run, target, state(7), {"of": "new"}, keep=1)  # noqa: E731
        if not run_dying_at(n, work, run, torn=n % 2 == 0):
            break
        died += 1
        found = latest(run)
        assert found is not None
        tensors, facts = load_state(found)
        new = facts["of"] == "new"
        seen += new
        assert all(torch.equal(tensors[k], v) for k, v in state(7 if new else 1).items())
        save_state(run, 3, state(3), {}, keep=1)  # the next write leaves nothing behind
        assert names(run) == ["step-000003"]
        shutil.rmtree(run)
    assert died > 15, "the disk is touched many times"
    assert 0 < seen < died
    assert names(run) == [f"step-{target:06d}"]


@pytest.mark.parametrize("call", ["replace", "fsync", "mkdir"])
@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_a_fault_of_the_system_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, n: int
) -> None:
    save_state(tmp_path, 1, state(1), {})
    real, count = getattr(os, call), 0

    def fails(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count > n:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fails)
        said = ""
        try:
            save_state(tmp_path, 1, state(7), {})
        except CheckpointError as error:
            said = str(error)
        assert bool(said) == (count > n)
    if said:
        assert "\n" not in said
        assert "step-000001 cannot be written (No space left on device): make room, then resume" in said
        assert f"the last whole checkpoint is {latest(tmp_path)}" in said
    found = latest(tmp_path)
    assert found is not None
    assert load_state(found)[0]["n"] in (1, 7)
    save_state(tmp_path, 2, state(2), {}, keep=1)
    assert names(tmp_path) == ["step-000002"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_file_that_may_not_grow_is_one_line(tmp_path: Path) -> None:
    """A true failure to write: the system's limit on the size of a file."""
    save_state(tmp_path, 1, state(1), {})
    child = os.fork()
    if not child:
        try:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
            save_state(tmp_path, 2, {"w": torch.zeros(100_000)}, {})
        except CheckpointError as error:
            os._exit(0 if "cannot be written" in str(error) and "step-000001" in str(error) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert names(tmp_path) == ["step-000001"]
    assert load_state(step_folder(tmp_path, 1))[0]["n"] == 1


def test_the_first_one_fails(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(CheckpointError, match="there is no earlier checkpoint"):
        save_state(tmp_path, 1, state(1), {})


# -- damaged and foreign -------------------------------------------------------------------------------------------------


def break_byte(folder: Path) -> None:
    data = bytearray((folder / checkpoint.TENSORS).read_bytes())
    data[-5] ^= 1
    (folder / checkpoint.TENSORS).write_bytes(data)


def cut(folder: Path) -> None:
    os.truncate(folder / checkpoint.TENSORS, 50)


def no_tensors(folder: Path) -> None:
    (folder / checkpoint.TENSORS).unlink()


def half_facts(folder: Path) -> None:
    os.truncate(folder / checkpoint.FACTS, 20)


def other_facts(folder: Path) -> None:
    (folder / checkpoint.FACTS).write_text("[1]")


def newer(folder: Path) -> None:
    facts = json.loads((folder / checkpoint.FACTS).read_text())
    (folder / checkpoint.FACTS).write_text(json.dumps({**facts, "format": 99}))


@pytest.mark.parametrize("damage", [break_byte, cut, no_tensors, half_facts, other_facts, newer])
def test_damage_is_one_line_that_says_what_to_do(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    save_state(tmp_path, 1, state(1), {})
    folder = save_state(tmp_path, 2, state(2), {})
    damage(folder)
    with pytest.raises(CheckpointError) as caught:
        load_state(folder)
    said = str(caught.value)
    assert "\n" not in said
    assert "step-000002" in said
    assert f"remove it to resume from {step_folder(tmp_path, 1)}" in said
    assert ("upgrade binderclip" in said) == (damage is newer)
    if damage is not break_byte:  # the size is right: found when it is read
        assert latest(tmp_path) == step_folder(tmp_path, 1)
    load_state(step_folder(tmp_path, 1))


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="start the run anew"):
        load_state(tmp_path)
    mine = step_folder(tmp_path, 2)
    mine.mkdir(parents=True)
    (mine / "thesis.txt").write_text("x")
    with pytest.raises(CheckpointError, match="holds no training state: choose another folder"):
        save_state(tmp_path, 2, state(2), {})
    notes = tmp_path / "checkpoints" / ".notes.old"
    notes.mkdir()
    (notes / "thesis.txt").write_text("x")
    save_state(tmp_path, 3, state(3), {}, keep=1)
    assert (mine / "thesis.txt").read_text() == (notes / "thesis.txt").read_text() == "x"
    with pytest.raises(TypeError):
        save_state(tmp_path, 4, {}, {"no": object()})
    assert latest(tmp_path) == step_folder(tmp_path, 3)
