"""Checks of what a `Sampler` is asked for: labels, texts, filters, guidance, given codes."""

from collections.abc import Sequence

import numpy as np

from unitok_jax.system.arrays import as_numpy


def check_labels(labels, classes: int) -> np.ndarray:
    """Returns labels int32 (B,) of classes, from one or several.

    Raises:
      ValueError, TypeError: no integers, or one that is no class.
    """
    labels = np.atleast_1d(as_numpy(labels))
    if labels.ndim != 1 or not len(labels):
        raise ValueError(f"labels of shape {labels.shape}: expected (B,), at least one")
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"labels have dtype {labels.dtype}; they are integers, one for each sample")
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise ValueError(
            f"label {wrong[0]} is none of this generator's: its labels are 0 to {classes - 1}"
        )
    return labels.astype(np.int32)


def check_texts(texts: str | Sequence[str]) -> list[str]:
    """Returns texts, from one or several.

    Raises:
      ValueError, TypeError: no text, or a blank one.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts:
        raise ValueError("texts are empty: give at least one")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"text {number} is {type(text).__name__}, no str")
        if not text.strip():
            raise ValueError(f"text {number} is empty; a prompt needs a word")
    return texts


def check_features(features, valid, tokens: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the features float32 (B, T, F) of texts, and bool (B, T), which are of text.

    Args:
      features: (B, T, F) floats, or (T, F) of one text.
      valid: (B, T), or (T,), those of a text at the end; None: all are.
      tokens, width: T and F.

    Raises:
      ValueError: another shape, values that are not finite, or a text without tokens or with
        padding behind them.
    """
    features = as_numpy(features).astype(np.float32)
    features = features[None] if features.ndim == 2 else features
    if features.ndim != 3 or not len(features) or features.shape[1:] != (tokens, width):
        raise ValueError(
            f"features of shape {features.shape}: this generator's texts have (B, {tokens}, "
            f"{width})"
        )
    if not np.isfinite(features).all():
        raise ValueError("features hold nan or inf")
    if valid is None:
        return features, np.ones(features.shape[:2], bool)
    valid = np.atleast_2d(as_numpy(valid)).astype(bool)
    if valid.shape != features.shape[:2]:
        raise ValueError(f"valid of shape {valid.shape}: expected {features.shape[:2]}")
    if not valid.any(axis=1).all():
        raise ValueError(f"text {int(np.argmin(valid.any(axis=1)))} is empty: it has no token")
    gap = (valid[:, :-1] & ~valid[:, 1:]).any(axis=1)
    if gap.any():
        raise ValueError(
            f"text {int(np.argmax(gap))} has padding behind a token: features are read as in "
            "training, texts at the end and zeros before; pad at the left"
        )
    return features, valid


def check_given(
    given, known: np.ndarray, books: int, entries: int, grid: tuple[int, int]
) -> np.ndarray:
    """Returns given codes int32 (B, K, N), from those of one image (K, N) or several.

    Codes that are not `known`, bool (N,), may have any value, and become 0.

    Raises:
      ValueError, TypeError: codes of another generator's shape, grid or range.
    """
    theirs = getattr(given, "grid", None)
    if theirs is not None and tuple(theirs) != grid:
        raise ValueError(f"the given codes have the grid {theirs}, and this generator's {grid}")
    codes = as_numpy(given)
    codes = codes[None] if codes.ndim == 2 else codes
    if not np.issubdtype(codes.dtype, np.integer):
        raise TypeError(f"the given codes have dtype {codes.dtype}; they are integers")
    expected = books, grid[0] * grid[1]
    if codes.ndim != 3 or not len(codes) or codes.shape[1:] != expected:
        raise ValueError(
            f"given codes of shape {codes.shape}: this generator's have (B, {expected[0]}, "
            f"{expected[1]})"
        )
    codes = np.where(known, codes, 0)
    if codes.min() < 0 or codes.max() >= entries:
        raise ValueError(
            f"the given codes reach from {codes.min()} to {codes.max()}; this generator's are 0 to "
            f"{entries - 1}: were they made by another tokenizer?"
        )
    return codes.astype(np.int32)


def check_known(known, grid: tuple[int, int]) -> np.ndarray:
    """Returns which tokens are kept, bool (N,), from those or a mask of the grid.

    Raises:
      ValueError: another shape.
    """
    known = as_numpy(known)
    if known.shape not in (grid, (grid[0] * grid[1],)) or known.dtype != bool:
        raise ValueError(
            f"known has the dtype {known.dtype} and the shape {known.shape}: expected bool {grid}, "
            f"True where a token is kept, or ({grid[0] * grid[1]},)"
        )
    return known.reshape(-1)


def one_length(**arrays: Sequence | None) -> int:
    """Returns the number of rows that all the arrays have; one of a single row fits any.

    Raises:
      ValueError: two numbers, or no array.
    """
    counts = {name: len(array) for name, array in arrays.items() if array is not None}
    count = max(counts.values(), default=0)
    if not count:
        raise ValueError("nothing to draw: give labels, features or index")
    wrong = {name: n for name, n in counts.items() if n not in (1, count)}
    if wrong:
        told = ", ".join(f"{n} {name}" for name, n in counts.items())
        raise ValueError(f"{told}: the numbers must be equal, or 1")
    return count
