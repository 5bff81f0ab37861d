"""Opened files and decoded blocks that threads share."""

import collections
import concurrent.futures
import threading
from collections.abc import Callable, Hashable
from typing import Any


class Cache:
    """The values used last; each is loaded by one thread, while the others that want it wait.

    Pickling keeps the size and leaves the values.

    Args:
        size: how many values are kept.
    """

    def __init__(self, size: int):
        self.size = size
        self._values: collections.OrderedDict[Hashable, concurrent.futures.Future]
        self._values = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, load: Callable[[], Any]) -> Any:
        """The value of `key`; what `load` raises, all who wait for it get, and nothing is kept."""
        with self._lock:
            value = self._values.get(key)
            absent = value is None
            if absent:
                value = self._values[key] = concurrent.futures.Future()
                if len(self._values) > self.size:
                    self._values.popitem(last=False)
            self._values.move_to_end(key)
        if absent:
            try:
                value.set_result(load())
            except BaseException as error:
                with self._lock:
                    if self._values.get(key) is value:
                        del self._values[key]
                value.set_exception(error)
        return value.result()

    def __len__(self) -> int:
        return len(self._values)

    def __reduce__(self):
        return type(self), (self.size,)
