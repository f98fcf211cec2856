"""Phases: the learning rate in closed form, spans, and the budget of CLIPA-v2."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from binderclip.errors import InputError
from binderclip.train.budget import block_flops, cost, price
from binderclip.train.phases import Phase, factor, plan


def test_cosine_with_warm_up_in_closed_form() -> None:
    got = [factor(step, 14, warmup=4) for step in range(15)]
    assert got[:4] == [0.25, 0.5, 0.75, 1.0]
    assert got[4] == 1.0
    assert got[9] == pytest.approx(0.5)
    assert got[14] == pytest.approx(0.0)
    for e in range(11):
        assert got[4 + e] == pytest.approx(math.cos(math.pi * e / 20) ** 2, abs=1e-15)  # (1 + cos 2a) / 2 = cos^2 a
    assert factor(500, 14, warmup=4, final=0.1) == pytest.approx(0.1)


def test_other_shapes_in_closed_form() -> None:
    assert [factor(s, 4, shape="linear", final=0.2) for s in range(6)] == pytest.approx([1, 0.8, 0.6, 0.4, 0.2, 0.2])
    assert [factor(s, 4, shape="constant", warmup=2) for s in range(6)] == [0.5, 1, 1, 1, 1, 1]
    assert [factor(s, 99, shape="rsqrt", warmup=4) for s in (3, 4, 16, 64)] == [1, 1, 0.5, 0.25]
    assert [factor(s, 99, shape="rsqrt") for s in (0, 3, 15)] == [1, 0.5, 0.25]
    assert factor(64, 99, shape="rsqrt", warmup=4, final=0.3) == 0.3
    assert [factor(s, 9, warmup=2, start=0.5) for s in (0, 1)] == [0.75, 1.0]
    with pytest.raises(InputError, match="unknown learning rate shape 'cos'"):
        factor(0, 1, shape="cos")


def test_a_plan_says_where_each_step_is() -> None:
    run = plan([Phase(steps=3), Phase(samples=9, batch_size=4), Phase(steps=2)], batch_size=8, lr=1e-3)
    assert [(s.start, s.stop, s.batch_size, s.samples) for s in run.spans] == [
        (0, 3, 8, 24),
        (3, 6, 4, 12),
        (6, 8, 8, 16),
    ]
    assert (run.steps, run.samples, run.lr) == (8, 52, 1e-3)
    places = [(i, inside) for i, span in enumerate(run.spans) for inside in range(span.steps)]  # the slow way
    assert [run.at(step) for step in range(8)] == places
    assert run.at(8) == (2, 2)
    for step in (-1, 9):
        with pytest.raises(InputError, match="not in a run of 8 steps"):
            run.at(step)


def test_rates_are_per_256_samples_and_follow_the_batch() -> None:
    # CLIPA-v2: 8e-6 at 65,536; 4e-7 at 32,768; 1e-7 at 16,384
    phases = [
        Phase(steps=10, lr_per_256=8e-6, warmup=2),
        Phase(steps=10, lr_per_256=4e-7, batch_size=32_768, warmup_samples=26_000_000),
        Phase(steps=10, lr=6.4e-6, batch_size=16_384),
    ]
    run = plan(phases, batch_size=65_536)
    assert [span.lr for span in run.spans] == pytest.approx([2.048e-3, 5.12e-5, 6.4e-6])
    assert [span.warmup for span in run.spans] == [2, 794, 0]
    assert plan(phases, batch_size=32_768).lr == pytest.approx(1.024e-3)
    assert plan([Phase(steps=1)], batch_size=512, lr_per_256=1e-4).lr == pytest.approx(2e-4)
    assert run.factor(0) == 0.5
    assert run.factor(2) == 1.0
    assert run.lr * run.factor(20) == pytest.approx(6.4e-6)
    assert run.lr * run.factor(25) == pytest.approx(3.2e-6)
    assert run.factor(30) == pytest.approx(0.0)


def test_values_as_recipes_have_them() -> None:
    phase = Phase(samples=12.8e9, lr_per_256="8e-6", freeze="text.*", unfreeze=["a", "b"])  # type: ignore[arg-type]
    assert (phase.samples, phase.lr_per_256, phase.freeze, phase.unfreeze) == (
        12_800_000_000,
        8e-6,
        ("text.*",),
        ("a", "b"),
    )
    assert isinstance(phase.samples, int)
    assert Phase().steps is None  # the defaults, to compare with


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"steps": 2.5}, "steps of a phase is 2.5: give a whole number"),
        ({"steps": True}, "give a whole number"),
        ({"steps": math.nan}, "give a whole number"),
        ({"lr": "fast"}, "lr of a phase is 'fast': give a number"),
        ({"reset_optimizer": "no"}, "write true or false"),
        ({"steps": 0}, "give a number above 0"),
        ({"lr": math.nan}, "give a number above 0"),
        ({"steps": 1, "samples": 1}, "'steps' or 'samples', not both"),
        ({"lr": 1, "lr_per_256": 1}, "'lr' or 'lr_per_256', not both"),
        ({"warmup": 1, "warmup_samples": 1}, "'warmup' or 'warmup_samples', not both"),
        ({"image_keep": 0}, "share above 0"),
        ({"final": 2}, "final a share"),
        ({"shape": "step"}, "use one of cosine, linear, constant, rsqrt"),
        ({"image_how": "resize"}, "use one of random, grid, block, attentive"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Phase(**given)  # type: ignore[arg-type]


def test_a_plan_needs_lengths_batches_and_rates() -> None:
    for phases, options, said in (
        ([], {"batch_size": 1, "lr": 1.0}, "at least one phase"),
        ([Phase(lr=1)], {"batch_size": 1}, "phase 1 has no length"),
        ([Phase(steps=1, lr=1)], {}, "phase 1 has no batch size"),
        ([Phase(steps=1)], {"batch_size": 1}, "phase 1 has no learning rate"),
        ([Phase(steps=1)], {"lr": 1.0, "lr_per_256": 1.0}, "not both"),
    ):
        with pytest.raises(InputError, match=said):
            plan(phases, **options)  # type: ignore[arg-type]


def clipa_v2_h14() -> list[Phase]:
    return [
        Phase(samples=12_800_000_000, image_size=84, text_length=8, batch_size=65_536, lr_per_256=8e-6),
        Phase(samples=512_000_000, image_size=224, image_keep=0.7, batch_size=32_768, lr_per_256=4e-7),
        Phase(samples=128_000_000, image_size=336, image_keep=0.6, batch_size=16_384, lr_per_256=1e-7),
    ]


def test_the_budget_of_clipa_v2() -> None:
    rows = cost(
        plan(clipa_v2_h14()),
        image_size=224,
        patch_size=14,
        image_width=1280,
        image_layers=32,
        text_length=32,
        text_width=1024,
        text_layers=24,
        prefix=1,
    )
    assert [row.image_tokens for row in rows] == [36, 179, 345]
    assert [row.text_tokens for row in rows] == [8, 32, 32]
    assert [round(100 * row.share) for row in rows] == [77, 15, 7]
    assert sum(row.share for row in rows) == pytest.approx(1)
    for row, phase, batch in zip(rows, clipa_v2_h14(), (65_536, 32_768, 16_384), strict=True):
        assert phase.samples is not None
        assert 0 <= row.samples - phase.samples < batch  # whole batches
    image = 32 * (24 * 37 * 1280**2 + 4 * 37**2 * 1280)
    text = 24 * (24 * 8 * 1024**2 + 4 * 8**2 * 1024)
    assert rows[0].flops == rows[0].samples * (image + text)
    assert price(8640, 1.5) == 12_960


@pytest.mark.parametrize(("width", "share"), [(32, 0.203), (64, 0.223), (96, 0.231)])
def test_block_flops_of_few_tokens(width: int, share: float) -> None:
    assert block_flops(16, width, 3) / block_flops(64, width, 3) == pytest.approx(share, abs=5e-4)


def test_block_flops_are_torchs_count() -> None:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from binderclip.model.base import State
    from binderclip.model.block import Block

    block, x = Block(32, 2), torch.zeros(1, 10, 32)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        block(State(x=x))
    assert counter.get_total_flops() == block_flops(10, 32, 1)


def test_a_plan_needs_no_torch() -> None:
    names = "binderclip.train.phases, binderclip.train.budget, binderclip.train.logbook"
    program = f"import sys, {names}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
