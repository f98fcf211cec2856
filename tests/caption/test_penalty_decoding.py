"""Penalty decoding: identities, transformers' own penalty, windows, rows; what it cures is `bench:caption_penalty`."""

from __future__ import annotations

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from binderclip.caption.base import LogitsProcessor
from binderclip.caption.penalty_decoding import PenaltyDecoding, self_reinforcement, strengthened
from binderclip.errors import InputError

pytestmark = pytest.mark.system("penalty_decoding")
V = 30


def drawn(R: int = 4, t: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(V, (R, t), generator=generator), 3 * torch.randn(R, V, generator=generator)


def test_identity() -> None:
    ids, scores = drawn()
    before = scores.clone()
    made = PenaltyDecoding(alpha=1.0, kappa=0.0)
    assert torch.equal(made(ids, scores), before)
    PenaltyDecoding(alpha=1.5, eos_id=3, min_length=40)(ids, scores)
    assert torch.equal(scores, before)  # never in place
    assert isinstance(made, LogitsProcessor)


def test_against_transformers() -> None:
    for alpha in (1.1, 1.7):
        ids, scores = drawn(seed=int(10 * alpha))
        theirs = RepetitionPenaltyLogitsProcessor(alpha)(ids, scores.clone())
        assert torch.equal(PenaltyDecoding(alpha=alpha, window=None, kappa=0.0)(ids, scores), theirs)
    empty = torch.empty(4, 0, dtype=torch.long)
    assert torch.equal(PenaltyDecoding(alpha=1.7)(empty, scores), scores)


def test_forgetting() -> None:
    scores = torch.ones(1, V)
    ids = torch.arange(20)[None]
    out = PenaltyDecoding(alpha=2.0, window=5)(ids, scores)
    assert set(torch.nonzero(out[0] != 1).flatten().tolist()) == {15, 16, 17, 18, 19}
    moved = PenaltyDecoding(alpha=2.0, window=5)(torch.cat([ids, torch.tensor([[20]])], 1), scores)
    assert set(torch.nonzero(out[0] != moved[0]).flatten().tolist()) == {15, 20}
    low = PenaltyDecoding(alpha=2.0)(ids, -scores)
    assert low[0, 19] == -2  # a negative logit is multiplied: dividing would raise it


def test_rows() -> None:
    ids, scores = drawn(6)
    made, order = PenaltyDecoding(alpha=1.4, eos_id=2, min_length=30), torch.tensor([3, 1, 5, 0, 4, 2])
    assert torch.equal(made(ids[order], scores[order]), made(ids, scores)[order])


def test_length_and_what_is_exempt() -> None:
    scores = torch.full((1, V), 2.0)
    made = PenaltyDecoding(alpha=2.0, eos_id=7, min_length=10, exempt_ids=(4,))
    out = made(torch.tensor([[4, 5, 7, 9]]), scores)
    assert out[0, 4] == 2
    assert out[0, 5] == out[0, 9] == 1
    assert out[0, 7] == pytest.approx(2 - 2 * (1 - 4 / 10))  # not penalised as a repeat, but lowered for the length
    assert made(torch.arange(10)[None] + 10, scores)[0, 7] == 2
    shut = scores.clone()
    shut[0, 7] = float("-inf")
    assert made(torch.tensor([[1]]), shut)[0, 7] == float("-inf")


def test_prompts() -> None:
    scores = torch.ones(2, V)
    ids = torch.tensor([[3, 4, 8], [3, 4, 9]])
    plain = PenaltyDecoding(alpha=2.0, prompt_length=2)(ids, scores)
    assert plain[0, 3] == 1
    assert plain[0, 8] == 0.5
    whole = PenaltyDecoding(alpha=2.0, prompt_length=2, include_prompt=True)(ids, scores)
    assert whole[0, 3] == whole[1, 9] == 0.5
    vectors = PenaltyDecoding(alpha=2.0, prompt_ids=(5, 6), include_prompt=True)(torch.empty(2, 0).long(), scores)
    assert vectors[0, 5] == vectors[1, 6] == 0.5


def test_strengthened_by_hand() -> None:
    # 5 6 5 6 5: the second 5 has grown (0.5 > 0.2), the second 6 has not (0.3 = 0.3), the third 5 has (0.6 > 0.5)
    assert strengthened([5, 6, 5, 6, 5], [0.2, 0.3, 0.5, 0.3, 0.6])[0] == 2
    # bigrams: (5 6) 0.25 then (0.5 + 0.3)/2 = 0.4: grown; (6 5) (0.3 + 0.5)/2 = 0.4 then (0.3 + 0.6)/2 = 0.45: grown
    assert strengthened([5, 6, 5, 6, 5], [0.2, 0.3, 0.5, 0.3, 0.6])[1] == 2
    assert strengthened([5], [0.9], prompt=[5]) == [0, 0, 0, 0]  # tokens of the prompt start at 1
    assert strengthened([6], [0.1], prompt=[5, 6, 5])[1] == 1  # its n-grams start at 1e-9


def test_the_probe_on_a_model_that_loops() -> None:
    class Loop:
        """Always says the next number, ever surer the longer the text."""

        def logits(self, prefix: object, ids: torch.Tensor) -> torch.Tensor:
            out = torch.full((1, ids.shape[1], V), 0.5)
            for i in range(ids.shape[1]):
                out[0, i, (int(ids[0, i]) + 1) % 3] = 1 + 0.1 * i
            return out

    found = self_reinforcement(Loop(), [[0]], lambda lm, prompt: [1, 2, 0, 1, 2, 0], judge=Loop())
    assert found.rates[0] == pytest.approx(3 / 6)  # the second 1, 2 and 0; the first 0 is in the prompt, at 1
    assert found.greedy == 1
    assert found.length == 6
    assert found.coherence < 0
    cured = self_reinforcement(
        Loop(), [[0]], lambda lm, prompt: [1, 2, 0, 1, 2, 0], process=lambda n: PenaltyDecoding(4.0, prompt_length=n)
    )
    assert cured.greedy < 1
    with pytest.raises(InputError, match="at least one"):
        self_reinforcement(Loop(), [], lambda lm, prompt: [])


def test_what_cannot_be() -> None:
    for wrong in ({"alpha": 0.9}, {"window": 0}, {"kappa": -1}):
        with pytest.raises(InputError, match="check them"):
            PenaltyDecoding(**wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="needs the end token"):
        PenaltyDecoding(min_length=5)
