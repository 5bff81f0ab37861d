"""Worker processes."""

import multiprocessing
import os
import signal
import threading


def end_with_parent() -> None:
    """Ends this worker when its parent is killed: it would wait for ever, with its memory.

    Ctrl-C, which a terminal sends to both, is left to the parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
