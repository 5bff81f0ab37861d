"""Whether the codebooks are alive."""

import numpy as np


class CodebookUse:
    """Usage and perplexity of every codebook over a data set."""

    def __init__(self):
        self._counts = 0.0

    def update(self, counts: np.ndarray) -> None:
        """counts: (K, V), how often each row was chosen in a batch."""
        self._counts = self._counts + np.asarray(counts, np.float64)

    def result(self) -> dict[str, np.ndarray]:
        """`usage`, the part of the rows that were chosen (0 to 1), and `perplexity`, both (K,)."""
        share = self._counts / np.maximum(self._counts.sum(axis=1, keepdims=True), 1)
        logs = np.log(share, where=share > 0, out=np.zeros_like(share))
        return {
            "usage": (self._counts > 0).mean(axis=1),
            "perplexity": np.exp(-(share * logs).sum(axis=1)),
        }
