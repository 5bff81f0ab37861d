"""Questions about drawn shapes, each with one right answer in its scene.

No question of training joins a colour and a form that are held out, so what the words alone tell
(`evaluation.metrics.blind`) is worth nothing on pictures of held-out pairs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from unitok_jax.data.formats.drawing import COLOURS, SHAPES, Scene, Shape
from unitok_jax.data.formats.shapes import NUMBERS, TRAINING, place_words

# How often each kind is asked, where the scene allows several: what is harder to see more often.
WEIGHTS = {
    "colour": 3,
    "form": 3,
    "texture": 2,
    "size": 2,
    "place": 2,
    "count": 1,
    "pair": 1,
    "relation": 2,
}
KINDS = tuple(WEIGHTS)
YES, NO = "yes", "no"
_NAMES = {*COLOURS, *SHAPES}

# Words of a relation -> (axis of a cell, sign of the way from the one that is known).
_RELATIONS = {
    "to the left of": (1, -1),
    "to the right of": (1, 1),
    "above": (0, -1),
    "below": (0, 1),
}


class Question(NamedTuple):
    """Question about a picture."""

    kind: str  # one of KINDS
    question: str
    answer: str


def questions(scene: Scene) -> tuple[Question, ...]:
    """Returns every question with one right answer, but for those of `pair`."""
    shapes, found = scene.shapes, []
    for s in shapes:
        if _only(s, shapes, "shape"):
            found += [
                Question("colour", f"what colour is the {s.shape}?", s.colour),
                Question("texture", f"what texture has the {s.shape}?", s.texture),
                Question("size", f"is the {s.shape} small or large?", s.size),
                Question("place", f"where is the {s.shape}?", place_words(s.cell)),
            ]
        if _only(s, shapes, "colour"):
            found.append(Question("form", f"what shape is {s.colour}?", s.shape))
        if sum((o.colour, o.shape) == (s.colour, s.shape) for o in shapes) == 1:
            found += _relations(s, shapes)
    found.append(Question("count", "how many shapes are there?", NUMBERS[len(shapes)]))
    return tuple(found)


def ask(
    scene: Scene, rng: np.random.Generator, pairs: Sequence[tuple[str, str]] = TRAINING
) -> Question:
    """Asks one question: its kind first, by `WEIGHTS`.

    Args:
        scene: what is seen.
        rng: draws.
        pairs: colours and forms that a question of `pair` may name: yes and no are as likely, and
            about the same pairs.
    """
    found = questions(scene)
    kinds = [kind for kind in KINDS if kind == "pair" or any(q.kind == kind for q in found)]
    ends = np.cumsum([WEIGHTS[kind] for kind in kinds])
    kind = kinds[np.searchsorted(ends, rng.integers(ends[-1]), side="right")]
    if kind == "pair":
        return _pair(scene, rng, pairs)
    found = [each for each in found if each.kind == kind]
    return found[rng.integers(len(found))]


def ask_several(
    scene: Scene,
    rng: np.random.Generator,
    most: int,
    pairs: Sequence[tuple[str, str]] = TRAINING,
) -> list[Question]:
    """Asks questions in turn, of which none tells the answer to a later one.

    Of `most` that are drawn as by `ask`, those are left out that were asked, whose answer names a
    colour or a form that was said, and, but for the first, of `pair`: what was said tells of those
    that are there alone, so that no would be likelier.

    Args:
        scene: what is seen.
        rng: draws.
        most: questions, at least 1.
        pairs: as in `ask`.

    Returns:
        1 to `most` questions.
    """
    found = [ask(scene, rng, pairs)]
    for _ in range(most - 1):
        more = ask(scene, rng, pairs)
        said = {word for each in found for word in _names(each.question, each.answer)}
        if more.kind != "pair" and more not in found and not said & _names(more.answer):
            found.append(more)
    return found


def examine(
    scene: Scene, number: int, pairs: Sequence[tuple[str, str]] = TRAINING
) -> tuple[Question, ...]:
    """Returns the questions of an examination about a picture: every one, and one of `pair`.

    Args:
        scene: what is seen.
        number: of the picture; the same number gives the same questions.
        pairs: as in `ask`.
    """
    return *questions(scene), _pair(scene, np.random.default_rng(number), pairs)


def _pair(scene, rng, pairs) -> Question:
    """Asks for a colour and a form; one that is not there shares one of both with one that is."""
    there = sorted({(s.colour, s.shape) for s in scene.shapes})
    colour, form = there[rng.integers(len(there))]
    if is_there := rng.random() < 0.5:
        pair = colour, form
    else:
        absent = [pair for pair in pairs if pair not in there]
        near = [pair for pair in absent if (pair[0] == colour) != (pair[1] == form)]
        pair = (near or absent)[rng.integers(len(near or absent))]
    return Question("pair", f"is there a {pair[0]} {pair[1]}?", YES if is_there else NO)


def _names(*texts: str) -> set[str]:
    """Returns the names of colours and forms in texts."""
    return {word.strip("?") for text in texts for word in text.split()} & _NAMES


def _relations(known: Shape, shapes: Sequence[Shape]) -> list[Question]:
    """Asks what lies on a side of a shape where just one does, in the same row or column."""
    found = []
    for words, (axis, sign) in _RELATIONS.items():
        beyond = [s for s in shapes if sign * (s.cell[axis] - known.cell[axis]) > 0]
        if len(beyond) == 1 and beyond[0].cell[1 - axis] == known.cell[1 - axis]:
            question = f"what is {words} the {known.colour} {known.shape}?"
            found.append(Question("relation", question, f"a {beyond[0].colour} {beyond[0].shape}"))
    return found


def _only(shape: Shape, shapes: Sequence[Shape], field: str) -> bool:
    return sum(getattr(s, field) == getattr(shape, field) for s in shapes) == 1
