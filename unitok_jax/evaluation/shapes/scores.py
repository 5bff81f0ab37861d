"""Scores of a model that reads and draws shapes, each beside what is reached without seeing."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from unitok_jax.data.formats.drawing import COLOURS, SHAPES, TEXTURES, Shape
from unitok_jax.data.formats.shape_questions import KINDS, Question
from unitok_jax.data.formats.shapes import SIZES, SingleShapes, TrainingShapes
from unitok_jax.data.images.transforms import to_uint8
from unitok_jax.evaluation.metrics import zero_shot as metrics
from unitok_jax.evaluation.metrics.probe import linear_probe
from unitok_jax.evaluation.metrics.shape_recogniser import recognise
from unitok_jax.evaluation.metrics.vqa import normalize
from unitok_jax.evaluation.shapes.exam import LEARNT, Exam, Wanted, render

READ = ("colour", "form", "both", "place", "count")
"""Figures of drawings."""

ZERO_SHOT = "zero_shot"
"""Figure of drawings by a tokenizer that knows texts."""

_LIMIT = 8  # ids of an answer; the longest takes six with its end


class Model(Protocol):
    """Model that answers questions about codes, and draws codes."""

    def answers(self, images: Sequence, questions: Sequence[str], *, limit: int) -> list[str]:
        """Answers a question about each image, codes (K, N) int32."""

    def draw(
        self, texts: Sequence[str], *, key: int, scale: float, temperature: float, released: bool
    ) -> np.ndarray:
        """Draws codes (n, K, N) int32 from texts, with guidance; 1 is none."""


class Codec(Protocol):
    """Tokenizer of the codes."""

    def encode(self, images) -> np.ndarray:
        """Encodes uint8 (n, H, W, 3) to codes (n, K, N)."""

    def decode(self, codes) -> np.ndarray:
        """Decodes codes, as `encode` or a model made them, to floats in [-1, 1]."""


class Score(NamedTuple):
    """Shares of right answers to the questions of a kind."""

    asked: int
    right: float
    blind: float


def answers(model: Model, exam: Exam, codes, shuffled: bool = False) -> list[str]:
    """Answers all questions of an examination.

    Args:
      model: answers.
      exam: with n pictures.
      codes: (n, K, N) of its pictures.
      shuffled: each question is about another picture, the next one in a random order: in their
        own order held-out pictures side by side have one colour half of the time.
    """
    codes, shown = np.asarray(codes), np.arange(len(codes))
    if shuffled:
        order = np.random.default_rng(0).permutation(len(codes))
        shown[order] = np.roll(order, 1)
    images = [codes[shown[each.picture]] for each in exam.asked]
    return model.answers(images, [each.question.question for each in exam.asked], limit=_LIMIT)


def is_right(answer: str, question: Question) -> bool:
    """Compares an answer with the right one, after the normaliser of TextVQA."""
    return normalize(answer) == normalize(question.answer)


def by_kind(exam: Exam, given: Sequence[str], blind: Callable[[Question], str]) -> dict[str, Score]:
    """Scores answers by kinds of questions, those alone that were asked.

    Args:
      exam: asked.
      given: the answers, in its order.
      blind: the baseline, of `blind_answers`.
    """
    rows = {kind: [] for kind in KINDS}
    for (_, question), answer in zip(exam.asked, given, strict=True):
        right = is_right(answer, question), is_right(blind(question), question)
        rows[question.kind].append(right)
    return {
        kind: Score(len(right), *np.mean(right, axis=0).tolist())
        for kind, right in rows.items()
        if right
    }


def is_drawn(picture: np.ndarray, wanted: Wanted) -> dict[str, bool]:
    """Reads a picture, uint8 (H, W, 3): which of `READ` it shows as wanted.

    Of one with a wanted place, colour, form and place of the largest shape; of one with a wanted
    number, whether there are so many.
    """
    seen, found = recognise(picture), {}
    if wanted.cell is not None:
        first = seen[0] if seen else None
        found["colour"] = first is not None and first.colour == wanted.colour
        found["form"] = first is not None and first.shape == wanted.form
        found["both"] = found["colour"] and found["form"]
        found["place"] = first is not None and first.cell == wanted.cell
    if wanted.number is not None:
        found["count"] = len(seen) == wanted.number
    return found


def read(pictures: Sequence[np.ndarray], wanted: Sequence[Wanted]) -> dict[str, float]:
    """Computes the shares of pictures that show what is wanted, by the figures of `READ`."""
    return shares([is_drawn(*pair) for pair in zip(pictures, wanted, strict=True)], READ)


def shares(found: Sequence[Mapping[str, bool]], names: Sequence[str]) -> dict[str, float]:
    """Computes the share of each figure that is right; one that nothing is asked for is left out.

    Args:
      found: of each picture, the figures that it is asked for.
      names: of the figures, in their order.
    """
    rights = {name: [each[name] for each in found if name in each] for name in names}
    return {name: float(np.mean(right)) for name, right in rights.items() if right}


def drawings(
    model: Model,
    codec: Codec,
    exam: Exam,
    scale: float,
    temperature: float,
    key: int,
    released: bool = False,
) -> np.ndarray:
    """Draws the texts of an examination, uint8 (n, H, W, 3).

    Args:
      scale: of guidance.
      temperature: 0: the likeliest codes.
      key: seed of the drawings.
      released: the way of UniTok's release, which is not that of the training.
    """
    codes = model.draw(exam.texts, key=key, scale=scale, temperature=temperature, released=released)
    return to_uint8(codec.decode(codes))


def zero_shot(
    features: Callable[[np.ndarray], np.ndarray],
    classes: np.ndarray,
    pictures: Sequence[np.ndarray],
    wanted: Sequence[Wanted],
) -> dict[str, float]:
    """Computes how often a tokenizer finds a picture nearest to the text of its colour and form.

    Args:
      features: of uint8 (n, H, W, 3), unit vectors (n, E).
      classes: unit vectors (64, E) of the classes of `SingleShapes`.
      pictures: uint8 (H, W, 3) each.
      wanted: what they show; those with a place, which show one shape, are classified.

    Returns:
      {`ZERO_SHOT`: share}; empty if no picture has a place.
    """
    single = [n for n, each in enumerate(wanted) if each.cell is not None]
    if not single:
        return {}
    pairs = [(wanted[n].colour, wanted[n].form) for n in single]
    labels = np.array([SingleShapes.pairs.index(pair) for pair in pairs])
    found = metrics.zero_shot(features(np.stack([pictures[n] for n in single])), classes, labels)
    return {ZERO_SHOT: found["zero_shot_top1"]}


_PROBED: Mapping[str, tuple[Sequence, Callable[[Shape], object]]] = {
    "colour": (tuple(COLOURS), lambda shape: shape.colour),
    "form": (tuple(SHAPES), lambda shape: shape.shape),
    "texture": (TEXTURES, lambda shape: shape.texture),
    "size": (tuple(SIZES), lambda shape: shape.size),
    "place": (range(9), lambda shape: 3 * shape.cell[0] + shape.cell[1]),
}


def probe(
    features: Callable[[np.ndarray], np.ndarray], exams: Sequence[Exam]
) -> dict[str, dict[str, float]]:
    """Computes how often a linear probe on a tokenizer's features is right, by examination.

    It learns from the pictures of one shape among the first `LEARNT` of training, and is asked
    about those of the examination.

    Args:
      features: of uint8 (n, H, W, 3), floats (n, E).
      exams: of pictures of one size.

    Returns:
      pairs of the examination -> colour, form, texture, size and place -> share.
    """
    split = TrainingShapes()
    scenes = [scene for scene in map(split.scene, range(LEARNT)) if len(scene.shapes) == 1]
    known = features(render(scenes, exams[0].pictures.shape[1:3]))
    found = {}
    for exam in exams:
        single = [n for n, scene in enumerate(exam.scenes) if len(scene.shapes) == 1]
        if not single:
            continue
        asked, shares = features(exam.pictures[single]), {}
        for name, (words, value) in _PROBED.items():
            labels = [
                np.array([words.index(value(scene.shapes[0])) for scene in some])
                for some in (scenes, [exam.scenes[n] for n in single])
            ]
            fitted = linear_probe(known, labels[0], asked, labels[1], len(words), method="ridge")
            shares[name] = fitted["probe_top1"]
        found[exam.pairs] = shares
    return found
