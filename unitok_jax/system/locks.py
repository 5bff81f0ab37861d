"""Locks of open files, which keep other processes out."""

import errno
import fcntl
from typing import IO

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


def lock(file: IO, wait: bool = False) -> bool:
    """Locks a file until it is closed; the system unlocks it when the process dies.

    Args:
      file: that is open for writing.
      wait: True: waits for another process that holds it.

    Returns:
      False if its disk has no locks: nothing keeps another process out.

    Raises:
      BlockingIOError: another process holds it.
      OSError: locking failed.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True
