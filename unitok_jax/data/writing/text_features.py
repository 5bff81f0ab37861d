"""Records of text features: what is read of a sample, and what its record holds."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from unitok_jax.data.text import TextTokenizer
from unitok_jax.data.text_features import KIND, digests, packed
from unitok_jax.data.writing.features import Work, of_different


def work(encode: Callable[[np.ndarray], np.ndarray], context_length: int, dtype: str) -> Work:
    """Returns how records of text features are made; equal captions of a shard are computed once.

    Args:
        encode: computes features, float32 (n, E), of token ids (n, L) int32.
        context_length: L.
        dtype: one of `text_features.DTYPES`.
    """
    tokenizer = TextTokenizer(context_length)

    def read(record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        return digests(record["captions"]), tokenizer(record["captions"])

    def records(samples: Sequence[tuple]) -> Iterator[dict]:
        features = of_different(finite, [tokens for _, tokens in samples])
        for (captions, _), rows in zip(samples, features, strict=True):
            yield {"captions": captions.tobytes(), "features": packed(rows, dtype)}

    def finite(tokens):
        features = encode(tokens)
        if not np.isfinite(features).all():
            raise ValueError("the text tower's features are not finite: are its weights whole?")
        return features

    return Work(KIND, read, records)
