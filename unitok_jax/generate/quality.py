"""gFID of images that a generator draws during training."""

from collections.abc import Iterable

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from unitok_jax.codes import STRIDE
from unitok_jax.evaluation.card import statistics
from unitok_jax.evaluation.drawn import InceptionPass, gfid
from unitok_jax.evaluation.evaluator import digest
from unitok_jax.system.passing import with_text
from unitok_jax.weights import pretrained


class DrawnQuality:
    """gFID and inception score of images, against `eval.reference`."""

    def __init__(self, config: ConfigDict, mesh: Mesh):
        """Loads Inception and the statistics to compare with.

        Args:
          config: the whole configuration.
          mesh: devices that share Inception's batches.

        Raises:
          ValueError, OSError: one of the two cannot be used, or they do not fit each other.
        """
        params = pretrained.load(
            *("inception", config.frozen.inception, "float32"),
            key="frozen.inception",
            turn_off="eval.drawn_images=0",
        )[1]
        told = f"eval.reference={config.eval.reference}"
        try:
            given = statistics.read_all(config.eval.reference)
        except (ValueError, OSError) as error:
            raise with_text(error, f"{told}: {error}") from error
        height, width = (STRIDE * side for side in config.model.grid)
        if given.images and given.images[1:] != (height, width):
            raise ValueError(
                f"{told} is of {given.images[1]}x{given.images[2]} images, and model.grid="
                f"{tuple(config.model.grid)} draws {height}x{width}: give the reference of that "
                "size, or eval.drawn_images=0"
            )
        statistics.check(told, given.facts, statistics.compared((height, width), digest(params)))
        self._reference = given.pool3
        self._inception = InceptionPass(params, mesh)

    def __call__(self, images: Iterable[np.ndarray]) -> dict[str, float]:
        """Computes `gfid`, and of ten images or more `inception_score` and its `_std`.

        Args:
          images: batches of uint8 (n, H, W, 3), the same on all processes.
        """
        return gfid(images, self._reference, self._inception)
