"""How robust a CLIP is beyond accuracy (Tu, Deng & Gedeon 2024, arXiv 2410.01534): one report of eight parts.

Visual factors, shape or texture, calibration, strangers, retrieval, corruptions with and without depth, correspondence. Use
it to compare checkpoints, or to accept a compressed one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from binderclip.cards import Card
from binderclip.errors import InputError, NeedsPartError
from binderclip.evaluate.base import Metric, Report
from binderclip.evaluate.data import Sets
from binderclip.evaluate.robustness import FACTORS, EffectiveRobustness
from binderclip.evaluate.suite import Suite
from binderclip.evaluate.vectors import Vectors

__all__ = ["PARTS", "RobustnessSuite", "effective"]

CARD = Card(
    slug="robustness_suite",
    name="Holistic robustness",
    title="Toward a Holistic Evaluation of Robustness in CLIP Models",
    arxiv="2410.01534",
    year=2024,
    room="evaluate",
    provides="RobustnessSuite",
    kind="Probe",
    files=("evaluate/suite.py", "evaluate/robustness.py", "evaluate/depth.py", "evaluate/correspondence.py"),
    must_show={
        "severity 0 is bit-identical; five severities change more and more on average; same seed same pixels": (
            "tests/evaluate/test_robustness_suite.py::test_severities"
        ),
        "NLL after temperature scaling at most that before on the fit half, accuracy unchanged, ECE reported both ways": (
            "tests/evaluate/test_robustness_suite.py::test_temperature"
        ),
        "effective robustness on the line is 0 +- 1e-6; residuals of the baselines average 0 in logits (1e-9)": (
            "tests/evaluate/test_robustness_suite.py::test_effective_robustness"
        ),
        "shape bias: shape oracle 1, texture oracle 0, random 0.5 +- 3 sqrt(0.25 / m), m = 0 gives NaN": (
            "tests/evaluate/test_robustness_suite.py::test_shape_bias_of_oracles"
        ),
        "OOD: MCM AUROC of CIFAR-10 against CIFAR-100 over 0.6; one half against the other 0.5 +- 0.03": (
            "bench:evaluate_robustness_suite"
        ),
        "correspondence: an image with itself gives recall 1": (
            "tests/evaluate/test_robustness_suite.py::test_an_image_with_itself"
        ),
        "correspondence: with its mirror image over 0.5, and 20 points over random tokens": (
            "bench:evaluate_robustness_mirror"
        ),
        "CIFAR-10 test, 2,000 pictures, 6 corruptions x 5 under 10 minutes on 2 cores; second run under 10 s": (
            "bench:evaluate_robustness_sweep"
        ),
    },
)

PARTS = ("factors", "shape", "calibration", "ood", "retrieval", "corrupt2d", "corrupt3d", "correspondence")
SIX = ("gaussian_noise", "defocus_blur", "fog", "contrast", "pixelate", "jpeg")


@dataclass(frozen=True)
class RobustnessSuite:
    """Each part alone is a list of numbers ``part: name``; parts for which the data lack something are named in the notes.

    Pictures smaller than the model's input are corrupted at their own size, the others after the model's crop. `cache` keeps
    the vectors of changed pictures, so that a second run encodes nothing.

    Args:
        parts: which.
        kinds: of `corrupt2d`.
        severities: of both corruptions.
        factors: drawn ones; where items have a kind (ImageNet-X), accuracy is by that too.
        templates: a named set or sentences.
        most: pictures of the parts that change pictures, by the hash of their ids.
        depth: folder of depth maps ``ID.npy``, larger is farther, of the size of the model's crop.
        cache: folder for vectors of changed pictures.
        seed: of all that is drawn.
    """

    parts: tuple[str, ...] = PARTS
    kinds: tuple[str, ...] = SIX
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    factors: tuple[str, ...] = tuple(FACTORS)
    templates: str | tuple[str, ...] = "a photo of a {}"
    most: int = 500
    depth: str = ""
    cache: str = ""
    seed: int = 0

    def run(self, vectors: Vectors, sets: Sets) -> Report:
        """Measure.

        Raises:
            InputError: an unknown part, or data that allow none of them.
        """
        strange = [part for part in self.parts if part not in PARTS]
        if strange:
            raise InputError(f"there is no part {strange[0]!r}: use {', '.join(PARTS)}")
        suite = Suite(self, vectors, sets)
        numbers: list[Metric] = []
        for part in self.parts:
            try:
                found = getattr(suite, part)()
            except (InputError, NeedsPartError) as error:
                suite.notes.append(f"{part} was left out: {error}")
                continue
            numbers += [replace(m, name=f"{part}: {m.name}") for m in found]
        if not numbers:
            raise InputError(f"{sets.test.name} allows none of {', '.join(self.parts)}: {suite.notes[-1]}")
        return Report(
            "robustness_suite",
            vectors.name,
            sets.test.name,
            tuple(numbers),
            suite.rows(),
            tuple(suite.charts),
            notes=tuple(suite.notes),
        )


def effective(
    reports: Sequence[Report], baselines: Sequence[tuple[float, float]], part: str = "corrupt2d", rows: int = 10_000
) -> dict[str, float]:
    """Effective robustness of each model of several reports, by name.

    Args:
        reports: of this suite, on the same data.
        baselines: (clean accuracy, accuracy under the shift) of models that are no CLIPs.
        part: whose ``clean`` and ``accuracy`` are read.
        rows: test items.
    """
    line = EffectiveRobustness.fit([a for a, _ in baselines], [b for _, b in baselines], rows)
    return {r.model: float(line.rho(r[f"{part}: clean"], r[f"{part}: accuracy"], rows)) for r in reports}
