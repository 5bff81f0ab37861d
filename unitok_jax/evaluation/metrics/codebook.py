"""Use of the codebooks: rows in use, perplexity, bits."""

import numpy as np


class CodebookUse:
    """Usage and perplexity of every codebook over a data set."""

    def __init__(self):
        self._counts = 0.0

    def update(self, counts: np.ndarray) -> None:
        """counts: (K, V), how often each row was chosen in a batch."""
        self._counts = self._counts + np.asarray(counts, np.float64)

    @property
    def counts(self) -> np.ndarray:
        """(K, V) float64, how often each row was chosen so far."""
        return self._counts

    def result(self) -> dict[str, np.ndarray | float]:
        """Returns the use of the codebooks.

        Returns:
          (K,) arrays: `usage`, the part of the rows that were chosen (0 to 1), `dead`, the number
          of rows never chosen, and `perplexity`, 1 to V. Scalars: `bits_per_token`, the sum over
          codebooks of log2(perplexity), the entropy of the codes that were chosen, and
          `max_bits_per_token`, K log2 V.
        """
        books, rows = self._counts.shape
        share = self._counts / np.maximum(self._counts.sum(axis=1, keepdims=True), 1)
        logs = np.log(share, where=share > 0, out=np.zeros_like(share))
        entropy = -(share * logs).sum(axis=1)
        return {
            "usage": (self._counts > 0).mean(axis=1),
            "dead": (self._counts == 0).sum(axis=1),
            "perplexity": np.exp(entropy),
            "bits_per_token": float(entropy.sum() / np.log(2)),
            "max_bits_per_token": float(books * np.log2(rows)),
        }
