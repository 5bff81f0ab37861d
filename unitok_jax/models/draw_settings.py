"""Checks of the settings of a draw: seed, index, filters, scales of guidance."""

import numbers

import numpy as np

from unitok_jax.models.limits import show
from unitok_jax.models.sampling import Filters
from unitok_jax.system.arrays import as_numpy

MAX_SEED = 2**32 - 1  # of a key, and of an index


def check_temperature(temperature, name: str = "temperature") -> None:
    """Checks a temperature.

    Args:
      temperature: that logits are divided by.
      name: of it in the message, as its user writes it.

    Raises:
      ValueError: below 0, not finite or no number.
    """
    if not (_is(temperature, numbers.Real) and 0 <= temperature < float("inf")):
        raise ValueError(
            f"{name}={temperature} must be at least 0; 0 takes the largest logit, 1 draws as "
            "the model was trained"
        )


def check_limit(limit) -> None:
    """Checks the number of ids of an answer, at most.

    Raises:
      ValueError: no integer of at least 1.
    """
    if not (_is(limit, numbers.Integral) and limit >= 1):
        raise ValueError(f"limit={show(limit)} must be an integer of at least 1")


def check_filters(
    temperature: float,
    top_k: int | None,
    top_p: float,
    entries: int,
    what: str = "entries of a codebook",
) -> Filters:
    """Returns the filters of logits of V = `entries`; `what` they are, for the message.

    Raises:
      ValueError: a value out of its range; the message names it.
    """
    check_temperature(temperature)
    if top_k is not None and not (_is(top_k, numbers.Integral) and 1 <= top_k <= entries):
        raise ValueError(
            f"top_k={top_k} must be in 1..{entries}, the {what}; leave it out to keep all"
        )
    if not (_is(top_p, numbers.Real) and 0 < top_p <= 1):
        raise ValueError(f"top_p={top_p} must be above 0 and at most 1; 1 keeps all entries")
    # All entries are no filter: the same draws without a sort.
    top_k = 0 if top_k in (None, entries) else int(top_k)
    return Filters(float(temperature), top_k, float(top_p))


def check_scale(
    scale, guided_tokens: int | None, tokens: int, books: int
) -> tuple[np.ndarray, int]:
    """Returns the scale of every code, float32 (N, K), and how many first tokens are guided.

    Args:
      scale: a number; (K,), one for each codebook; (N, 1), one for each token; or (N, K).
      guided_tokens: the scale is 1 from this token on; None: it is as given.
      tokens: N.
      books: K.

    Raises:
      ValueError: another shape, or a value below 0 or not finite.
    """
    expected = (
        f"expected a number, ({books},) for the codebooks, ({tokens}, 1) for the tokens, or "
        f"({tokens}, {books})"
    )
    refusal = f"scale={show(scale)} is no array of numbers: {expected}"
    try:
        array = as_numpy(scale)
    except ValueError as error:  # rows of several lengths
        raise ValueError(refusal) from error
    if array.dtype.kind not in "iufb":  # words, even such as '2', and objects
        raise ValueError(refusal)
    array = array.astype(np.float32)
    try:
        table = np.array(np.broadcast_to(array, (tokens, books)))
    except ValueError as error:
        raise ValueError(f"scale of shape {array.shape}: {expected}") from error
    if not np.isfinite(table).all() or table.min() < 0:
        raise ValueError(f"scale={show(scale)} must be finite and at least 0; 1 does not guide")
    if guided_tokens is not None:
        if not (_is(guided_tokens, numbers.Integral) and 0 <= guided_tokens <= tokens):
            raise ValueError(f"guided_tokens={guided_tokens} must be in 0..{tokens}")
        table[guided_tokens:] = 1
    guided = np.flatnonzero((table != 1).any(axis=1))
    return table, int(guided[-1]) + 1 if len(guided) else 0


def check_index(index, count: int) -> np.ndarray:
    """Returns the indices uint32 (B,) of `count` samples; 0, 1, ... if None.

    Raises:
      ValueError, TypeError: another number of them, or one out of range.
    """
    index = np.arange(count) if index is None else np.atleast_1d(as_numpy(index))
    if not np.issubdtype(index.dtype, np.integer):
        raise TypeError(f"index has the dtype {index.dtype}; it numbers samples")
    if index.shape != (count,):
        raise ValueError(f"index of shape {index.shape}: expected ({count},), one for each sample")
    if count and (index.min() < 0 or index.max() > MAX_SEED):
        raise ValueError(f"index={index.min()}..{index.max()} must be in 0..{MAX_SEED}")
    return index.astype(np.uint32)


def check_seed(key) -> int:
    """Returns the number that all draws begin from.

    Raises:
      ValueError: no integer that 32 bits hold.
    """
    if not (_is(key, numbers.Integral) and 0 <= key <= MAX_SEED):
        raise ValueError(f"key={show(key)} must be an integer in 0..{MAX_SEED}")
    return int(key)


def _is(value, kind) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool | np.bool_)
