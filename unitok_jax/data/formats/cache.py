"""A cache of opened files and decoded blocks, shared by threads."""

import collections
import concurrent.futures
import threading
from collections.abc import Callable, Hashable
from typing import Any


class Cache:
    """Cache of the most recently used values; one thread loads a value while the others wait.

    Pickling keeps the size and drops the values.

    Args:
        size: the number of values kept.
    """

    def __init__(self, size: int):
        self.size = size
        self._values: collections.OrderedDict[Hashable, concurrent.futures.Future]
        self._values = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, load: Callable[[], Any]) -> Any:
        """Returns the value of `key`; an error of `load` reaches all waiting threads."""
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
