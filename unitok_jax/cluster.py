"""The processes of a job, and what they must agree on."""

import jax
import numpy as np
from jax.experimental import multihost_utils


def is_lead() -> bool:
    """Whether this is the process that writes logs, metrics and pictures: number 0."""
    return jax.process_index() == 0


def everyone(ok: bool) -> bool:
    """True on all processes if `ok` is on all of them; all must call it."""
    if jax.process_count() == 1:
        return bool(ok)
    return bool(np.all(multihost_utils.process_allgather(np.asarray(bool(ok)))))
