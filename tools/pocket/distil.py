"""Stage 3: the compact causal text tower learns the sentence encoder's space.

First a bag of words (the mean of factor-128 token vectors, one linear map) is fitted, which takes a minute and gives the
token table a start; then the transformer. Loss of a batch, s student, t teacher, both unit::

    5 (1 - s.t)  +  KL(softmax(t t' / tau) || softmax(s t' / tau))          tau = 0.05

Batches hold texts of about one length, so that little is padding. Resumes from ``distil.pt``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from binderclip.model.text import TextTransformer
from binderclip.model.tokenizer import Tokenizer
from pocket import names
from pocket.inputs import Paths, save_json
from pocket.teacher import WIDTH, load

TOWER = {
    "vocab_size": 49408, "context_length": 77, "width": 256, "layers": 4, "heads": 4, "embed_dim": WIDTH, "factor": 128,
}  # fmt: skip
# How often a text of each group is drawn, relative to one reading of the group.
SHARES = {"class": 3.0, "captions": 1.0, "dictionary": 1.2, "composed": 1.3, "tokens": 0.5, "glosses": 0.4}
STEPS, BATCH, RATE, TAU = 4200, 256, 1.5e-3, 0.05
MOST = 26  # tokens of a training text; longer ones are cut by leaving them out


class Corpus:
    """Token rows with their teacher vectors.

    Args:
        paths: where the cache is.
        groups: group -> share.
    """

    def __init__(self, paths: Paths, groups: dict[str, float] = SHARES) -> None:
        texts: dict[str, int] = {}
        vectors: list[np.ndarray] = []
        weights: list[float] = []
        # The wording of test captions stays out, unless a training caption says the same.
        stamps = names.stamps_captions(paths)
        out = {row["caption"] for row in stamps if row["test"]} - {row["caption"] for row in stamps if not row["test"]}
        for group, share in groups.items():
            for text, vector in zip(*load(paths, group), strict=True):
                if text in out:
                    continue
                if text in texts:
                    weights[texts[text]] += share
                else:
                    texts[text] = len(vectors)
                    vectors.append(vector)
                    weights.append(share)
        ids, eos = Tokenizer.clip()(list(texts))
        short = eos < MOST
        self.ids, self.eos = torch.from_numpy(ids[short][:, :MOST]), torch.from_numpy(eos[short])
        self.targets = torch.from_numpy(np.stack(vectors)[short])
        self.weights = torch.tensor(weights)[torch.from_numpy(short)]

    def batches(self, seed: int, batch: int) -> Iterator[Tensor]:
        """Row numbers, one drawing of the corpus: texts of one length together, batches in random order."""
        rng = torch.Generator().manual_seed(seed)
        total = int(self.weights.sum())
        whole = self.weights.floor().long()
        extra = torch.rand(len(whole), generator=rng) < self.weights - whole
        drawn = torch.repeat_interleave(torch.arange(len(whole)), whole + extra.long())[: total + len(whole)]
        drawn = drawn[torch.randperm(len(drawn), generator=rng)]
        key = self.eos[drawn].float() + torch.rand(len(drawn), generator=rng)
        parts = drawn[key.argsort()].split(batch)
        for i in torch.randperm(len(parts) - 1, generator=rng):
            yield parts[i]


def distil_loss(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """The loss above and the mean cosine."""
    s = F.normalize(student, dim=-1)
    cosine = (s * teacher).sum(-1).mean()
    wanted = (teacher @ teacher.T / TAU).softmax(-1)  # [B, B]
    got = (s @ teacher.T / TAU).log_softmax(-1)
    return 5 * (1 - cosine) + F.kl_div(got, wanted, reduction="batchmean"), cosine


def bag_start(corpus: Corpus, steps: int = 2500, seed: int = 0) -> Tensor:
    """Token vectors ``[V, 128]`` of the fitted bag of words, of standard deviation 1 where trained."""
    torch.manual_seed(seed)
    bag = nn.EmbeddingBag(TOWER["vocab_size"], TOWER["factor"], mode="mean", padding_idx=0)
    nn.init.normal_(bag.weight, std=0.3)
    head = nn.Linear(TOWER["factor"], WIDTH)
    optimizer = torch.optim.AdamW([*bag.parameters(), *head.parameters()], lr=1e-2, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    rng = torch.Generator().manual_seed(seed)
    for step in range(steps):
        pick = torch.multinomial(corpus.weights, 1024, replacement=True, generator=rng)
        ids, eos = corpus.ids[pick], corpus.eos[pick]
        inside = (torch.arange(ids.shape[1]) < eos[:, None]) & (torch.arange(ids.shape[1]) > 0)
        loss, cosine = distil_loss(head(bag(ids * inside)), corpus.targets[pick])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 250 == 0 or step == steps - 1:
            print(f"bag {step} loss {loss.item():.3f} cosine {cosine.item():.3f}", flush=True)
    table = bag.weight.detach()
    return table / table.std()


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Whole or not at all."""
    aside = path.with_suffix(".part")
    torch.save(state, aside)
    os.replace(aside, path)


def main(paths: Paths, steps: int = STEPS) -> None:
    """Train to the last step, from the checkpoint where there is one."""
    torch.manual_seed(0)
    corpus = Corpus(paths)
    print(f"distil: {len(corpus.ids)} texts, {int(corpus.weights.sum())} a drawing", flush=True)
    tower = TextTransformer(**TOWER)
    optimizer = torch.optim.AdamW(tower.parameters(), lr=RATE, weight_decay=0.01, betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.04)
    path, step, log = paths.work / "distil.pt", 0, []
    if path.is_file():
        kept = torch.load(path, weights_only=True)
        tower.load_state_dict(kept["tower"])
        optimizer.load_state_dict(kept["optimizer"])
        schedule.load_state_dict(kept["schedule"])
        step = kept["step"]
    else:
        start = paths.work / "bag.pt"
        if not start.is_file():
            save_checkpoint(start, {"table": bag_start(corpus)})
        with torch.no_grad():
            tower.token_embedding.weight.copy_(torch.load(start, weights_only=True)["table"] * 0.5)
            nn.init.normal_(tower.token_proj.weight, std=TOWER["factor"] ** -0.5)
    began = saved = time.time()
    while step < steps:
        drawing, skip = divmod(step, int(corpus.weights.sum()) // BATCH - 8)
        for n, pick in enumerate(corpus.batches(drawing, BATCH)):
            if n < skip:
                continue
            if step >= steps or step // (int(corpus.weights.sum()) // BATCH - 8) != drawing:
                break
            length = int(corpus.eos[pick].max()) + 1
            out = tower(corpus.ids[pick, :length], eos=corpus.eos[pick]).pooled
            loss, cosine = distil_loss(out, corpus.targets[pick])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            log.append((step, round(loss.item(), 4), round(cosine.item(), 4)))
            if step % 50 == 0:
                recent = np.array(log[-50:])[:, 1:].mean(0)
                print(
                    f"distil {step} loss {recent[0]:.3f} cosine {recent[1]:.3f} {time.time() - began:.0f}s", flush=True
                )
            if time.time() - saved > 120 or step == steps:
                state = {"tower": tower.state_dict(), "optimizer": optimizer.state_dict()}
                save_checkpoint(path, state | {"schedule": schedule.state_dict(), "step": step})
                save_json(paths.work / "distil.log.json", log)
                saved = time.time()


def student(paths: Paths) -> TextTransformer:
    """The tower of the last checkpoint."""
    tower = TextTransformer(**TOWER)
    tower.load_state_dict(torch.load(paths.work / "distil.pt", weights_only=True)["tower"])
    return tower.eval()


def encode(tower: TextTransformer, texts: list[str], batch: int = 256) -> np.ndarray:
    """Unit vectors ``[N, D]``."""
    ids, eos = Tokenizer.clip()(texts)
    order = np.argsort(eos, kind="stable")
    out = np.empty((len(texts), WIDTH), np.float32)
    with torch.inference_mode():
        for start in range(0, len(texts), batch):
            pick = order[start : start + batch]
            part = torch.from_numpy(ids[pick][:, : eos[pick].max() + 1])
            out[pick] = F.normalize(tower(part, eos=torch.from_numpy(eos[pick])).pooled, dim=-1).numpy()
    return out
