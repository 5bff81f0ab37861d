"""The share of codes that two encodings of the same images have in common."""

import numpy as np


class CodeAgreement:
    """The part of codes and tokens that differ, over batches with padding."""

    def __init__(self):
        self._codes, self._tokens, self._count = 0, 0, 0

    def update(
        self, codes_a: np.ndarray, codes_b: np.ndarray, mask: np.ndarray | None = None
    ) -> None:
        """Adds a batch.

        Args:
          codes_a, codes_b: (B, K, N) integers, of the same images.
          mask: (B,) bool; rows with mask False count nothing.

        Raises:
          ValueError: the shapes differ or are not (B, K, N).
        """
        codes_a, codes_b = np.asarray(codes_a), np.asarray(codes_b)
        if codes_a.shape != codes_b.shape or codes_a.ndim != 3:
            raise ValueError(f"codes {codes_a.shape} and {codes_b.shape} are not (B, K, N) twice")
        changed = codes_a != codes_b
        if mask is not None:
            changed = changed[np.asarray(mask)]
        self._codes = self._codes + changed.sum(axis=(0, 2))
        self._tokens += int(changed.any(axis=1).sum())
        self._count += changed.shape[0] * changed.shape[2]

    def result(self) -> dict[str, np.ndarray | float]:
        """Parts, 0 to 1.

        Returns:
          `codes_changed` of all codes, `tokens_changed` of the tokens, one of whose K codes
          differs at least, and `codes_changed_per_book` (K,).

        Raises:
          ValueError: there were no images.
        """
        if not self._count:
            raise ValueError("there are no codes to compare")
        per_book = self._codes / self._count
        return {
            "codes_changed": float(per_book.mean()),
            "tokens_changed": self._tokens / self._count,
            "codes_changed_per_book": per_book,
        }
