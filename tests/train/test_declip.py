"""DeCLIP: each term against a slow oracle or closed form, and the whole in pieces, in two processes and after a resume."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from binderclip.data.hashing import Draws
from binderclip.data.pairs import Pairs
from binderclip.errors import InputError, NeedsPartError
from binderclip.losses import info_nce
from binderclip.model.clip import CLIP
from binderclip.model.tokenizer import Tokenizer
from binderclip.train.base import TrainBatch
from binderclip.train.declip import DeCLIP
from binderclip.train.parts.masking import IGNORED
from binderclip.train.parts.queue import FeatureQueue
from binderclip.train.step import Trainee, gradients

from .conformance import is_the_same_in_pieces, is_the_same_in_two_processes
from .kit import SCENES, TOKENIZER, batch, gradients_of, tiny_clip

pytestmark = pytest.mark.system("declip")

SMALL = {"queue": 40, "head": 16}
BARE = {"w_clip": 1.0, "w_image": 0.0, "w_text": 0.0, "w_nn": 0.0, "mask": 0.0, "eda": False}


def made(clip: CLIP | None = None, **options: object) -> tuple[DeCLIP, CLIP, TrainBatch]:
    """An objective in float64, its CLIP and eight rows."""
    clip = (clip or tiny_clip()).double()
    objective = DeCLIP(**{**SMALL, **options})  # type: ignore[arg-type]
    torch.manual_seed(3)
    objective.setup(clip, {})
    return objective.double(), clip, batch(objective, clip)


def test_bare_it_is_clip() -> None:
    objective, clip, rows = made(**BARE)
    rows = replace(rows, views=(rows.views[0], rows.views[0]))
    assert rows.texts[0][0] == rows.texts[0][1]
    wanted = info_nce(clip.encode_image(rows.views[0]), clip.encode_text((rows.ids[0], rows.eos[0])), clip.scale)
    found = objective(clip, rows)
    assert abs(float((found.total - wanted).detach())) < 1e-6
    assert list(found.parts) == ["clip"]
    assert not list(objective.parameters())  # a term without weight has no head
    assert not list(objective.buffers())


def test_all_pairs_of_views_are_contrasted() -> None:
    objective, clip, rows = made(**{**BARE, "eda": True, "augment": "clip"})
    images = [clip.encode_image(view) for view in rows.views]
    texts = [clip.encode_text(part) for part in zip(rows.ids, rows.eos, strict=True)]
    wanted = sum(info_nce(v, u, clip.scale) for v in images for u in texts) / 4
    assert torch.allclose(objective(clip, rows).total, wanted, rtol=0, atol=1e-12)
    assert not torch.equal(rows.views[0], rows.views[1])
    assert any(first != second for first, second in rows.texts)
    assert {first for first, _ in rows.texts} <= {c for pair in Pairs.open(SCENES) for c in pair.captions}


def test_simsiam() -> None:
    objective, _, _ = made()
    raw = [torch.randn(8, 8, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    value = objective._simsiam(raw)
    assert -1 <= float(value.detach()) <= 1
    z = [objective.project(rows) for rows in raw]
    p = [objective.predict(rows) for rows in z]
    cosines = [F.cosine_similarity(p[i][n], z[1 - i][n], dim=0) for i in range(2) for n in range(8)]
    assert float(value.detach()) == pytest.approx(-sum(c.item() for c in cosines) / 16, abs=1e-12)
    # With the targets held fixed by hand the gradient is the same: none flows through z.
    fixed = [rows.detach() for rows in z]
    by_hand = -(F.cosine_similarity(p[0], fixed[1]).mean() + F.cosine_similarity(p[1], fixed[0]).mean()) / 2
    for a, b in zip(torch.autograd.grad(value, raw), torch.autograd.grad(by_hand, raw), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)
    objective.predict = torch.nn.Identity()  # type: ignore[assignment]
    assert float(objective._simsiam([raw[0], raw[0]]).detach()) == pytest.approx(-1, abs=1e-12)


def words(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Texts of 20 tokens with an end at a drawn place, and the index of it."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, TOKENIZER.vocab_size, (rows, 20), generator=generator)
    eos = torch.randint(2, 20, (rows,), generator=generator)
    place = torch.arange(20)
    ids = ids.masked_fill(place == eos[:, None], 2).masked_fill(place > eos[:, None], 0)
    ids[:, 0] = 1
    return ids, eos


def test_shares_of_masking() -> None:
    objective, clip, _ = made()
    ids, eos = words(11_500)
    torch.manual_seed(0)
    new, labels = objective.hidden(clip, ids, eos)
    free = ids > 3
    total = int(free.sum())
    assert total > 100_000
    chosen = labels != IGNORED
    count = int(chosen.sum())
    assert count / total == pytest.approx(0.15, abs=0.005)
    assert not (chosen & ~free).any()  # start, end and padding never
    assert torch.equal(labels[chosen], ids[chosen])
    assert torch.equal(new[~chosen], ids[~chosen])
    kinds = [(new == 3), (new != 3) & (new != ids), new == ids]
    for kind, share in zip(kinds, (0.8, 0.1, 0.1), strict=True):
        assert int((kind & chosen).sum()) / count == pytest.approx(share, abs=0.015)
    assert int(new[chosen].min()) == 3  # neither padding nor start nor end is put in
    assert not ((new == 2) & chosen).any()


def test_the_masked_words_alone_are_told() -> None:
    objective, clip, rows = made(w_clip=0.0, w_image=0.0, w_nn=0.0, w_text=1.0, mask=0.5)
    torch.manual_seed(1)
    features = objective.encode(clip, rows)
    losses = []
    for n, row in enumerate(features["labels"].tolist()):
        for at, label in enumerate(row):
            if label != IGNORED:
                logits = objective.words.weight @ features["words"][n, at] + objective.words.bias
                losses.append(-logits.log_softmax(-1)[label])
    assert len(losses) > 20
    found = objective.loss(clip, features, rows, 0, 1)
    assert torch.allclose(found.parts["mlm"], torch.stack(losses).mean(), rtol=0, atol=1e-12)
    silent = {**features, "labels": torch.full_like(features["labels"], IGNORED)}
    assert objective.loss(clip, silent, rows, 0, 1).parts["mlm"].item() == 0
    # u1 is taken from the masked pass, or from one of its own.
    plain = clip.encode_text((rows.ids[0], rows.eos[0]))
    assert not torch.allclose(features["text_0"], plain)
    other, clip, rows = made(mask_contrast=False)
    assert torch.allclose(other.encode(clip, rows)["text_0"], clip.encode_text((rows.ids[0], rows.eos[0])))


def test_a_vocabulary_without_mask_gets_a_vector_of_the_objective() -> None:
    clip = tiny_clip()
    clip.tokenizer = Tokenizer(TOKENIZER.rust, start=1, end=2, context_length=32)
    clip.tokenizer.rust = type(
        "NoMask", (), {"token_to_id": lambda self, name: None, "get_vocab_size": lambda self: 390}
    )()
    clip = clip.double()
    objective = DeCLIP(**SMALL)
    objective.setup(clip, {})
    objective.double()
    ids, eos = words(6)
    ids = ids.clamp(max=389)
    torch.manual_seed(0)
    tokens, labels = objective._masked(clip, ids, eos)
    torch.manual_seed(0)
    new, again = objective.hidden(clip, ids, eos)
    assert torch.equal(labels, again)
    assert (new == -1).any()
    # The oracle: a token table that is one row longer.
    tower = clip.tower("text")
    embedded = torch.stack(
        [torch.stack([objective.mask_vector if i < 0 else tower.token_embedding.weight[i] for i in row]) for row in new]
    )
    assert torch.allclose(tokens.pooled, tower.encode_prompts(embedded, eos), rtol=0, atol=1e-12)
    tokens.pooled.sum().backward()
    assert objective.mask_vector.grad.abs().sum() > 0
    clip.tokenizer = None
    with pytest.raises(NeedsPartError, match="set w_text to 0"):
        DeCLIP(**SMALL).setup(clip, {})


def test_neighbours() -> None:
    objective, clip, rows = made(w_clip=0.0, w_image=0.0, w_text=0.0, w_nn=1.0, top_k=2)
    features = {k: v.detach() for k, v in objective.encode(clip, rows).items()}
    first = objective.loss(clip, features, rows, 0, 1)
    assert first.total.item() == 0  # the queue was empty: its own features are no neighbours
    assert len(objective.queue) == 16
    held = [*features["text_1"], *features["text_0"]]  # u2 enters, then u1
    generator = torch.Generator().manual_seed(0)
    text = [F.normalize(torch.randn(8, 8, generator=generator, dtype=torch.float64), dim=-1) for _ in range(2)]
    again = {**features, "text_0": text[0], "text_1": text[1]}
    found = objective.loss(clip, again, rows, 1, 2)
    losses = []
    for k in range(2):
        for u in text:
            for rank in range(2):
                near = [sorted(held, key=lambda row: -float(row @ query))[rank] for query in u]
                v = F.normalize(features[f"image_{k}"], dim=-1)
                logits = clip.scale.detach() * v @ torch.stack(near).T
                losses += [-logits[n].log_softmax(-1)[n] for n in range(8)]
    assert found.total.item() == pytest.approx(float(sum(losses) / len(losses)), abs=1e-12)


def test_queue_order() -> None:
    objective, clip, rows = made(w_clip=0.0, w_image=0.0, w_text=0.0, w_nn=1.0)
    pushed: list[Tensor] = []
    for step in range(4):  # 64 rows through 40 slots
        torch.manual_seed(step)
        features = {k: F.normalize(torch.randn(8, 8, dtype=torch.float64), dim=-1) for k in _names(objective)}
        objective.loss(clip, features, rows, step, 4)
        pushed += [*features["text_1"], *features["text_0"]]
        assert torch.equal(objective.queue.ordered(), torch.stack(pushed[-40:]))


def _names(objective: DeCLIP) -> list[str]:
    return ["image_0", "image_1", "text_0", "text_1"]


def test_neighbours_gradient() -> None:
    objective, clip, rows = made(w_clip=0.0, w_image=0.0, w_text=0.0, w_nn=1.0)
    objective(clip, rows)
    objective(clip, rows).total.backward()
    grads = gradients_of(clip.tower("image"))
    assert all(g.abs().sum() > 0 for g in grads.values())
    assert not any(g.abs().sum() for g in gradients_of(clip.tower("text")).values())
    assert clip.logit_scale.grad.abs() > 0


def test_the_scale_is_cut_in_the_forward_pass_with_its_gradient(tmp_path: Path) -> None:
    objective, clip, rows = made(**BARE)
    with torch.no_grad():
        clip.logit_scale.fill_(5.0)  # s = 148
    images = [clip.encode_image(view) for view in rows.views]
    text = clip.encode_text((rows.ids[0], rows.eos[0]))
    found = objective(clip, rows)
    wanted = (info_nce(images[0], text, 100.0) + info_nce(images[1], text, 100.0)) / 2
    assert torch.allclose(found.total, wanted, rtol=0, atol=1e-12)
    found.total.backward()
    assert clip.logit_scale.grad.abs() > 0
    for low, kept in ((2.66, 3.0), (7.0, 6.0)):
        with torch.no_grad():
            clip.logit_scale.fill_(low)
        objective.after_step(clip, 0, 1)
        assert clip.logit_scale.item() == pytest.approx(kept)
    assert objective.finish(clip).scale.item() == pytest.approx(100)


class Still(FeatureQueue):
    """Holds what it is filled with: two passes over a batch see the same."""

    def fill(self) -> None:
        rows = torch.randn(*self.rows.shape, generator=torch.Generator().manual_seed(0))
        super().push(F.normalize(rows, dim=-1))

    def push(self, rows: Tensor) -> None:
        """Nothing."""


class EveryThird(DeCLIP):
    """Masks by place, so that nothing is drawn: rows in pieces and in processes must give what they give together."""

    draws = False

    def setup(self, clip: CLIP, recipe: Mapping[str, Any]) -> None:
        super().setup(clip, recipe)
        self.queue = Still(len(self.queue.rows), clip.embed_dim)
        self.queue.fill()

    def hidden(self, clip: CLIP, ids: Tensor, eos: Tensor) -> tuple[Tensor, Tensor]:
        chosen = (ids + torch.arange(ids.shape[1])) % 3 == 0
        return ids.masked_fill(chosen, 3), ids.masked_fill(~chosen, IGNORED)


def filled() -> EveryThird:
    return EveryThird(**SMALL)


@pytest.mark.parametrize("rule", [is_the_same_in_pieces, is_the_same_in_two_processes])
def test_pieces_and_processes_give_the_loss_of_the_whole(rule, tmp_path: Path) -> None:
    rule(filled, tmp_path)


def test_pieces_draw_the_same_masks_twice() -> None:
    objective, clip, rows = made()
    trainee = Trainee(clip, objective)
    seen: list[Tensor] = []
    hidden = objective.hidden

    def tell(*given: object) -> tuple[Tensor, Tensor]:
        seen.append(hidden(*given)[1])  # type: ignore[arg-type]
        return hidden_of(seen[-1], given[1])  # type: ignore[arg-type]

    def hidden_of(labels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        return ids.masked_fill(labels != IGNORED, 3), labels

    objective.hidden = tell  # type: ignore[method-assign]
    gradients(trainee, rows, 0, 1, micro_batch=4)
    assert len(seen) == 4
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])


def test_edits_are_fresh_and_arguments_are_checked() -> None:
    objective = DeCLIP()
    pair = next(pair for pair in Pairs.open(SCENES) if len(pair.caption.split()) > 3)
    seen = {objective.texts(pair, Draws(0, f"row/{pair.id}/{epoch}"), pair.caption)[1] for epoch in range(30)}
    assert len(seen) > 5
    assert DeCLIP(eda=False).texts(pair, Draws(0, "x"), "a dog") == ("a dog", "a dog")
    assert objective.views(None)["first"].grey == 0.2  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one must be positive"):
        DeCLIP(w_clip=0, w_image=0, w_text=1, w_nn=0, mask=0)
    assert math.log(objective.clamp[0]) == pytest.approx(3)
