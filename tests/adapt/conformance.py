"""What every adapter must do, whatever it learns: the room's one suite. A message begins with the rule it broke."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from binderclip.adapt.base import Adapter, NotOpenVocabularyError
from binderclip.data.embeddings import Embeddings
from binderclip.errors import InputError
from tests.evaluate.helpers import COLOURS, ColourEncoder, picture

Make = Callable[..., Adapter]
NAMES = tuple(COLOURS)


class Kit:
    """Few pictures of colours, their vectors and a counting model; `model` says which."""

    model: Callable[..., ColourEncoder] = ColourEncoder

    def __init__(self, shots: int = 4) -> None:
        self.encoder = type(self).model(noise=0.25)
        self.pictures = [picture(name, 100 * k + n) for k, name in enumerate(NAMES) for n in range(shots)]
        self.y = np.repeat(np.arange(len(NAMES)), shots)
        self.X = self.encoder.encode_image(self.pictures)
        others = [picture(name, 100 * k + 50 + n) for k, name in enumerate(NAMES) for n in range(5)]
        self.Q, self.y_q = self.encoder.encode_image(others), np.repeat(np.arange(len(NAMES)), 5)
        self.encoder.calls = self.encoder.pictures = 0

    def fit(self, make: Make, rows: Any = slice(None), **more: Any) -> Adapter:
        return make(self.encoder, NAMES).fit(self.X[rows], self.y[rows], **more)


def parameters_come_and_go(make: Make) -> None:
    """scikit-learn's conventions: arguments are kept as given, a clone has learnt nothing and shares the encoder."""
    kit = Kit()
    made = make(kit.encoder, NAMES, seed=3)
    params = made.get_params()
    assert made.takes == "embeddings", f"parameters: it takes {made.takes}"
    assert params["encoder"] is kit.encoder, "parameters: the encoder is not the one that was given"
    assert (params["classes"], params["seed"]) == (NAMES, 3), "parameters: they are not as given"
    twin = made.fit(kit.X, kit.y).clone()
    assert twin.encoder is kit.encoder, "parameters: a clone has another encoder"
    assert not hasattr(twin, "W_"), "parameters: a clone has learnt something"
    assert twin.get_params() == params, "parameters: fit changed them, or clone did"
    assert twin.set_params(seed=5).seed == 5
    try:
        twin.set_params(nonsense=1)
    except InputError as error:
        assert "nonsense" in str(error)  # noqa: PT017
    else:
        raise AssertionError("parameters: an unknown one was taken")


def is_a_classifier(make: Make) -> None:
    """Finite float32 logits [N, C]; probabilities, answers and score follow from them."""
    kit = Kit()
    made = make(kit.encoder, NAMES)
    assert made.fit(kit.X, kit.y) is made, "classifier: fit does not return the adapter"
    z, p = made.decision_function(kit.Q), made.predict_proba(kit.Q)
    assert (z.shape, z.dtype) == ((len(kit.Q), len(NAMES)), np.float32), f"classifier: logits {z.shape} {z.dtype}"
    assert np.isfinite(z).all(), "classifier: logits that are no numbers"
    e = np.exp(z.astype(np.float64) - z.max(1, keepdims=True))
    assert np.allclose(p, e / e.sum(1, keepdims=True), atol=1e-6), "classifier: probabilities are not the softmax"
    assert (made.predict(kit.Q) == z.argmax(1)).all(), "classifier: the answer is not the best logit"
    assert made.score(kit.Q, kit.y_q) == (z.argmax(1) == kit.y_q).mean(), "classifier: another score"
    assert made.score(kit.Q, kit.y_q) > 2 / len(NAMES), "classifier: it has not learnt what is plain to see"
    assert isinstance(made.hyper_, dict)
    assert isinstance(made.history_, list)


def obeys_the_seed(make: Make) -> None:
    """One seed, one result, to the bit."""
    kit = Kit()
    one, two = kit.fit(make), kit.fit(make)
    assert np.array_equal(one.decision_function(kit.Q), two.decision_function(kit.Q)), "seed: two fits differ"


def ignores_the_order_of_rows(make: Make) -> None:
    """Shuffled training rows: the same logits to rounding; shuffled queries: shuffled logits."""
    kit = Kit()
    order = np.random.default_rng(0).permutation(len(kit.X))
    made = kit.fit(make)
    z, other = made.decision_function(kit.Q), kit.fit(make, order).decision_function(kit.Q)
    worst = float(np.abs(z - other).max())
    assert worst < 1e-3, f"order: logits differ by {worst:.1e} when the rows are shuffled"
    turned = np.random.default_rng(1).permutation(len(kit.Q))
    worst = float(np.abs(made.decision_function(kit.Q[turned]) - z[turned]).max())
    assert worst < 1e-4, f"order: logits of a query depend on its place, by {worst:.1e}"


def leaves_what_it_was_given(make: Make) -> None:
    """The encoder and the arrays stay as they are, and vectors are never encoded again."""
    kit = Kit()
    texts, facts = kit.encoder.encode_text(["red", "a grey thing"]), _facts(kit.encoder)
    X, y = kit.X.copy(), kit.y.copy()
    made = kit.fit(make, X_val=kit.Q, y_val=kit.y_q)
    made.decision_function(kit.Q)
    assert kit.encoder.pictures == 0, f"leaves: {kit.encoder.pictures} pictures were encoded for vectors"
    assert _facts(kit.encoder) == facts, "leaves: the encoder was changed"
    assert np.array_equal(kit.encoder.encode_text(["red", "a grey thing"]), texts), (
        "leaves: the encoder answers otherwise"
    )
    assert np.array_equal(X, kit.X), "leaves: X was changed"
    assert np.array_equal(y, kit.y), "leaves: y was changed"


def _facts(encoder: ColourEncoder) -> dict[str, Any]:
    counters = ("pictures", "sentences", "calls")
    return {k: v for k, v in vars(encoder).items() if k not in counters} | {"scale": encoder.logit_scale}


def keeps_the_order_of_classes(make: Make) -> None:
    """Column c is class c: other orders of the names permute the columns, and names are as good as numbers."""
    kit = Kit()
    z = kit.fit(make).decision_function(kit.Q)
    order = [3, 0, 5, 1, 4, 2]
    names = tuple(NAMES[k] for k in order)
    new = np.argsort(order)  # number of an old class among the new
    turned = make(kit.encoder, names).fit(kit.X, new[kit.y]).decision_function(kit.Q)
    worst = float(np.abs(turned - z[:, order]).max())
    assert worst < 1e-3, f"classes: columns are not in the order of the names, off by {worst:.1e}"
    named = make(kit.encoder, NAMES).fit(kit.X, [NAMES[k] for k in kit.y]).decision_function(kit.Q)
    assert np.array_equal(named, z), "classes: names as labels give another result than numbers"


def state_travels(make: Make) -> None:
    """What `state_dict` gives makes another adapter answer alike."""
    kit = Kit()
    made = kit.fit(make)
    state = {key: np.array(value) for key, value in made.state_dict().items()}
    again = make(kit.encoder, NAMES).load_state_dict(state)
    assert np.array_equal(again.decision_function(kit.Q), made.decision_function(kit.Q)), "state: another answer"


def names_other_classes_or_says_no(make: Make) -> None:
    """`for_classes` gives an adapter of the other names, or the one error."""
    kit = Kit()
    made = kit.fit(make)
    z = made.decision_function(kit.Q)
    try:
        other = made.for_classes(["red", "a pale blue", "violet"])
    except NotOpenVocabularyError as error:
        assert "fit it again" in str(error)  # noqa: PT017
    else:
        shape = other.decision_function(kit.Q).shape
        assert shape == (len(kit.Q), 3), f"names: logits {shape} of three names"
    assert np.array_equal(made.decision_function(kit.Q), z), "names: for_classes changed the adapter itself"


def takes_pictures_too(make: Make) -> None:
    """Embeddings, an array and a list of pictures: the same, and pictures are encoded once."""
    kit = Kit()
    plain = {"n_views": 1} if "n_views" in make(kit.encoder, NAMES).get_params() else {}
    z = make(kit.encoder, NAMES, **plain).fit(kit.X, kit.y).decision_function(kit.Q)
    table = Embeddings.from_arrays([str(i) for i in range(len(kit.X))], kit.X, labels=kit.y.tolist(), fingerprint="c0")
    one = make(kit.encoder, NAMES, **plain).fit(table).decision_function(kit.Q)
    assert np.abs(one - z).max() < 1e-3, "pictures: Embeddings with their labels give another result"
    before = kit.encoder.pictures
    two = make(kit.encoder, NAMES, **plain).fit(kit.pictures, kit.y).decision_function(kit.Q)
    assert np.abs(two - z).max() < 1e-3, "pictures: a list of pictures gives another result"
    count = kit.encoder.pictures - before
    assert count <= len(kit.pictures), f"pictures: {count} were encoded of {len(kit.pictures)}"


def refuses_what_cannot_be(make: Make) -> None:
    """One clear line for each kind of nonsense."""
    kit = Kit()
    lost = kit.X.copy()
    lost[2, 1] = np.nan
    made = make(kit.encoder, NAMES)
    for attempt in (
        lambda: made.decision_function(kit.Q),
        lambda: made.fit(lost, kit.y),
        lambda: made.fit(kit.X[:, :5], kit.y),
        lambda: made.fit(kit.X, kit.y[:-1]),
        lambda: made.fit(kit.X, kit.y + 1),
        lambda: made.fit(kit.X, kit.y + 0.5),
        lambda: made.fit(kit.X, ["mauve"] * len(kit.X)),
        lambda: made.fit(kit.X, kit.y, X_val=kit.Q),
        lambda: make(kit.encoder, ("red", "red")).fit(kit.X, kit.y * 0),
        lambda: make(object(), NAMES).fit(kit.X, kit.y),
        lambda: kit.fit(make).decision_function(kit.Q[:, :3]),
        lambda: kit.fit(make).decision_function(kit.Q[:, None]),
    ):
        try:
            attempt()
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017
            assert len(str(error)) > 20  # noqa: PT017
        else:
            raise AssertionError("refuses: nonsense was taken")


RULES = {
    rule.__name__: rule
    for rule in (
        parameters_come_and_go,
        is_a_classifier,
        obeys_the_seed,
        ignores_the_order_of_rows,
        leaves_what_it_was_given,
        keeps_the_order_of_classes,
        state_travels,
        names_other_classes_or_says_no,
        takes_pictures_too,
        refuses_what_cannot_be,
    )
}
