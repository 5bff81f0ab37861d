"""Precision and recall of generated images (arXiv 1904.06991), as ADM's evaluator computes them.

Distances are computed in blocks: their memory does not grow with the number of images.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

_BLOCK = 2048  # rows and columns of a block of distances


def precision_recall(
    reference: np.ndarray, samples: np.ndarray, neighbours: int = 3, *, half: bool = True
) -> dict[str, float]:
    """Measures which share of one set of features lies within the manifold of the other.

    A manifold is the union of balls around its points, each of which reaches its `neighbours`-th
    neighbour.

    Args:
      reference: (N, F) features of real images.
      samples: (M, F) features of generated images.
      neighbours: at least 1, below N and M.
      half: round features, norms, products and distances to float16, as ADM does, in all blocks
        whose distances are then finite. It moves the shares by some thousandths.

    Returns:
      {'precision': share of the samples within the reference's manifold, 'recall': share of the
      reference within the samples'}.

    Raises:
      ValueError: a set has too few rows, or features of another width.
    """
    reference, samples = (np.asarray(x, np.float32) for x in (reference, samples))
    if reference.ndim != 2 or reference.shape[1:] != samples.shape[1:]:
        raise ValueError(
            f"features (N, F) of one width are compared, not {reference.shape} with {samples.shape}"
        )
    if min(len(reference), len(samples)) <= neighbours:
        raise ValueError(
            f"precision and recall need more than {neighbours} images of each kind, not "
            f"{len(reference)} and {len(samples)}"
        )
    reach, sample_reach = (radii(x, neighbours, half=half) for x in (reference, samples))
    inside, sample_inside = np.zeros(len(reference), bool), np.zeros(len(samples), bool)
    for rows in _spans(reference):
        for columns in _spans(samples):
            distances = _distances(reference[rows], samples[columns], half)
            inside[rows] |= (distances <= sample_reach[columns]).any(axis=1)
            sample_inside[columns] |= (distances <= reach[rows, None]).any(axis=0)
    return {"precision": float(sample_inside.mean()), "recall": float(inside.mean())}


def radii(features: np.ndarray, neighbours: int, *, half: bool = True) -> np.ndarray:
    """Returns the squared distance (N,) of each point to its `neighbours`-th other point."""
    features = np.asarray(features, np.float32)
    found = []
    for rows in _spans(features):
        nearest = np.empty((len(features[rows]), 0), np.float32)
        for columns in _spans(features):
            block = _distances(features[rows], features[columns], half)
            # Each point is among its own neighbours, at 0.
            both = np.concatenate([nearest, block], axis=1)
            if both.shape[1] > neighbours + 1:
                both = np.partition(both, neighbours, axis=1)[:, : neighbours + 1]
            nearest = both
        found.append(nearest.max(axis=1))
    return np.concatenate(found)


def _spans(array) -> list[slice]:
    return [slice(start, start + _BLOCK) for start in range(0, len(array), _BLOCK)]


def _distances(a, b, half) -> np.ndarray:
    """Returns squared distances (len(a), len(b)), not below 0."""
    if half and np.isfinite(block := _block(a, b, True)).all():
        return block
    return _block(a, b, False)


def _block(a, b, half) -> np.ndarray:
    # Fetched explicitly: tests forbid implicit transfers.
    return jax.device_get(_squared(jax.device_put(a), jax.device_put(b), half))


@functools.partial(jax.jit, static_argnums=2)
def _squared(a, b, half):
    """Rounds every step to float16 if `half`; sums run in float32."""

    def rounded(x):
        # Unlike a cast there and back, XLA does not drop it.
        return jax.lax.reduce_precision(x, exponent_bits=5, mantissa_bits=10) if half else x

    a, b = rounded(a), rounded(b)
    rows, columns = (rounded(rounded(x * x).sum(axis=1)) for x in (a, b))
    products = rounded(jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST))
    return jnp.maximum(rounded(rounded(rows[:, None] - rounded(2 * products)) + columns), 0)
