"""Precision and recall of generated images (arXiv 1904.06991), as ADM's evaluator computes them."""

import numpy as np

_ROWS = 1024  # rows of a block of distances


def precision_recall(
    reference: np.ndarray, samples: np.ndarray, neighbours: int = 3
) -> dict[str, float]:
    """Measures which share of one set of features lies within the manifold of the other.

    A manifold is the union of balls around its points, each of which reaches its `neighbours`-th
    neighbour.

    Args:
      reference: (N, F) features of real images.
      samples: (M, F) features of generated images.
      neighbours: at least 1, below N and M.

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
    return {
        "precision": _share_within(samples, reference, radii(reference, neighbours)),
        "recall": _share_within(reference, samples, radii(samples, neighbours)),
    }


def radii(features: np.ndarray, neighbours: int) -> np.ndarray:
    """Returns the squared distance (N,) of each point to its `neighbours`-th other point."""
    features = np.asarray(features, np.float32)
    found = [
        np.partition(_distances(features[i : i + _ROWS], features), neighbours)[:, neighbours]
        for i in range(0, len(features), _ROWS)
    ]
    return np.concatenate(found)


def _share_within(points, centres, radii) -> float:
    inside = [
        (_distances(points[i : i + _ROWS], centres) <= radii).any(axis=1)
        for i in range(0, len(points), _ROWS)
    ]
    return float(np.concatenate(inside).mean())


def _distances(a, b) -> np.ndarray:
    """Returns squared distances (len(a), len(b)), not below 0."""
    squares = (a * a).sum(1)[:, None] + (b * b).sum(1)
    return np.maximum(squares - 2 * a @ b.T, 0)
