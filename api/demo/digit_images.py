"""Digits to predict, and how to show them in a terminal."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from ode_core.specs import DigitsSpec

_INK_FROM = 7  # of 16 grey values
_BLOCKS = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}


@dataclass(frozen=True)
class Digit:
    """A handwritten digit: ``pixels`` is ``(8, 8)`` with grey values 0 to 16."""

    pixels: NDArray[np.uint8]
    label: int

    @property
    def as_input(self) -> list[list[list[int]]]:
        """The digit as an input of a model: 1x8x8, in the data set's own units."""
        image: list[list[int]] = self.pixels.tolist()
        return [image]

    def drawn(self, *, ascii_only: bool = False) -> str:
        """Return four lines of eight characters, two pixels a character; in ASCII eight lines."""
        ink = self.pixels >= _INK_FROM
        if ascii_only:
            return "\n".join("".join("#" if pixel else "." for pixel in row) for row in ink)
        pairs = zip(ink[0::2], ink[1::2], strict=True)
        return "\n".join(
            "".join(_BLOCKS[bool(top), bool(bottom)] for top, bottom in zip(upper, lower, strict=True))
            for upper, lower in pairs
        )


def held_out_digits(spec: DigitsSpec, count: int) -> list[Digit]:
    """Return the first ``count`` digits of the test split: no model of this data set was trained on them.

    The same split as ``ode_core.datasets.load``, which cannot be used here because it loads torch.
    """
    images, labels = load_digits(return_X_y=True)
    _, test_images, _, test_labels = train_test_split(
        images.astype(np.uint8).reshape(-1, 8, 8),
        labels,
        test_size=spec.test_fraction,
        random_state=spec.split_seed,
        stratify=labels,
    )
    return [Digit(pixels, int(label)) for pixels, label in zip(test_images[:count], test_labels, strict=False)]
