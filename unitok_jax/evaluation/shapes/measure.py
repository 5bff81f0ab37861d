"""Measurement of a model on examinations: answers, drawings, and what bounds them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from ml_collections import ConfigDict

from unitok_jax.data.formats.shape_questions import Question
from unitok_jax.data.formats.shapes import SingleShapes
from unitok_jax.data.images.transforms import to_uint8
from unitok_jax.data.text import END_OF_TEXT
from unitok_jax.evaluation.shapes import scores
from unitok_jax.evaluation.shapes.exam import PAIRS, Exam, Wanted, blind_answers, shown


class Tokenizer(scores.Codec, Protocol):
    """Tokenizer of the codes, with features of images and of texts."""

    config: ConfigDict
    image_size: tuple[int, int]

    def encode_image(self, images) -> np.ndarray:
        """Encodes uint8 (n, H, W, 3) to floats (n, E)."""

    def class_features(self, labels: Sequence[str], templates: Sequence[str]) -> np.ndarray:
        """Encodes names of classes to floats (C, E); for text towers that know CLIP's ids."""


class Examined(NamedTuple):
    """Results of one examination."""

    exam: Exam
    given: list[str]  # answers, in the order of its questions
    drawn: np.ndarray  # uint8 (n, H, W, 3), its texts, with the last scale
    figures: dict[str, Any]  # JSON values


def examine(
    model: scores.Model,
    codec: scores.Codec,
    exam: Exam,
    codes,
    blind: Callable[[Question], str],
    scales: Sequence[float],
    temperature: float = 1.0,
    key: int = 0,
    read: Callable[[Sequence[np.ndarray], Sequence[Wanted]], dict[str, float]] = scores.read,
) -> Examined:
    """Asks a model all questions of an examination and lets it draw its texts.

    Args:
      model: answers and draws.
      codec: the tokenizer of its codes.
      exam: n pictures, questions and texts.
      codes: (n, K, N) of the pictures.
      blind: the baseline, of `blind_answers`.
      scales: of guidance, at least one.
      temperature: of the drawings; 0: the likeliest codes.
      key: seed of the drawings.
      read: computes figures of pictures and of what they shall show.

    Returns:
      Figures `answers`: kind -> `asked`, `right` and `blind`; `drawn`: scale -> figures of `read`.
    """
    given, drawn = scores.answers(model, exam, codes), {}
    for scale in scales:
        pictures = scores.drawings(model, codec, exam, scale, temperature, key)
        drawn[f"{scale:g}"] = read(pictures, exam.wanted)
    kinds = scores.by_kind(exam, given, blind)
    figures = {"answers": {kind: score._asdict() for kind, score in kinds.items()}, "drawn": drawn}
    return Examined(exam, given, pictures, figures)


def measure(
    model: scores.Model,
    tokenizer: Tokenizer,
    count: int,
    scales: Sequence[float],
    temperature: float = 1.0,
    key: int = 0,
) -> list[Examined]:
    """Examines a model on seen and on held-out pairs, and measures what bounds it.

    Args:
      model: answers and draws.
      tokenizer: of its codes.
      count: pictures of each, and texts to draw.
      scales, temperature, key: as for `examine`.

    Returns:
      results by the order of `PAIRS`. Their figures also have, of answers, `shuffled`: the share
      that is right about another picture; `probe`: the shares of a linear probe on the tokenizer's
      features; `originals` and `rebuilt`: shares of `READ` of the pictures and of their
      reconstructions; `released`: as `drawn`, of texts drawn the released way with the last scale.
      All of pictures have the tokenizer's `ZERO_SHOT` beside `READ`, if it knows texts.
    """
    blind, read = blind_answers(), _reader(tokenizer)
    exams = [Exam(pairs, count, tokenizer.image_size) for pairs in PAIRS]
    probed = scores.probe(tokenizer.encode_image, exams)
    results = []
    for exam in exams:
        codes = tokenizer.encode(exam.pictures)
        result = examine(model, tokenizer, exam, codes, blind, scales, temperature, key, read)
        figures, wanted = result.figures, [shown(scene) for scene in exam.scenes]
        moved = scores.by_kind(exam, scores.answers(model, exam, codes, shuffled=True), blind)
        for kind, score in moved.items():
            figures["answers"][kind]["shuffled"] = score.right
        how = scales[-1], temperature, key
        released = scores.drawings(model, tokenizer, exam, *how, released=True)
        figures["released"] = {f"{scales[-1]:g}": read(released, exam.wanted)}
        figures["probe"] = probed.get(exam.pairs, {})
        figures["originals"] = read(exam.pictures, wanted)
        figures["rebuilt"] = read(to_uint8(tokenizer.decode(codes)), wanted)
        results.append(result)
    return results


def _reader(tokenizer: Tokenizer):
    """Returns `scores.read`, with what a tokenizer that knows texts reads itself."""
    if tokenizer.config.model.text.vocab_size <= END_OF_TEXT:
        return scores.read
    names, templates = SingleShapes().class_names, SingleShapes.class_templates
    features, classes = tokenizer.encode_image, tokenizer.class_features(names, templates)
    return lambda pictures, wanted: (
        scores.read(pictures, wanted) | scores.zero_shot(features, classes, pictures, wanted)
    )
