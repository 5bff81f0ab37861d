"""Signals, passed to a thread on arrival."""

import os
import signal
import threading
from collections.abc import Callable


class Listener:
    """A thread that receives each signal at once, even while the main thread is busy in C code.

    Python's own handlers wait until the main thread leaves C code, which may take a compiler
    minutes. Only signals with a Python handler are received.
    """

    def __init__(self, told: Callable[[int], None]):
        """Starts listening; only in the main thread.

        Args:
          told: callback for the number of each signal, called in another thread.
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
        """Stops listening, and returns signals to the previous listener."""
        signal.set_wakeup_fd(self._before)
        os.close(self._writer)
