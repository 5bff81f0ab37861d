"""Examinations on drawn shapes: pictures with questions, and texts to draw.

The pictures are the last of their splits, counted from the end, which no training reaches.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from unitok_jax.data.formats.drawing import Scene, draw
from unitok_jax.data.formats.shape_questions import KINDS, Question, examine
from unitok_jax.data.formats.shapes import (
    LENGTH,
    NUMBERS,
    HeldOutShapes,
    TrainingShapes,
    place_words,
)
from unitok_jax.data.images.transforms import resize_center_crop
from unitok_jax.evaluation.metrics.blind import Blind

PAIRS = {"seen": TrainingShapes, "held_out": HeldOutShapes}
"""Splits whose pairs of colour and form training joins, and never joins."""

LEARNT = 2000
"""First pictures of training, whose answers the blind baseline knows."""


_STEP = 7  # pairs from one text to the next, so that the first ones are of several colours


class Wanted(NamedTuple):
    """What a picture shall show; None: anything."""

    colour: str
    form: str
    cell: tuple[int, int] | None = None  # of the only shape: its third, (row, column)
    number: int | None = None  # of shapes


class Asked(NamedTuple):
    """Question of an examination."""

    picture: int
    question: Question


class Exam:
    """Pictures of a split with all questions about them, and as many texts to draw.

    Attributes:
      pairs: a key of `PAIRS`.
      scenes: what the pictures show.
      pictures: uint8 (n, H, W, 3), as a tokenizer sees them.
      asked: every question, in the order of the pictures.
      texts: n captions; the first, third, ... name a place, the others a number of shapes.
      wanted: n times what they ask for.
    """

    def __init__(self, pairs: str, count: int, size: tuple[int, int]):
        """Draws the pictures.

        Args:
          pairs: a key of `PAIRS`.
          count: n, at least 1.
          size: (H, W).
        """
        split, numbers = PAIRS[pairs](), range(LENGTH - count, LENGTH)
        self.pairs = pairs
        self.scenes = [split.scene(number) for number in numbers]
        self.pictures = render(self.scenes, size)
        self.asked = [
            Asked(picture, question)
            for picture, number in enumerate(numbers)
            for question in examine(self.scenes[picture], number, split.pairs)
        ]
        drawn = [_drawing(split.pairs, number) for number in range(count)]
        self.texts = [text for text, _ in drawn]
        self.wanted = [wanted for _, wanted in drawn]


def render(scenes: Sequence[Scene], size: tuple[int, int]) -> np.ndarray:
    """Draws scenes as pictures, uint8 (n, H, W, 3), cut as those that codes are made of."""
    return np.stack([resize_center_crop(draw(scene), size) for scene in scenes])


def shown(scene: Scene) -> Wanted:
    """Returns what a scene shows, as a drawing is asked for: a place of one shape, and a number."""
    first, number = scene.shapes[0], len(scene.shapes)
    cell = first.cell if number == 1 else None
    return Wanted(first.colour, first.shape, cell, number)


def blind_answers() -> Callable[[Question], str]:
    """Returns the blind baseline: the commonest answer of training to the words of a question.

    Of its kind: words that are unknown get the commonest answer to questions alike.
    """
    split = TrainingShapes()
    known = [
        question
        for number in range(LEARNT)
        for question in examine(split.scene(number), number, split.pairs)
    ]
    blind = {}
    for kind in KINDS:
        alike = [question for question in known if question.kind == kind]
        blind[kind] = Blind([each.question for each in alike], [each.answer for each in alike])
    return lambda question: blind[question.kind](question.question)


def _drawing(pairs: Sequence[tuple[str, str]], number: int) -> tuple[str, Wanted]:
    """Makes text `number` to draw, a caption as training has them, and what it asks for."""
    colour, form = pairs[_STEP * (number // 2) % len(pairs)]
    rng = np.random.default_rng(number)
    if number % 2 == 0:
        cell = tuple(int(side) for side in rng.integers(3, size=2))
        return f"there is a {colour} {form} {place_words(cell)}", Wanted(colour, form, cell)
    count = int(rng.integers(1, len(NUMBERS)))
    many = "" if count == 1 else "es" if form.endswith("s") else "s"
    return f"{NUMBERS[count]} {colour} {form}{many}", Wanted(colour, form, number=count)
