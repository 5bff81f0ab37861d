"""Errors of disks, buckets and networks that may pass: the same command may work later."""

import errno
import os

_PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.EHOSTUNREACH)


class TryAgainError(Exception):
    """A temporary error: the same command may work later."""


class AwayError(OSError):
    """A disk or a bucket that did not answer, several tries included."""


def may_pass(error: BaseException) -> bool:
    """Returns True for an error of a disk, a bucket or a network that may be temporary."""
    if isinstance(error, (TryAgainError, AwayError, ConnectionError, TimeoutError)):
        return True
    return isinstance(error, OSError) and error.errno in _PASSING


def as_os_error(error: Exception, path: str) -> OSError | None:
    """Returns the error of a disk that a library tells as text, if it may pass; else None."""
    number = next((each for each in _PASSING if os.strerror(each) in str(error)), None)
    return number and OSError(number, os.strerror(number), path)


def with_text(error: Exception, text: str) -> Exception:
    """Returns an error of the same kind, or an `AwayError` if it may pass, with another text."""
    return AwayError(text) if may_pass(error) else type(error)(text)
