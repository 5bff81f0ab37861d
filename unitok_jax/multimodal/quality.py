"""Answers about drawn shapes, and drawings of them, during training."""

import functools

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from unitok_jax.codes import STRIDE
from unitok_jax.data.language_tokenizer import LanguageTokenizer
from unitok_jax.evaluation.codec import Codec
from unitok_jax.evaluation.shapes.exam import PAIRS, Exam, blind_answers
from unitok_jax.evaluation.shapes.measure import Examined, examine
from unitok_jax.evaluation.shapes.report import sheet
from unitok_jax.multimodal import adapters
from unitok_jax.multimodal.api import MultimodalModel
from unitok_jax.multimodal.loading import Form, Weights
from unitok_jax.runtime import sharding
from unitok_jax.weights import load


class ShapeQuality:
    """Examinations of a state of training, the same at every evaluation.

    Every process computes the same on one of its devices.
    """

    def __init__(self, config: ConfigDict, mesh: Mesh, text: LanguageTokenizer, tokenizer: str):
        """Loads the tokenizer of the codes.

        Args:
          config: the whole configuration; `eval.shapes` pictures are asked about.
          mesh: devices of the training.
          text: the tokenizer of text.
          tokenizer: hash of the tokenizer of the codes; '': unknown.

        Raises:
          ValueError, OSError: `data.tokenizer` cannot be read, or made other codes.
        """
        theirs, params = load.read_maker(config.data.tokenizer, tokenizer, "data.mixture")
        self._config, self._text, self._hash = config, text, tokenizer or None
        self._codec = Codec(theirs, params)
        self._gather = jax.jit(lambda tree: tree, out_shardings=sharding.replicated(mesh))
        self._model: MultimodalModel | None = None

    @functools.cached_property
    def _exams(self):
        """Examinations with the codes of their pictures, and the blind baseline."""
        size = tuple(STRIDE * side for side in self._config.model.grid)
        exams = [Exam(pairs, self._config.eval.shapes, size) for pairs in PAIRS]
        return [(exam, self._codec.encode(exam.pictures)) for exam in exams], blind_answers()

    def __call__(self, params) -> tuple[dict[str, float], np.ndarray]:
        """Examines parameters, placed as in a state; all processes call it.

        Returns:
          `PAIRS/KIND`, the share of right answers, `PAIRS/blind_KIND`, what words alone are worth,
          and `PAIRS/drawn_FIGURE`, the share of drawings that show what was asked for; and a uint8
          sheet (H, W, 3).
        """
        params = jax.device_get(self._gather(params))
        adapters.merge(params)
        if self._model is None:
            form = Form(self._config.data.template, self._config.data.bare_images)
            weights = Weights(self._config, params, self._hash, self._text, form)
            self._model = MultimodalModel(weights, devices=jax.local_devices()[:1])
        else:
            self._model = self._model.with_params(params)
        (exams, blind), settings = self._exams, self._config.eval
        how = dict(scales=(settings.scale,), temperature=settings.temperature)
        results = [examine(self._model, self._codec, *exam, blind, **how) for exam in exams]
        figures = {name: value for each in results for name, value in _named(each).items()}
        return figures, np.asarray(sheet(results))


def _named(result: Examined) -> dict[str, float]:
    """Returns the figures of an examination by names of metrics."""
    (drawn,) = result.figures["drawn"].values()
    found = {}
    for kind, score in result.figures["answers"].items():
        found |= {kind: score["right"], f"blind_{kind}": score["blind"]}
    found |= {f"drawn_{name}": share for name, share in drawn.items()}
    return {f"{result.exam.pairs}/{name}": value for name, value in found.items()}
