"""One loop for every objective: its syntax tree is that of the day when the first objective ran.

A change here is allowed, with its reason in CHANGES; an objective that needs one shows that the loop was not general.
"""

from __future__ import annotations

import ast
import hashlib

from binderclip.train import loop

#: Hash of the tree -> why it was changed, oldest first.
CHANGES = {
    "4f5d8a2bb5ca2d2b": "the first objective, plain CLIP",
    "dfea9aabb406b7d0": "fine-tuning looks for the best by class_loss: any measure that ends in loss is better when lower",
    "6d7c341fc0086f91": "nothing new: the recipe lays out its own phases, which the command line needs too",
}


def tree_hash(source: str) -> str:
    """Of the code alone: comments, layout and docstrings do not count."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def test_the_loop_is_the_one_that_was_written_down() -> None:
    with open(loop.__file__, encoding="utf-8") as stream:
        assert tree_hash(stream.read()) == list(CHANGES)[-1], "train/loop.py has changed: write down why in CHANGES"


def test_the_hash_sees_code_and_nothing_else() -> None:
    a = tree_hash('"""One."""\ndef f(x):\n    """Two."""\n    return x + 1  # three\n')
    assert a == tree_hash('"""Other."""\ndef f(x):\n    "Words."\n\n    return x+1\n')
    assert a != tree_hash('"""One."""\ndef f(x):\n    """Two."""\n    return x + 2\n')
