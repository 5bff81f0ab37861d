"""Signals, told to a thread as they come."""

import os
import signal
import threading
from collections.abc import Callable


class Listener:
    """A thread that is told each signal at once, wherever the main thread may be.

    Python's own handlers wait until the main thread leaves C code, which a compiler may do in
    minutes. Only signals that have a Python handler are told.
    """

    def __init__(self, told: Callable[[int], None]):
        """Listens from now on; only in the main thread.

        Args:
          told: is called with the number of each signal, in another thread.
        """
        self._told = told
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        while number := os.read(self._reader, 1):
            self._told(number[0])
        os.close(self._reader)

    def close(self) -> None:
        """Listens no longer, and gives signals back to whoever listened before."""
        signal.set_wakeup_fd(self._before)
        os.close(self._writer)
