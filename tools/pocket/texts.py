"""The sentences whose teacher vectors the build uses, in named groups; all of them English, all made from the tables."""

from __future__ import annotations

import numpy as np

from pocket import names
from pocket.inputs import Paths, is_test

COLOURS = "red blue green yellow black white brown orange pink purple grey golden".split()
ADJECTIVES = """big small old new young happy wooden broken wet dirty shiny striped empty tiny cute metal plastic
round
""".split()
SCENES = (
    "on the beach", "in the snow", "in the rain", "at night", "at sunset", "on a table", "in the grass", "in the water",
    "on the street", "in a city", "in the mountains", "in a forest", "indoors", "in the kitchen", "on a white background",
    "in a field", "under a tree", "by the sea", "in the fog", "at the park",
)  # fmt: skip
PAIRS = ("{a} and {b}", "a {a} and a {b}", "a {a} next to a {b}", "a {a} on a {b}", "a {a} with a {b}", "{a} {b}")
EVERYDAY = """
dog cat horse cow sheep bird duck fish elephant lion tiger bear monkey rabbit mouse frog snake turtle butterfly bee
spider person man woman child baby boy girl people crowd family face hand car bus truck train boat ship airplane
bicycle motorcycle helicopter tractor house church castle bridge tower street road city village garden park beach sea
lake river mountain forest tree flower rose grass sky cloud sun moon star snow rain fire table chair bed sofa lamp
window door book newspaper computer laptop keyboard phone camera clock watch television guitar piano violin drum ball
football tennis basketball skateboard surfboard umbrella bag backpack hat shirt dress shoe glasses cup coffee tea
bottle glass wine plate bowl fork knife spoon bread cake pizza sandwich burger soup salad apple banana orange lemon
strawberry grape tomato potato carrot onion egg cheese meat ice-cream chocolate cookie coin money stamp key map flag
sign painting statue toy doll balloon candle gift box rocket satellite planet galaxy microscope eye x-ray brain
skeleton motorcycle staircase brick wall gravel page text document screenshot diagram chart sunset wedding birthday
christmas halloween concert market restaurant kitchen office school hospital airport station stadium farm desert
island waterfall
""".split()


def physical(paths: Paths) -> dict[str, list[str]]:
    """Lower-case lemmas of physical things -> ids of their synsets, the commonest sense first in WordNet's order."""
    out: dict[str, list[str]] = {}
    for wnid, row in paths.wordnet.items():
        if row["pos"] == "n" and "n00001930" in names.ancestors(paths.wordnet, wnid):
            for lemma in row["lemmas"]:
                if lemma == lemma.lower():
                    out.setdefault(lemma, []).append(wnid)
    return out


def class_texts(paths: Paths) -> list[str]:
    """Every class name of every table under every template, with ImageNet's synonyms, parents and glosses."""
    words = list(names.CIFAR10) + names.cifar100_names(paths)[0]
    words += [n for n, _ in names.parent_queries(paths)]
    concepts = names.imagenet(paths)
    words += [c.name for c in concepts]
    words += [s for c in concepts for s in c.synonyms]
    words += [row["name"] for row in paths.table("imagenet1k_photos", ["name"])]
    out = [t.format(w) for w in dict.fromkeys(words) for t in names.TEMPLATES]
    out += [p for c in concepts for p in c.parents] + [f"a photo of a {p}" for c in concepts for p in c.parents]
    out += [c.gloss for c in concepts] + [f"{c.name}, {c.gloss}" for c in concepts]
    out += [f"{c.name}, a kind of {c.parents[0]}" for c in concepts]
    return list(dict.fromkeys(out))


def caption_texts(paths: Paths) -> list[str]:
    """Captions of stamps (all: test rows are never trained on) and of Flickr8k's training rows."""
    out = [row["caption"] for row in names.stamps_captions(paths)]
    for row in paths.table("flickr8k_captions"):
        if not is_test(row["id"]):
            out += row["captions"]
    return list(dict.fromkeys(out))


def composed_texts(paths: Paths, count: int = 45000, seed: int = 0) -> list[str]:
    """Colours, attributes, places, pairs and bare keywords about everyday things and ImageNet's classes."""
    rng = np.random.default_rng(seed)
    things = EVERYDAY * 4 + [c.name for c in names.imagenet(paths)]

    def pick(options: list[str] | tuple[str, ...]) -> str:
        return options[int(rng.integers(len(options)))]

    out = []
    for _ in range(count):
        a, b, colour, word, scene = pick(things), pick(things), pick(COLOURS), pick(ADJECTIVES), pick(SCENES)
        short = scene.split()[-1]
        forms = (
            f"{colour} {a}", f"a {colour} {a}", f"a photo of a {colour} {a}", f"a {word} {a}", f"a {colour} {a} {scene}",
            f"a {a} {scene}", f"{a} {short}", f"{colour} {a} {short}", pick(PAIRS).format(a=a, b=b),
            f"a {colour} {a} and a {pick(COLOURS)} {b}", f"two {a}s", f"a {word} {colour} {a}", f"{a} {b} {short}",
            f"the {a}", f"{a}s",
        )  # fmt: skip
        out.append(pick(forms))
    return list(dict.fromkeys(out))


def dictionary_texts(paths: Paths, seed: int = 1) -> list[str]:
    """Lemmas of WordNet: nouns bare, physical ones also in a template; verbs and adjectives bare."""
    rng = np.random.default_rng(seed)
    things = list(physical(paths))
    bare = [lemma for row in paths.wordnet.values() for lemma in row["lemmas"] if lemma == lemma.lower()]
    framed = [names.TEMPLATES[int(rng.integers(1, len(names.TEMPLATES)))].format(t) for t in things]
    return list(dict.fromkeys(bare + framed))


def gloss_texts(paths: Paths, limit: int = 25000) -> list[str]:
    """Short definitions of physical things."""
    ids = {w for kept in physical(paths).values() for w in kept}
    out = [names.definition(paths.wordnet[w]["gloss"]) for w in sorted(ids)]
    return list(dict.fromkeys(g for g in out if len(g.split()) <= 16))[:limit]


def token_texts() -> list[str]:
    """Every whole-word token of the CLIP vocabulary that is made of letters: what the embedding table starts from."""
    from binderclip.model.tokenizer import clip_bpe

    words = [w[:-4] for w in clip_bpe().get_vocab() if w.endswith("</w>")]
    return sorted(w for w in words if w.isascii() and w.isalpha() and len(w) > 1)


# In the order they are computed; ``class`` first, so that pictures can be aligned while the rest is computed.
GROUPS = {
    "class": class_texts,
    "captions": caption_texts,
    "dictionary": dictionary_texts,
    "composed": composed_texts,
    "tokens": lambda paths: token_texts(),
    "glosses": gloss_texts,
}
