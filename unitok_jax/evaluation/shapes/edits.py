"""Examination of edits by words: pictures, what shall change in them, and what is read afterwards.

The pictures are the last of `shapes:edits`, which no training reaches.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from unitok_jax.data.formats.drawing import Scene
from unitok_jax.data.formats.shapes import LENGTH, EditedShapes
from unitok_jax.data.images.transforms import to_uint8
from unitok_jax.evaluation.metrics.shape_recogniser import recognise
from unitok_jax.evaluation.shapes.exam import render
from unitok_jax.evaluation.shapes.scores import Codec, shares

READ = ("colour", "form", "all")
"""Figures of edits."""


class Model(Protocol):
    """Model that draws codes anew, by words."""

    def edits(
        self,
        images: Sequence,
        instructions: Sequence[str],
        *,
        key: int,
        scale: float,
        temperature: float,
    ) -> np.ndarray:
        """Draws codes (n, K, N) int32 from those of n images and an instruction for each."""


class Edit(NamedTuple):
    """Edit of a scene that changes the colour or the form of one shape."""

    words: str
    before: Scene
    after: Scene

    @property
    def pairs(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """Colour and form of the shape, before and after."""
        changed = (pair for pair in zip(*map(_pairs, self[1:]), strict=True) if len({*pair}) == 2)
        return next(changed)


class Edited(NamedTuple):
    """Results of an examination of edits."""

    edits: Sequence[Edit]
    before: np.ndarray  # uint8 (n, H, W, 3)
    drawn: np.ndarray  # the same, edited with the last scale
    figures: dict[str, dict]  # JSON values


def examined(count: int) -> list[Edit]:
    """Lists the last edits of a colour or a form; textures are not read."""
    split, number, found = EditedShapes(), LENGTH // 2, []
    while len(found) < count:
        number -= 1
        before, after, words = split.edit(number)
        if _pairs(before) != _pairs(after):
            found.append(Edit(words, before, after))
    return found


def is_edited(picture: np.ndarray, edit: Edit) -> dict[str, bool]:
    """Reads a picture, uint8 (H, W, 3): which of `READ` it shows as asked.

    `colour` or `form`, whichever changes: the shape as it shall become is there, and none as it
    was; `all`: there are no other shapes than those asked for.
    """
    (old, new), seen = edit.pairs, Counter((each.colour, each.shape) for each in recognise(picture))
    changed = "colour" if old[0] != new[0] else "form"
    return {changed: new in seen and old not in seen, "all": seen == Counter(_pairs(edit.after))}


def read(pictures: Sequence[np.ndarray], edits: Sequence[Edit]) -> dict[str, float]:
    """Computes the shares of pictures that show what is asked, by the figures of `READ`."""
    return shares([is_edited(*pair) for pair in zip(pictures, edits, strict=True)], READ)


def measure_edits(
    model: Model,
    codec: Codec,
    count: int,
    size: tuple[int, int],
    scales: Sequence[float],
    temperature: float = 1.0,
    key: int = 0,
) -> Edited:
    """Lets a model edit pictures.

    Args:
      model: edits.
      codec: the tokenizer of its codes.
      count: n, at least 1.
      size: (H, W) of the pictures.
      scales: of guidance, at least one.
      temperature: of the drawings; 0: the likeliest codes.
      key: seed of the drawings.

    Returns:
      Figures are shares of `READ`: `unedited` of the pictures as they were; `rebuilt` of the
      reconstructions of right answers; `edited`: scale -> those of the model.
    """
    edits = examined(count)
    before, after = (render([edit[side] for edit in edits], size) for side in (1, 2))
    codes, words = codec.encode(before), [edit.words for edit in edits]
    figures = {
        "unedited": read(before, edits),
        "rebuilt": read(to_uint8(codec.decode(codec.encode(after))), edits),
        "edited": {},
    }
    for scale in scales:
        edited = model.edits(list(codes), words, key=key, scale=scale, temperature=temperature)
        drawn = to_uint8(codec.decode(edited))
        figures["edited"][f"{scale:g}"] = read(drawn, edits)
    return Edited(edits, before, drawn, figures)


def _pairs(scene: Scene) -> list[tuple[str, str]]:
    return [(shape.colour, shape.shape) for shape in scene.shapes]
