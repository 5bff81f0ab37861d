"""Measures of drawn images: gFID, sFID, inception score, precision and recall.

As ADM's evaluator (arXiv 2105.05233) computes them: Inception resizes as TensorFlow 1 did, and
nothing resizes before it. `gfid` measures images in memory; `unitok evaluate --samples` makes a
card of all figures.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from unitok_jax.evaluation.metrics.frechet import FeatureMoments, Moments, frechet_distance
from unitok_jax.evaluation.metrics.inception_score import inception_score
from unitok_jax.evaluation.metrics.precision_recall import precision_recall
from unitok_jax.runtime import sharding
from unitok_jax.weights import pretrained

SPLITS = 10  # of the inception score
NEIGHBOURS = 3  # of precision and recall


class ImageFeatures(NamedTuple):
    """Inception's features of a set of N images."""

    pool3: Moments
    spatial: Moments | None = None  # of the 2023 features of sFID
    rows: np.ndarray | None = None  # (M, 2048) float32, pool3 of M of them, in order
    logits: np.ndarray | None = None  # (N, 1008) float32 without bias, in order


class InceptionPass:
    """Inception over images that come in batches of any size: one compiled program."""

    def __init__(self, params: Mapping, mesh: Mesh, batch_size: int = 64):
        """Sets up the program.

        Args:
          params: Inception's parameters, as `weights.pretrained.load` returns them; they are
            copied to every device of the mesh.
          mesh: devices that share every batch.
          batch_size: images at once, rounded up to a multiple of the devices.
        """
        self._mesh = mesh
        self._size = sharding.rounded_up(batch_size, mesh.size)
        self._params = sharding.replicate(params, mesh)
        graph = pretrained.abstract("inception", "float32")[0]

        def features(params, images):
            with jax.default_matmul_precision("highest"):
                found = nnx.merge(graph, params)(images)
            return {"pool3": found.pool3, "spatial": found.spatial, "logits": found.logits_unbiased}

        self._features = jax.jit(features, out_shardings=sharding.replicated(mesh))

    def __call__(
        self,
        batches: Iterable[np.ndarray],
        *,
        keep: Sequence[int] | None = None,
        logits: bool = True,
    ) -> ImageFeatures:
        """Computes the features of all images. All processes call it, with the same images.

        Args:
          batches: uint8 (n, H, W, 3) arrays of one H and W; n is any number.
          keep: ascending positions of the images whose pool3 becomes `rows`; None: of all, which
            take 8 KB each.
          logits: False to leave them out, which take 4 KB an image.

        Raises:
          ValueError: another dtype or shape, or fewer than 2 images.
        """
        pool3, spatial, count = FeatureMoments(), FeatureMoments(), 0
        kept = {"pool3": [], "logits": []}
        for out in self._outputs(batches):
            pool3.update(out["pool3"])
            spatial.update(out["spatial"])
            here = slice(None)
            if keep is not None:
                ends = np.searchsorted(keep, (count, count + len(out["pool3"])))
                here = np.asarray(keep, int)[slice(*ends)] - count
            kept["pool3"].append(out["pool3"][here])
            kept["logits"].append(out["logits"])
            count += len(out["logits"])
            if not logits:
                kept["logits"].clear()
        return ImageFeatures(
            *(pool3.result(), spatial.result(), np.concatenate(kept["pool3"])),
            np.concatenate(kept["logits"]) if logits else None,
        )

    def _outputs(self, batches):
        """Fetches the outputs of a batch once the next one is dispatched."""
        pending = None
        for images in self._pieces(batches):
            padded = np.pad(images, ((0, self._size - len(images)), (0, 0), (0, 0), (0, 0)))
            out = self._features(self._params, sharding.shard_whole(padded, self._mesh))
            if pending is not None:
                yield _fetch(*pending)
            pending = out, len(images)
        if pending is not None:
            yield _fetch(*pending)

    def _pieces(self, batches):
        """Cuts and joins batches to as many images as the program takes."""
        waiting, count = [], 0
        for images in batches:
            images = np.asarray(images)
            if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
                raise ValueError(
                    f"images are {images.dtype} {images.shape}; they must be uint8 (n, H, W, 3)"
                )
            if waiting and images.shape[1:] != waiting[0].shape[1:]:
                raise ValueError(
                    f"images are {waiting[0].shape[1:3]} and {images.shape[1:3]} pixels; they must "
                    "be of one size"
                )
            waiting.append(images)
            count += len(images)
            if count >= self._size:
                joined = np.concatenate(waiting)
                full = count // self._size * self._size
                yield from np.split(joined[:full], full // self._size)
                waiting, count = [joined[full:]], count - full
        if count:
            yield np.concatenate(waiting)


def _fetch(out, count):
    return {key: value[:count] for key, value in jax.device_get(out).items()}


def generation_figures(drawn: ImageFeatures, reference: ImageFeatures) -> dict[str, float]:
    """Computes the figures of drawn images for which both sides have features.

    Args:
      drawn: features of the images, in the order in which they were drawn.
      reference: features of images to compare with; its moments may be ADM's.

    Returns:
      `gfid`; `sfid`; `precision` and `recall`; `inception_score` and `inception_score_std` over
      `SPLITS` splits, whose order is that of the images.
    """
    figures = {"gfid": frechet_distance(drawn.pool3, reference.pool3)}
    if drawn.spatial is not None and reference.spatial is not None:
        figures["sfid"] = frechet_distance(drawn.spatial, reference.spatial)
    sides = [features.rows for features in (reference, drawn)]
    if all(rows is not None and len(rows) > NEIGHBOURS for rows in sides):
        figures |= precision_recall(*sides, NEIGHBOURS)
    return figures | scores(drawn)


def scores(drawn: ImageFeatures) -> dict[str, float]:
    """Computes the figures that need no reference: those of the inception score, if any."""
    if drawn.logits is None or len(drawn.logits) < SPLITS:
        return {}
    names = ("inception_score", "inception_score_std")
    return dict(zip(names, inception_score(drawn.logits, SPLITS), strict=True))


def gfid(
    images: Iterable[np.ndarray], reference: Moments, inception: InceptionPass
) -> dict[str, float]:
    """Computes gFID of drawn images in batches.

    Args:
      images: batches, as for `InceptionPass`.
      reference: moments of pool3, such as `card.statistics.read(path)[0]`.
      inception: pass with the weights that gave the reference.

    Returns:
      {'gfid': value} and, of `SPLITS` images or more, the inception score.
    """
    return generation_figures(inception(images), ImageFeatures(reference))
