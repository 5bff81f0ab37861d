"""Figures of an evaluation pass, for training and for a card."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from unitok_jax.data.formats.labels import LabelSet
from unitok_jax.data.records import LabelledSource, Source
from unitok_jax.data.text import TextTokenizer
from unitok_jax.evaluation.evaluator import EvaluationResult
from unitok_jax.evaluation.metrics import zero_shot
from unitok_jax.evaluation.metrics.frechet import Moments, frechet_distance
from unitok_jax.evaluation.metrics.retrieval import caption_retrieval

FEWEST = 2  # minimum number of images for a covariance, and so for an rFID


class Captions(NamedTuple):
    """Captions of a source, tokenized."""

    tokens: np.ndarray  # (T, L) int32
    owner: np.ndarray  # (T,) int64, the image of each caption


def captions_of(source: Source, context_length: int) -> Captions:
    """Tokenizes the captions of a source to length L = `context_length`; T may be 0."""
    owned = [
        (index, caption) for index in range(len(source)) for caption in source[index]["captions"]
    ]
    tokens = TextTokenizer(context_length)([caption for _, caption in owned])
    return Captions(tokens, np.array([index for index, _ in owned], np.int64))


def label_set_of(source: Source) -> LabelSet | None:
    """Returns the class names and templates of a labelled source; None for another source."""
    if not isinstance(source, LabelledSource):
        return None
    return LabelSet(source.class_names, source.class_templates)


def labels_of(source: LabelledSource) -> np.ndarray:
    """Returns the class of every record, (N,) int64."""
    return np.array([source.label(index) for index in range(len(source))], np.int64)


def rfid(result: EvaluationResult, originals: Moments | None = None) -> dict[str, float]:
    """Computes the Fréchet distance of Inception's features of reconstructions and originals.

    Args:
      result: results of a pass.
      originals: moments of the originals, if known; by default those of the pass.

    Returns:
      {'rfid': value}; empty for a pass without Inception or of fewer than `FEWEST` images.
    """
    if result.logits is None or len(result.positions) < FEWEST:
        return {}
    originals = result.originals.result() if originals is None else originals
    return {"rfid": frechet_distance(originals, result.rebuilt.result())}


def text_figures(
    image_features: np.ndarray,
    source: Source,
    encode: Callable[[np.ndarray], np.ndarray],
    context_length: int,
    *,
    captions: Captions | None,
    labels: LabelSet | None,
) -> dict[str, float]:
    """Measures caption retrieval and zero-shot classification in the joint image-text space.

    Args:
      image_features: (N, E) unit vectors of all records of `source`.
      source: source of N images.
      encode: function of token ids (T, L) -> unit vectors (T, E).
      context_length: L.
      captions: captions of the source; None or empty: no retrieval.
      labels: class names and templates of a labelled source; None: no zero-shot classification.

    Returns:
      The figures of `caption_retrieval`, then those of `zero_shot`, each in [0, 1].

    Raises:
      ValueError: as `caption_retrieval`, `zero_shot` and `class_features`.
    """
    figures = {}
    if captions is not None and len(captions.tokens):
        texts = encode(captions.tokens)
        figures |= caption_retrieval(image_features, texts, captions.owner, captions.tokens)
    if labels is not None:
        tokenize = TextTokenizer(context_length)
        classes = zero_shot.class_features(lambda texts: encode(tokenize(texts)), *labels)
        figures |= zero_shot.zero_shot(image_features, classes, labels_of(source))
    return figures
