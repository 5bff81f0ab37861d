"""Inception score (arXiv 1606.03498): whether every image shows one thing, and all many things."""

import numpy as np


def inception_score(
    logits: np.ndarray, splits: int = 10, shuffle_seed: int | None = None
) -> tuple[float, float]:
    """exp of the mean divergence of an image's class distribution from the mean one.

    Args:
      logits: (N, C) of Inception's classes; the published scores leave out the bias.
      splits: parts of the images that are scored alone.
      shuffle_seed: of the order of the images before they are split, by
        `np.random.RandomState(seed).permutation`; torch-fidelity's is 2020. None keeps the order.

    Returns:
      Mean and (population) standard deviation over the splits; the score is 1 to C.

    Raises:
      ValueError: the shape does not fit, a logit is not finite, or there are more splits than
        images.
    """
    logits = np.asarray(logits)
    if logits.ndim != 2:
        raise ValueError(f"logits are {logits.shape}; they must be (N, C)")
    count = len(logits)
    if not 1 <= splits <= count:
        raise ValueError(f"splits={splits} of {count} images; give 1 to {count}")
    if not np.isfinite(logits).all():
        raise ValueError("logits of an image are not finite")
    if shuffle_seed is not None:
        logits = logits[np.random.RandomState(shuffle_seed).permutation(count)]
    scores = []
    for split in range(splits):
        part = logits[split * count // splits : (split + 1) * count // splits].astype(np.float64)
        logs = part - part.max(axis=1, keepdims=True)
        logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
        shares = np.exp(logs)
        mean = shares.mean(axis=0)
        # A class that underflows everywhere has no share and adds nothing.
        mean_log = np.log(mean, where=mean > 0, out=np.zeros_like(mean))
        scores.append(np.exp((shares * (logs - mean_log)).sum(axis=1).mean()))
    return float(np.mean(scores)), float(np.std(scores))
