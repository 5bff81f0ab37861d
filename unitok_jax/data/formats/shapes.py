"""Images of coloured shapes, drawn on access, with captions that are exactly true.

An endless data set without download. An image is a function of (split, index): the same
on every machine, in every process. Sixteen pairs of colour and shape are held out: no training
image shows one, and the evaluation split shows only those, one object per image, so that
zero-shot classification tests compositions of known words. A third split shows one object of any
pair, labelled, for generators, and another the like in other pictures; and there are pictures in
pairs, before and after an edit.

Drawing, encoding, decoding and cropping to 64 px take about 1.4 ms of one core;
docs/guides/prepare_data.md has the command.
"""

import dataclasses
import math
import re
from typing import Any

import numpy as np

from unitok_jax.data.formats.drawing import (
    COLOURS,
    SHAPES,
    SIDE,
    TEXTURES,
    Scene,
    Shape,
    draw,
    encode_png,
)

LENGTH = 2**31 - 1  # the largest count of an int32 index
SEED = 2026  # fixes the images; the seed of a run orders them

SIZES = {"small": (8.0, 10.5), "large": (12.0, 18.0)}  # radius of the circle around a shape
ROWS = ("top", "", "bottom")
COLUMNS = ("left", "", "right")
NUMBERS = ("no", "one", "two", "three", "four")

CLASS_TEMPLATES = ("a {}", "one {}", "a picture of a {}", "there is a {}")

_GAP = 2.0  # pixels between shapes, and to the border
_MARGIN = 3.0  # pixels from a centre to the next third, so that positions are unambiguous

_PAIRS = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
# Two pairs per colour and two per shape, so that every word is in six training pairs.
HELD_OUT = tuple(
    (colour, shape)
    for row, colour in enumerate(COLOURS)
    for column, shape in enumerate(SHAPES)
    if (column - row) % len(SHAPES) in (0, 3)
)
TRAINING = tuple(pair for pair in _PAIRS if pair not in HELD_OUT)


class TrainingShapes:
    """One to four shapes of the training pairs: one alone, several equal, or several different."""

    split = "train"
    pairs = TRAINING  # of colour and shape, that its images and questions about them name

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns {'name': str, 'image': PNG of SIDE x SIDE, 'captions': tuple[str, ...]}.

        Raises:
            IndexError: `index` outside 0 .. LENGTH - 1.
        """
        scene = self.scene(index)
        return {
            "name": f"shapes/{self.split}/{index:010d}.png",
            "image": encode_png(draw(scene)),
            "captions": describe(scene),
        }

    def scene(self, index: int) -> Scene:
        """Returns the scene of image `index`."""
        rng = _generator(self.split, index)
        number = _pick(rng, (1, 1, 2, 2, 3, 4))
        if number > 1 and rng.random() < 1 / 3:
            pairs = [_pick(rng, TRAINING)] * number
            looks = [(_pick(rng, TEXTURES), _pick(rng, tuple(SIZES)))] * number
        else:
            order = np.argsort(rng.random(len(TRAINING)))[:number]
            pairs = [TRAINING[i] for i in order]
            looks = [(_pick(rng, TEXTURES), _pick(rng, tuple(SIZES))) for _ in pairs]
        return _scene(rng, pairs, looks)


class HeldOutShapes(TrainingShapes):
    """One shape of a held-out pair per image; image i belongs to class i mod 16.

    A multiple of 16 images is balanced, and chance accuracy is 1/16.
    """

    split = "held_out"
    pairs = HELD_OUT
    class_templates = CLASS_TEMPLATES

    @property
    def class_names(self) -> tuple[str, ...]:
        """Colour and shape of each class."""
        return tuple(f"{colour} {shape}" for colour, shape in self.pairs)

    def label(self, index: int) -> int:
        """Returns the position of image `index`'s class in `class_names`."""
        return index % len(self.pairs)

    def scene(self, index: int) -> Scene:
        """Returns the scene of image `index`."""
        rng = _generator(self.split, index)
        look = _pick(rng, TEXTURES), _pick(rng, tuple(SIZES))
        return _scene(rng, [self.pairs[self.label(index)]], [look])


class SingleShapes(HeldOutShapes):
    """One shape of any pair per image; image i belongs to class i mod 64."""

    split = "single"
    pairs = _PAIRS


class EditedShapes(TrainingShapes):
    """Pictures in pairs: 2 i is as `train`'s, 2 i + 1 the same with one shape edited by words."""

    split = "edits"

    def scene(self, index: int) -> Scene:
        """Returns the scene of image `index`."""
        _check_index(self.split, index)
        before, after, _ = self.edit(index // 2)
        return after if index % 2 else before

    def edit(self, number: int) -> tuple[Scene, Scene, str]:
        """Returns a scene, the scene after an edit, and the words that ask for it.

        A shape that is the only one of its colour and form gets another colour, form or texture;
        colour and form stay a pair of training.
        """
        rng = _generator(self.split, number)
        pairs = [TRAINING[i] for i in np.argsort(rng.random(len(TRAINING)))]
        looks = [(_pick(rng, TEXTURES), _pick(rng, tuple(SIZES))) for _ in range(3)]
        count = _pick(rng, (1, 1, 2, 3))
        before = _scene(rng, pairs[:count], looks[:count])
        place = int(rng.random() * count)
        s = before.shapes[place]
        taken = {(each.colour, each.shape) for each in before.shapes}
        field = _pick(rng, ("colour", "shape", "texture"))
        if field == "texture":
            new = _pick(rng, tuple(each for each in TEXTURES if each != s.texture))
        else:
            side, other = ("colour", "shape").index(field), (s.shape, s.colour)[field == "shape"]
            fits = [pair for pair in TRAINING if pair not in taken and pair[1 - side] == other]
            new = _pick(rng, tuple(pair[side] for pair in fits))
        shapes = list(before.shapes)
        shapes[place] = dataclasses.replace(s, **{field: new})
        change = f"into a {new}" if field == "shape" else new
        verb = "turn" if field == "shape" else "make"
        words = f"{verb} the {s.colour} {s.shape} {change}"
        return before, dataclasses.replace(before, shapes=tuple(shapes)), words


class OtherSingleShapes(SingleShapes):
    """As `SingleShapes`, in other pictures: for the evaluation of what was trained on those."""

    split = "single_held_out"


# (The place of a split is part of its pictures' seed.)
_SPLITS = (TrainingShapes, HeldOutShapes, SingleShapes, EditedShapes, OtherSingleShapes)
SPLITS = {"": TrainingShapes} | {each.split: each for each in _SPLITS}


def shape_source(path: str = "", captions: str = "") -> TrainingShapes:
    """Opens the split that `data.path` names, a key of `SPLITS`; empty: train.

    Raises:
        ValueError: another path, or a caption file, which would be ignored.
    """
    if path not in SPLITS:
        raise ValueError(
            f"data.path={path!r} is no split of data.source=shapes: use train (or nothing), "
            "held_out, single, single_held_out or edits"
        )
    if captions:
        raise ValueError(
            f"data.captions={captions} is not read by data.source=shapes, which writes its own; "
            "leave it empty"
        )
    return SPLITS[path]()


def split_of(name: str) -> tuple[TrainingShapes, int]:
    """Returns the split and the index of a picture by its name, as in codes made of it.

    Raises:
        ValueError: the name is not one of a drawn picture.
    """
    found = re.fullmatch(r"shapes/([a-z_]+)/(\d{10})(\.png)?", name)
    if found is None or found[1] not in SPLITS or int(found[2]) >= LENGTH:
        raise ValueError(f"{name!r:.80} is no picture of shapes: tokenize --data=shapes:train")
    return SPLITS[found[1]](), int(found[2])


def describe(scene: Scene) -> tuple[str, ...]:
    """Returns the true sentences about a scene from a fixed list, so that two images with a common
    property share the words that describe it."""
    shapes = scene.shapes
    if len(shapes) == 1:
        return _describe_one(shapes[0])
    if len({(s.colour, s.shape) for s in shapes}) == 1:
        return _describe_alike(shapes)
    return _describe_different(shapes)


def _describe_one(s: Shape) -> tuple[str, ...]:
    where = place_words(s.cell)
    return (
        f"a {s.size} {s.texture} {s.colour} {s.shape} {where}",
        f"a {s.colour} {s.shape}",
        f"one {s.colour} {s.shape}",
        f"a picture of a {s.texture} {s.colour} {s.shape}",
        f"there is a {s.colour} {s.shape} {where}",
        f"the {s.size} {s.shape} {where} is {s.texture} and {s.colour}",
    )


def _describe_alike(shapes: tuple[Shape, ...]) -> tuple[str, ...]:
    s, number = shapes[0], NUMBERS[len(shapes)]
    plural = s.shape + ("es" if s.shape.endswith("s") else "s")
    places = _list([place_words(s.cell) for s in shapes])
    return (
        f"{number} {s.size} {s.texture} {s.colour} {plural}: {places}",
        f"{number} {s.colour} {plural}",
        f"a picture of {number} {s.texture} {s.colour} {plural}",
        f"there are {number} {s.size} {s.colour} {plural}",
        f"{number} {plural}, all of them {s.texture} and {s.colour}",
    )


def _describe_different(shapes: tuple[Shape, ...]) -> tuple[str, ...]:
    number = NUMBERS[len(shapes)]
    short = _list([f"a {s.colour} {s.shape}" for s in shapes])
    textured = _list([f"a {s.texture} {s.colour} {s.shape}" for s in shapes])
    seen = [(s, place_words(s.cell)) for s in shapes]
    placed = _list([f"a {s.colour} {s.shape} {at}" for s, at in seen])
    full = _list([f"a {s.size} {s.texture} {s.colour} {s.shape} {at}" for s, at in seen])
    relation = _relation(*shapes) if len(shapes) == 2 else ""
    return (
        full,
        short,
        placed,
        f"a picture of {textured}",
        f"{number} shapes: {short}",
        *([relation] if relation else []),
    )


def _relation(one: Shape, other: Shape) -> str:
    """Describes how one shape lies to another, if rows or columns tell; '' otherwise."""
    down, right = (b - a for a, b in zip(one.cell, other.cell, strict=True))
    if down and right:
        return ""
    if down:
        words = "above" if down > 0 else "below"
    else:
        words = "to the left of" if right > 0 else "to the right of"
    return f"the {one.colour} {one.shape} is {words} the {other.colour} {other.shape}"


def place_words(cell: tuple[int, int]) -> str:
    """Describes a third of the image, (row, column): 'in the top left corner', 'at the top', ..."""
    row, column = ROWS[cell[0]], COLUMNS[cell[1]]
    if row and column:
        return f"in the {row} {column} corner"
    if row:
        return f"at the {row}"
    return f"on the {column}" if column else "in the centre"


def _list(parts: list[str]) -> str:
    return ", ".join(parts[:-1]) + " and " + parts[-1]


def _check_index(split: str, index: int) -> None:
    if not 0 <= index < LENGTH:
        raise IndexError(f"picture {index} of shapes/{split}: there are 0 to {LENGTH - 1}")


def _generator(split: str, index: int) -> np.random.Generator:
    _check_index(split, index)
    # The key of a counter-based generator is its seed: no hash, no state. Only its method
    # random() is used: the raw bits divided by a power of two in every NumPy.
    number = [each.split for each in _SPLITS].index(split)
    key = [2 * SEED + number, index]
    return np.random.Generator(np.random.Philox(key=key))


def _pick(rng: np.random.Generator, choices: tuple):
    return choices[int(rng.random() * len(choices))]


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return low + rng.random() * (high - low)


def _scene(rng, pairs, looks) -> Scene:
    grey = _between(rng, 25, 165)
    greys = []
    for _ in range(2):
        level = grey + _between(rng, -25, 25)
        greys.append(tuple(np.clip(level + 24 * (rng.random(3) - 0.5), 0, 200).tolist()))
    direction = _between(rng, 0, 2 * math.pi)
    shapes = None
    while shapes is None:
        shapes = _place(rng, pairs, looks)
    shapes = sorted(shapes, key=lambda s: s.cell)
    return Scene(tuple(shapes), tuple(greys), direction)


def _place(rng, pairs, looks) -> list[Shape] | None:
    """Places shapes in separate thirds without contact; None if the last shapes find no room."""
    third = SIDE / 3
    placed = []
    for (colour, shape), (texture, size) in zip(pairs, looks, strict=True):
        low, high = SIZES[size]
        # Leaves room for several large shapes beside each other.
        radius = _between(rng, low, high if len(pairs) == 1 else low + (high - low) / 3)
        border = radius + _GAP
        for place in np.argsort(rng.random(9)).tolist():
            cell = divmod(place, 3)
            y, x = (
                _between(
                    rng,
                    max(third * k + _MARGIN, border),
                    min(third * (k + 1) - _MARGIN, SIDE - border),
                )
                for k in cell
            )
            if all(math.hypot(x - p.x, y - p.y) >= radius + p.radius + _GAP for p in placed):
                break
        else:
            return None
        angle, turn = _between(rng, -0.2, 0.2), _between(rng, 0, math.pi)
        placed.append(Shape(colour, shape, texture, size, cell, x, y, radius, angle, turn))
    return placed
