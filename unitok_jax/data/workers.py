"""Worker processes: how they end, and the shared memory that they hand images over in."""

import contextlib
import errno
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker

SHARED_MEMORY = "/dev/shm"
_FIX = (
    "give the container more (docker run --shm-size=8g; in Kubernetes an emptyDir of medium "
    "Memory, mounted at /dev/shm), or read in threads with data.num_workers=0"
)


def check_shared_memory(needed: int) -> None:
    """Refuses to start workers that would fill the shared memory: a write beyond it kills them.

    Args:
        needed: bytes of the images that are in flight at a time.

    Raises:
        ValueError: there is less; containers have 64 MB if they are not given more.
    """
    try:
        found = os.statvfs(SHARED_MEMORY)
    except OSError:  # a system that keeps it elsewhere
        return
    free = found.f_bavail * found.f_frsize
    if free < needed:
        raise ValueError(
            f"data.num_workers: {SHARED_MEMORY} has {free / 2**20:.0f} MiB free, and the batches "
            f"that workers read ahead take {needed / 2**20:.0f} MiB: {_FIX}"
        )


class LostWorker(ConnectionError):
    """A worker was killed, or ran out of memory: it may not happen again."""


class Told:
    """An iterator of what workers read; their sudden ends are told with the cause.

    Args:
        batches: a `grain.DatasetIterator`, which starts its workers when it is first asked.
        workers: whether it has any.
    """

    def __init__(self, batches, workers: bool = False):
        self._batches = batches
        self._around = starting if workers else contextlib.nullcontext

    def __iter__(self) -> Iterator:
        return self

    def __next__(self):
        """Raises a LostWorker if one was killed, or has found no shared memory."""
        around, self._around = self._around, contextlib.nullcontext
        try:
            with around():
                return next(self._batches)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise LostWorker(f"data.num_workers: {SHARED_MEMORY} is full: {_FIX}") from error
        except RuntimeError as error:
            code = re.search(r"terminated unexpectedly with exit code (-?\d+)", str(error))
            if code is None:
                raise
            raise LostWorker(_death(int(code[1]))) from error

    def close(self) -> None:
        """Ends the threads and worker processes."""
        self._batches.close()


def _death(code: int) -> str:
    if code == -signal.SIGBUS:
        return f"data.num_workers: a worker was killed, for {SHARED_MEMORY} is full: {_FIX}"
    if code == -signal.SIGKILL:
        return (
            "data.num_workers: a worker was killed, perhaps for want of memory: lower "
            "data.num_workers or data.num_threads"
        )
    return f"data.num_workers: a worker ended with exit code {code}"


@contextlib.contextmanager
def starting():
    """A block in which worker processes start. Ctrl-C goes to all processes of a terminal: one that
    is not yet in `end_with_parent` keeps it waiting, and no traceback is printed."""
    # Here, as one that starts later lifts the mask in Python 3.11; and told to remove silently what
    # batches in flight leave in the shared memory: Grain leaves some at every end.
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.pop()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """Ends this worker with its parent and not before: Ctrl-C is the parent's to decide.

    A worker whose parent is killed would wait for ever, with its memory.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
