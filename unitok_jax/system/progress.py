"""Progress of a command: a bar on a terminal, one line per minute elsewhere."""

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

EVERY = 60.0  # seconds between two lines


class Progress:
    """Counter of finished work, on stderr; a context."""

    def __init__(
        self,
        total: int,
        unit: str,
        there: int = 0,
        what: str = "",
        clock: Callable[[], float] = time.monotonic,
    ):
        """Starts counting.

        Args:
          total: number of units to do.
          unit: name of one unit, such as image.
          there: number of units done before.
          what: name of the work; begins the line.
          clock: returns seconds.
        """
        self._total, self._unit, self._there, self._what = total, unit, there, what
        self._clock, self._done = clock, there
        self._begin = self._told = clock()
        self._bar = None
        if sys.stderr is not None and sys.stderr.isatty():
            self._bar = tqdm(
                total=total,
                initial=there,
                unit=unit,
                desc=what or None,
                unit_scale=True,
                dynamic_ncols=True,
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.close()

    def update(self, count: int = 1) -> None:
        """Adds `count` finished units."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
            return
        now = self._clock()
        if now - self._told >= EVERY:
            self._told = now
            print(self._line(now), file=sys.stderr, flush=True)

    def _line(self, now: float) -> str:
        rate = (self._done - self._there) / (now - self._begin)
        begin = f"{self._what}: " if self._what else ""
        left = duration((self._total - self._done) / rate) if rate else "?"
        return (
            f"{begin}{self._done} of {self._total} {self._unit}s, {rate:.3g} {self._unit}s/s, "
            f"{left} left"
        )


def duration(seconds: float) -> str:
    """Formats seconds as hours, minutes and seconds: 1:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
