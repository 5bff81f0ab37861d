"""Worker processes."""

import contextlib
import multiprocessing
import os
import signal
import threading
from multiprocessing import resource_tracker


@contextlib.contextmanager
def starting():
    """A block in which worker processes start. Ctrl-C goes to all processes of a terminal: one that
    is not yet in `end_with_parent` keeps it waiting, and no traceback is printed."""
    resource_tracker.ensure_running()  # where it starts later, Python 3.11 lifts the mask
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
