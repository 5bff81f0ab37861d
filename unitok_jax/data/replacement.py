"""Replacement of samples that cannot be used by the next good ones of their source."""

from collections.abc import Callable
from typing import Any

from unitok_jax.data.health import Notes, SampleError, TooLong
from unitok_jax.data.patience import read_patiently
from unitok_jax.system.passing import AwayError, may_pass

TRIES = 16  # consecutive bad samples before training stops
NEIGHBOURS = 4  # tries next to the first; the others are spread over the source


def usable(read: Callable[[int], Any], index: int, length: int, notes: Notes) -> Any:
    """Reads the sample at `index` of a source, or the next one that can be used.

    Replacing a sample on reading, not filtering later, keeps the position in the stream equal to
    the step.

    Args:
        read: reads the sample at an index; a `SampleError` or an `OSError` asks for another, the
            latter after a few tries if it may pass.
        index: the sample that is wanted.
        length: number of samples of the source.
        notes: counts what is left out.

    Returns:
        The result of `read`.

    Raises:
        SampleError: `TRIES` consecutive samples, or all of a smaller source, cannot be used.
        AwayError: the same, and the disk of the last one may be back later.
    """
    tries = min(TRIES, length)
    for attempt in range(tries):
        # After a few neighbours, search elsewhere: a whole shard may be damaged.
        stride = 1 if attempt < NEIGHBOURS else max(1, length // tries)
        try:
            return read_patiently(read, (index + attempt * stride) % length)
        except (SampleError, OSError) as error:
            last, reason = error, getattr(error, "reason", "unreadable")
            if not attempt:  # a bad replacement is counted at its own position
                _count(error, reason, notes)
    text = f"{tries} samples in a row cannot be used; the last: {last}"
    raise (AwayError(text) if may_pass(last) else SampleError(text, reason)) from last


def _count(error: Exception, reason: str, notes: Notes) -> None:
    if isinstance(error, TooLong):
        notes.counts[f"left_out/{reason}"] += 1
    else:
        notes.skipped.add(reason, str(error))
