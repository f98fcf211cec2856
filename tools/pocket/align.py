"""Stage 4: an MLP from cached features into the sentence space, locked-image tuning turned round.

The backbone and the sentence encoder stay as they are; ``MLP(f)`` learns to point at what the picture is called (Zhai
et al. 2022, arXiv 2111.07991, with the sides exchanged). Each picture has a label; a label has several texts (names,
synonyms, a kind of its parent, gloss, caption), one drawn a step. The loss is the cross-entropy over all labels,
without those that mean nearly the same; the divergence from what the ImageNet head believes over its 1,000 class names;
for each WordNet name above them, whether the picture is below it; and which colour or which pair of things a composed
picture shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocket import names, synthetic
from pocket.inputs import Paths
from pocket.rows import Labels, Look, Parents, Rows, concept_vectors, fits, gather, parent_names
from pocket.synthetic import Composed
from pocket.teacher import Lookup


@dataclass(frozen=True)
class Settings:
    """What the fit was tuned over, on training rows."""

    hidden: int = 1024
    epochs: int = 5
    batch: int = 512
    rate: float = 1e-3
    decay: float = 0.02
    dropout: float = 0.3
    tau: float = 0.05
    dense: float = 1.0
    dense_temperature: float = 1.5
    near: float = 0.75
    parents: float = 2.0
    composed: float = 0.3
    seed: int = 0


class Mlp(nn.Module):
    """``last(gelu(inner(f)))`` with dropout while it learns; its weights go into the tower's head."""

    def __init__(self, settings: Settings, width: int = 1280, dim: int = 384) -> None:
        super().__init__()
        self.inner, self.last = nn.Linear(width, settings.hidden), nn.Linear(settings.hidden, dim)
        self.dropout = settings.dropout

    def forward(self, f: Tensor) -> Tensor:
        """Features ``[N, 1280]`` to unit vectors ``[N, D]``."""
        f = F.dropout(f, self.dropout / 2, self.training)
        h = F.dropout(F.gelu(self.inner(f)), self.dropout, self.training)
        return F.normalize(self.last(h), dim=-1)


def composed_loss(mlp: Mlp, composed: Composed, tau: float, batch: int = 64) -> Tensor:
    """Which of eight colours a thing has, and which two things are on a page (among 64 pages and four exchanged things)."""
    thing = torch.randint(len(composed.tinted), (batch,))
    colour = torch.randint(composed.tinted.shape[1], (batch,))
    e = mlp(composed.tinted[thing, colour])  # [B, D]
    hues = F.cross_entropy(torch.einsum("bd,bcd->bc", e, composed.colours[thing]) / tau, colour)
    page = torch.randperm(len(composed.pairs))[:batch]
    e, texts = mlp(composed.pairs[page]), composed.pair_texts[page]  # [B, D], [B, 5, D]
    exchanged = torch.einsum("bd,bcd->bc", e, texts[:, 1:])
    scores = torch.cat([e @ texts[:, 0].T, exchanged], 1) / tau  # [B, B + 4]
    return hues + F.cross_entropy(scores, torch.arange(len(page)))


def fit(
    rows: Rows,
    labels: Labels,
    concepts: Tensor,
    parents: Parents,
    composed: Composed,
    s: Settings,
    start: Mlp | None = None,
) -> Mlp:
    """Train one MLP; ``concepts [1000, D]`` are the class-name vectors of the dense term."""
    torch.manual_seed(s.seed)
    mlp = (start or Mlp(s)).train()
    means = F.normalize(labels.vectors.mean(1), dim=-1)
    near = (means @ means.T > s.near).fill_diagonal_(False)  # [K, K] labels that mean nearly the same
    steps = s.epochs * (len(rows.label) // s.batch)
    # Each parent has its own threshold: what counts is the order of pictures for a name. It is thrown away.
    threshold = nn.Parameter(torch.full((len(parents.ids),), -4.0))
    optimizer = torch.optim.AdamW([*mlp.parameters(), threshold], lr=s.rate, weight_decay=s.decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, s.rate, total_steps=steps, pct_start=0.1)
    k, m = labels.vectors.shape[:2]
    for step in range(steps):
        if step % (len(rows.label) // s.batch) == 0:
            order = torch.multinomial(rows.weight, len(rows.label), replacement=True)
        pick = order[(step * s.batch) % (len(rows.label) - s.batch) :][: s.batch]
        x, y, logits = rows.features[pick], rows.label[pick], rows.logits[pick]
        bank = labels.vectors[torch.arange(k), torch.randint(m, (k,))]  # [K, D] one text a label
        belief = (logits / s.dense_temperature).softmax(-1)  # [B, 1000]
        e = mlp(x)
        scores = e @ bank.T / s.tau  # [B, K]
        loss = F.cross_entropy(scores.masked_fill(near[y], -30.0), y)
        dense = -(belief * (e @ concepts.T / s.tau).log_softmax(-1)).sum(-1).mean()
        above = labels.below[y]  # [B, H]
        above = torch.where(above < 0, belief @ parents.member, above).clamp(0, 1)
        said = parents.vectors[torch.arange(len(above[0])), torch.randint(2, (len(above[0]),))]  # [H, D]
        binary = F.binary_cross_entropy_with_logits(e @ said.T / (2 * s.tau) + threshold, above) * 10
        made = composed_loss(mlp, composed, s.tau)
        optimizer.zero_grad(set_to_none=True)
        (loss + s.dense * dense + s.parents * binary + s.composed * made).backward()
        optimizer.step()
        schedule.step()
    return mlp.eval()


def fit_all(paths: Paths, stage: str, look: Look, settings: Settings) -> None:
    """Each fit into ``STAGE + NAME .pt``; the stage ``joint`` starts from what ``align`` gave."""
    parents, concepts = parent_names(paths, look), concept_vectors(paths, look)
    unmade = [name for name in fits(paths) if not (paths.work / f"{stage}{name}.pt").is_file()]
    for name in unmade:
        rows, labels = gather(paths, fits(paths)[name], look, parents)
        allowed = (lambda caption: not names.mentions_cifar10(caption)) if name == "_without_cifar10" else None
        composed = synthetic.load(paths, look, keep=allowed)
        print(f"{stage}{name}: {len(rows.label)} rows, {len(labels.keys)} labels", flush=True)
        start = load_mlp(paths, f"align{name}") if stage == "joint" else None
        mlp = fit(rows, labels, concepts, parents, composed, settings, start)
        aside = paths.work / f"{stage}{name}.part"
        torch.save({"mlp": mlp.state_dict(), "hidden": settings.hidden, "concepts": concepts}, aside)
        aside.replace(paths.work / f"{stage}{name}.pt")


def load_mlp(paths: Paths, name: str) -> Mlp:
    """A fit from the scratch folder."""
    kept = torch.load(paths.work / f"{name}.pt", weights_only=True)
    mlp = Mlp(Settings(hidden=kept["hidden"]))
    mlp.load_state_dict(kept["mlp"])
    return mlp.eval()


def main(paths: Paths) -> None:
    """Fit against the sentence encoder's vectors."""
    fit_all(paths, "align", Lookup(paths), Settings())
