"""Fréchet distance of two sets of features: FID, where the features are Inception's.

The sums are float64, because a covariance of thousands of images is a small difference of large
numbers, and the published values are themselves computed so.
"""

from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
    """Moments of the features of a set of images, as the Fréchet distance needs them."""

    mean: np.ndarray  # (D,) float64
    covariance: np.ndarray  # (D, D) float64, unbiased: divided by count - 1
    count: int


class FeatureMoments:
    """Mean and covariance of features that come in batches with padding."""

    def __init__(self):
        self._count = 0

    def update(self, features: np.ndarray, mask: np.ndarray | None = None) -> None:
        """Adds a batch.

        Args:
          features: (B, D), of any float type.
          mask: (B,) bool; rows with mask False count nothing.

        Raises:
          ValueError: another shape than the batches before, or a value that is not finite.
        """
        features = np.asarray(features, np.float64)
        if features.ndim != 2 or (self._count and features.shape[1] != len(self._shift)):
            width = len(self._shift) if self._count else "D"
            raise ValueError(f"features are {features.shape}; they must be (B, {width})")
        if mask is not None:
            features = features[np.asarray(mask)]
        if not len(features):
            return
        if not np.isfinite(features).all():
            raise ValueError("features of an image are not finite")
        if not self._count:
            # Sums about a point near the mean: about zero they would cancel to noise.
            self._shift = features.mean(axis=0)
            self._sum, self._products = 0.0, 0.0
        centred = features - self._shift
        self._sum = self._sum + centred.sum(axis=0)
        self._products = self._products + centred.T @ centred
        self._count += len(features)

    def result(self) -> Moments:
        """The moments of all images so far.

        Raises:
          ValueError: there are fewer than two images, which have no covariance.
        """
        if self._count < 2:
            raise ValueError(f"FID needs at least 2 images, and there are {self._count}")
        offset = self._sum / self._count
        scatter = self._products - self._count * np.outer(offset, offset)
        return Moments(self._shift + offset, scatter / (self._count - 1), self._count)


def frechet_distance(a: Moments, b: Moments) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), arXiv 1706.08500 equation 6.

    The trace of the root is the sum of the singular values of C_a^(1/2) C_b^(1/2): real and without
    a negative part for singular covariances too, such as those of fewer images than features.

    Raises:
      ValueError: the features of a and b differ in their number.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"moments of {len(a.mean)} and of {len(b.mean)} features have no distance: they must "
            "come from one network"
        )
    product = _root(a.covariance).T @ _root(b.covariance)
    overlap = np.linalg.svd(product, compute_uv=False).sum()
    spread = np.trace(a.covariance) + np.trace(b.covariance) - 2 * overlap
    return max(float(((a.mean - b.mean) ** 2).sum() + spread), 0.0)


def _root(covariance):
    """R (D, rank) with R R^T = C, by a Cholesky factorisation that takes the largest pivot first.

    Its products have the singular values of those of the symmetric root, V R^T. It costs a fraction
    of eigenvectors, and next to nothing where fewer images than features leave few columns.
    """
    from scipy.linalg import lapack  # --help does not wait for it

    factor, pivots, rank, _ = lapack.dpstrf(covariance, lower=1)
    root = np.empty((len(covariance), rank))
    root[pivots - 1] = np.tril(factor[:, :rank])
    return root
