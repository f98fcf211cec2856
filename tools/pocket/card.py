"""The model card: a text with one table of figures in it, filled from what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

LINES = (
    ("cifar10", "CIFAR-10, 10 names (no row of it in training)"),
    ("cifar100", "CIFAR-100, 100 names (80 classes in training)"),
    ("cifar100_unseen20", "CIFAR-100, its 20 unseen classes among themselves"),
    ("tiny_imagenet", "Tiny-ImageNet, 200 names"),
    ("imagenet_photos_1000", "ImageNet photos, 1,000 names"),
    ("stamps_recall5", "stamps, text to image, recall@5"),
    ("parents_auroc", "WordNet parent names, mean AUROC over ImageNet photos"),
)


def table(figures: dict[str, Any]) -> str:
    """The figures as Markdown."""
    ours, theirs, goals = figures["pocket"], figures["sentence_encoder_as_text_tower"], figures["goals"]
    out = ["| what | goal | pocket | sentence encoder |", "| --- | --- | --- | --- |"]
    for key, words in LINES:
        goal = f"{goals[key]:.2f}" if key in goals else ""
        out.append(f"| {words} | {goal} | {ours[key]:.3f} | {theirs[key]:.3f} |")
    two, colour, found = figures["two_objects"], figures["attributes"], figures["calibration"]
    reworded = figures["stamps_recall5_reworded"]
    keeps = figures["text_tower_keeps"]
    worst = min(keeps, key=lambda key: keeps[key])
    out += [
        f"| stamps, captions reworded | | {reworded['pocket']:.3f} | {reworded['sentence_encoder']:.3f} |",
        f"| CIFAR-10 without its names | | {figures['cifar10_without_its_names']:.3f} | |",
        f"| text tower keeps, mean over the first seven rows | 0.95 | {figures['text_tower_keeps_mean']:.3f} | 1 |",
        f"| text tower keeps, worst of them ({worst}) | 0.95 | {keeps[worst]:.3f} | 1 |",
        f"| two objects (chance {two['chance']:.2f}) | | {two['accuracy']:.3f} | |",
        f"| attributes: five colours (chance {colour['chance']:.2f}) | | {colour['accuracy']:.3f} | |",
        f"| absent names that match nothing (probability under 0.5) | 0.70 | {found['absent_says_nothing']:.3f} | |",
        f"| names that are there and keep their photo | 0.80 | {found['present_keeps_photo']:.3f} | |",
        f"| calibration error of the best hit (at most) | 0.08 | {found['ece_best_hit']:.3f} | |",
    ]
    return "\n".join(out)


def write(folder: Path, figures: dict[str, Any]) -> None:
    """``MODEL_CARD.md``."""
    text = Path(__file__).with_name("card_template.md").read_text(encoding="utf-8")
    (folder / "MODEL_CARD.md").write_text(text.replace("<!-- figures -->", table(figures)), encoding="utf-8")
