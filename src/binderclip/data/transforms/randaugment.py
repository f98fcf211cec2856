"""RandAugment: Practical automated data augmentation with a reduced search space (Cubuk et al. 2020, arXiv 1909.13719)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from binderclip.data.hashing import Draws
from binderclip.errors import InputError

__all__ = ["OPERATIONS", "RandAugment"]

#: Name -> (strength in 0..1, sign) -> the number of the operation. The ranges are AutoAugment's, which the paper uses; at
#: strength 0 nothing changes. Translation is 150 of 331 pixels, as a share of the side. The paper's code counts solarise,
#: posterise and the four factors so that a small magnitude is strong; here all grow with it, factors to both sides.
OPERATIONS: dict[str, Callable[[float, int], float]] = {
    "identity": lambda strength, sign: 0.0,
    "autocontrast": lambda strength, sign: 0.0,
    "equalize": lambda strength, sign: 0.0,
    "rotate": lambda strength, sign: sign * 30.0 * strength,
    "solarize": lambda strength, sign: 256.0 * (1 - strength),
    "saturation": lambda strength, sign: 1 + sign * 0.9 * strength,
    "posterize": lambda strength, sign: 8.0 - round(4 * strength),
    "contrast": lambda strength, sign: 1 + sign * 0.9 * strength,
    "brightness": lambda strength, sign: 1 + sign * 0.9 * strength,
    "sharpness": lambda strength, sign: 1 + sign * 0.9 * strength,
    "shear_x": lambda strength, sign: sign * 0.3 * strength,
    "shear_y": lambda strength, sign: sign * 0.3 * strength,
    "translate_x": lambda strength, sign: sign * 150 / 331 * strength,
    "translate_y": lambda strength, sign: sign * 150 / 331 * strength,
}


@dataclass(frozen=True)
class RandAugment:
    """N operations, each drawn evenly from the 14 of the paper, all of magnitude M.

    Args:
        N: operations a view; the paper's ResNet-50 on ImageNet takes 2.
        M: magnitude from 0 (nothing but autocontrast and equalize changes a pixel) to 10; there 9.
        leave_out: operations that are not drawn.

    Raises:
        InputError: a number out of range, or an unknown operation.
    """

    N: int = 2
    M: float = 9.0
    leave_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = set(self.leave_out) - set(OPERATIONS)
        if self.N < 0 or not 0 <= self.M <= 10 or unknown or len(set(self.leave_out)) == len(OPERATIONS):
            raise InputError(
                f"RandAugment N={self.N}, M={self.M}, leave_out={self.leave_out}: N is at least 0, M lies in 0..10, "
                f"and leave_out names some of {', '.join(OPERATIONS)}"
            )

    def draw(self, draws: Draws) -> list[tuple[str, float]]:
        """N steps of a view."""
        names = [name for name in OPERATIONS if name not in self.leave_out]
        steps = []
        for i in range(self.N):
            name = draws.choice(f"operation {i}", names)
            steps.append((name, OPERATIONS[name](self.M / 10, draws.choice(f"sign {i}", (-1, 1)))))
        return steps
