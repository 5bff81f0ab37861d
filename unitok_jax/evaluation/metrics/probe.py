"""Linear probe: how well a linear map tells classes apart from frozen features
(arXiv 2103.00020, section 3.2)."""

import logging
from typing import Literal

import numpy as np

log = logging.getLogger(__name__)

GRID = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)

_SEED = 0  # of the images that are held out
_ITERATIONS = 1000


def linear_probe(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    classes: int,
    method: Literal["logistic", "ridge"] = "logistic",
) -> dict[str, float]:
    """Trains a linear classifier on standardised features and scores it on others.

    The regularisation is the one of `GRID` that classifies a held-out fifth of the training images
    best, of equally good ones the strongest; the classifier is then trained on all of them. The
    same arguments give the same result. Of classes that score alike the first wins.

    Args:
      train_features: (N, E) floats.
      train_labels: (N,) integers, 0 to classes - 1.
      test_features: (M, E) floats.
      test_labels: (M,) integers, 0 to classes - 1.
      classes: how many there are.
      method: 'logistic' is `fit_logistic`; 'ridge', least squares, is `fit_ridge`: the same use,
        and far quicker.

    Returns:
      `probe_top1`, `probe_top5` where there are more than five classes, both 0 to 1 on the test
      images, and `probe_regularization`, the one chosen.

    Raises:
      ValueError: another method, shapes that do not fit, features that are not finite, labels
        without a class, fewer than two classes among the training images, or no images.
    """
    fits = {"logistic": _logistic_path, "ridge": _ridge_path}
    if method not in fits:
        raise ValueError(f"method={method!r} is neither 'logistic' nor 'ridge'")
    train, labels = _check("training", train_features, train_labels, classes)
    test, test_labels = _check("test", test_features, test_labels, classes)
    if train.shape[1] != test.shape[1]:
        raise ValueError(
            f"training features have {train.shape[1]} values and test features {test.shape[1]}"
        )
    if len(np.unique(labels)) < 2:
        raise ValueError(
            f"all {len(labels)} training images are of class {labels[0]}; a probe needs two classes"
        )
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    # Rounding leaves a constant feature a deviation of about 1e-16 of its value.
    scale = np.where(deviation > 1e-12 * np.maximum(np.abs(mean), 1e-300), deviation, 1.0)
    train, test = (train - mean) / scale, (test - mean) / scale
    order = np.random.RandomState(_SEED).permutation(len(train))
    held_out, kept = np.split(order, [max(len(train) // 5, 1)])
    scores = [
        _top(train[held_out] @ weights + bias, labels[held_out], 1)
        for weights, bias in fits[method](train[kept], labels[kept], classes, GRID)
    ]
    best = int(np.argmax(scores))
    # From the strongest on, since a weaker one starts from the last solution.
    weights, bias = fits[method](train, labels, classes, GRID[: best + 1])[-1]
    logits = test @ weights + bias
    figures = {"probe_top1": _top(logits, test_labels, 1), "probe_regularization": GRID[best]}
    if classes > 5:
        figures["probe_top5"] = _top(logits, test_labels, 5)
    return figures


def fit_logistic(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    regularization: float,
    start: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression by L-BFGS, in float64.

    Minimises mean cross-entropy + regularization / 2 |weights|^2; the bias is free.

    Args:
      features: (N, E).
      labels: (N,) integers, 0 to classes - 1.
      classes: C.
      regularization: above 0.
      start: weights and bias to start from; zeros by default.

    Returns:
      Weights (E, C) and bias (C,).
    """
    from scipy.optimize import minimize

    count, width = features.shape
    rows = np.arange(count)

    def loss(flat):
        weights, bias = flat[classes:].reshape(width, classes), flat[:classes]
        logs = features @ weights + bias
        logs -= logs.max(axis=1, keepdims=True)
        logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
        value = -logs[rows, labels].mean() + regularization / 2 * (weights**2).sum()
        slope = np.exp(logs)
        slope[rows, labels] -= 1
        slope /= count
        gradient = features.T @ slope + regularization * weights
        return value, np.concatenate([slope.sum(axis=0), gradient.ravel()])

    weights, bias = start or (np.zeros((width, classes)), np.zeros(classes))
    solution = minimize(
        loss,
        np.concatenate([bias, weights.ravel()]),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": _ITERATIONS, "maxfun": 2 * _ITERATIONS, "gtol": 1e-7, "ftol": 1e-14},
    )
    if not solution.success:
        log.warning(
            "logistic regression with regularization %g stopped early, at a gradient of %.1e: %s",
            regularization,
            np.abs(solution.jac).max(),
            solution.message,
        )
    return solution.x[classes:].reshape(width, classes), solution.x[:classes]


def fit_ridge(
    features: np.ndarray, labels: np.ndarray, classes: int, regularization: float
) -> tuple[np.ndarray, np.ndarray]:
    """Least squares on one-vs-all targets of 0 and 1, in closed form, in float64.

    Minimises mean squared error + regularization |weights|^2; the bias is free.

    Args, returns: as `fit_logistic`.
    """
    return _ridge_path(features, labels, classes, (regularization,))[0]


def _ridge_path(features, labels, classes, grid):
    """`fit_ridge` for several regularisations, with one eigendecomposition."""
    mean, shares = features.mean(axis=0), np.bincount(labels, minlength=classes) / len(labels)
    centred = features - mean
    values, vectors = np.linalg.eigh(centred.T @ centred / len(features))
    targets = vectors.T @ (centred.T @ (np.eye(classes)[labels] - shares)) / len(features)
    fits = []
    for regularization in grid:
        weights = vectors @ (targets / (np.maximum(values, 0) + regularization)[:, None])
        fits.append((weights, shares - mean @ weights))
    return fits


def _logistic_path(features, labels, classes, grid):
    """`fit_logistic` for several regularisations, each started from the one before."""
    fits, last = [], None
    for regularization in grid:
        last = fit_logistic(features, labels, classes, regularization, last)
        fits.append(last)
    return fits


def _check(kind, features, labels, classes):
    """The features in float64 and the labels, if they fit together."""
    features, labels = np.asarray(features, np.float64), np.asarray(labels)
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"{kind} features {features.shape} and labels {labels.shape} do not fit: they must be "
            "(N, E) and (N,)"
        )
    if not len(features):
        raise ValueError(f"there are no {kind} images for the probe")
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"{kind} labels {labels.dtype} {labels.min()} to {labels.max()} are not integers from "
            f"0 to {classes - 1}, the classes there are"
        )
    if not np.isfinite(features).all():
        raise ValueError(f"{kind} features are not finite")
    return features, labels


def _top(logits, labels, top):
    """Part of the rows with fewer than `top` classes before their own."""
    own = logits[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    return float((((logits > own) | ((logits == own) & earlier)).sum(axis=1) < top).mean())
