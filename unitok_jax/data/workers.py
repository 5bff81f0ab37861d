"""Worker processes: their end, and the shared memory that passes images."""

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
    """Refuses to start workers that would overfill shared memory, where a write kills them.

    Args:
        needed: bytes of the images in flight at a time.

    Raises:
        ValueError: less is free; containers have 64 MB by default.
    """
    try:
        found = os.statvfs(SHARED_MEMORY)
    except OSError:  # a system with shared memory elsewhere
        return
    free = found.f_bavail * found.f_frsize
    if free < needed:
        raise ValueError(
            f"data.num_workers: {SHARED_MEMORY} has {free / 2**20:.0f} MiB free, and the batches "
            f"that workers read ahead take {needed / 2**20:.0f} MiB: {_FIX}"
        )


class LostWorker(ConnectionError):
    """A worker was killed, or ran out of memory; a retry may succeed."""


class BatchStream:
    """Iterator over batches read in threads or workers; a worker's sudden end raises the cause.

    Args:
        batches: a `grain.DatasetIterator`, which starts its workers on the first call.
        workers: True if worker processes read them, False for threads.
    """

    def __init__(self, batches, workers: bool = False):
        self._batches = batches
        self._around = starting if workers else contextlib.nullcontext

    def __iter__(self) -> Iterator:
        return self

    def __next__(self):
        """Returns the next batch; raises a LostWorker if one was killed or lacked shared memory."""
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
        """Stops the threads and worker processes."""
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
    """Starts worker processes in the block. Ctrl-C goes to all processes of a terminal, and SIGTERM
    to all of a job: a worker keeps them pending, in threads that libraries start too."""
    # The resource tracker starts here: a later start lifts the mask in Python 3.11. It removes
    # without warnings the shared memory of batches in flight, which Grain leaves at every end.
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.pop()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """Ends this worker with its parent and not before: the parent handles Ctrl-C and SIGTERM.

    Schedulers send SIGTERM to all processes of a job, and a step may still need this one's batches
    before the run is saved. Otherwise a worker whose parent is killed would wait forever and keep
    its memory.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    watches = [_watch_parent]
    if hasattr(signal, "sigwaitinfo"):  # elsewhere than on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        watches.append(_watch_sigterm)
    for watch in watches:
        threading.Thread(target=watch, daemon=True).start()


def _watch_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _watch_sigterm() -> None:
    """Ends the process at a SIGTERM of its parent, such as at Python's exit; ignores others."""
    parent = os.getppid()
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(128 + signal.SIGTERM)
