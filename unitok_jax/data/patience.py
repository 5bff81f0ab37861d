"""Reading from disks that may be away for moments, such as those of a network."""

import time
from collections.abc import Callable
from typing import Any

from unitok_jax.data.health import SampleError
from unitok_jax.data.records import Source
from unitok_jax.system.passing import AwayError, may_pass

PAUSES = (0.5, 1.5, 4.0)  # seconds before each further try


def read_patiently(read: Callable[[int], Any], index: int) -> Any:
    """Returns `read(index)`; after an error of the disk that may pass it is tried again.

    Raises:
        OSError: as of `read`, if it does not pass within `PAUSES`.
    """
    for pause in PAUSES:
        try:
            return read(index)
        except OSError as error:
            if isinstance(error, AwayError) or not may_pass(error):
                raise
        time.sleep(pause)
    return read(index)


def read_for_good(source: Source, index: int) -> Any:
    """Returns a record whose verdict is kept: what is written of it is not read again.

    Raises:
        SampleError: it cannot be used.
        OSError: the disk may be back later, so that nothing may be written of it.
    """
    try:
        return read_patiently(source.__getitem__, index)
    except OSError as error:
        if may_pass(error):
            raise
        raise SampleError(str(error), "unreadable") from error
