"""Notices of programs that compile for long: that one does, for how long so far, and in all."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import jax

FIRST, EVERY = 5.0, 30.0  # seconds until the first line about a program, and between two
# JAX reports the start of a compilation as a scalar and its end as a duration, by this name.
_EVENT = "/jax/core/compile/backend_compile_duration"


@contextlib.contextmanager
def notices(
    tell: Callable[[str], None], first: float = FIRST, every: float = EVERY
) -> Iterator[None]:
    """Tells of every program that the block compiles, or reads from the cache, for long.

    Args:
      tell: callback for each line, called in another thread while a program compiles and in the
        compiling one at its end; it must not raise.
      first: seconds until the first line about a program; a shorter compilation has none.
      every: seconds between two lines.
    """
    watch = _Watch(tell, first, every)
    jax.monitoring.register_scalar_listener(watch.begin)
    jax.monitoring.register_event_duration_secs_listener(watch.end)
    # A thread that lives as long as the process may outlive an exit inside a compiler.
    thread = threading.Thread(target=watch.run, name="compiling", daemon=True)
    thread.start()
    try:
        yield
    finally:
        jax.monitoring.unregister_scalar_listener(watch.begin)
        jax.monitoring.unregister_event_duration_listener(watch.end)
        watch.close()
        thread.join()


class _Watch:
    """Running compilations, and a thread's loop that tells of the long ones."""

    def __init__(self, tell, first, every):
        self._tell, self._first, self._every = tell, first, every
        self._running = {}  # thread's id -> [program, start, time of the next line]
        self._changed, self._open = threading.Condition(), True

    def begin(self, event: str, _: float, *, fun_name: str = "", **__) -> None:
        """Notes the start of a compilation; a thread compiles one program at a time."""
        if event == _EVENT:
            with self._changed:
                now = time.monotonic()
                self._running[threading.get_ident()] = [fun_name, now, now + self._first]
                self._changed.notify()

    def end(self, event: str, seconds: float, **_) -> None:
        """Tells how long a compilation took, if it was told of before."""
        if event == _EVENT:
            with self._changed:
                program, began, due = self._running.pop(threading.get_ident(), ("", 0.0, 0.0))
                told = due > began + self._first
            if told:
                self._tell(f"compiled {program} in {seconds:.0f} s")

    def run(self) -> None:
        """Tells of compilations whose next line is due, until `close`."""
        with self._changed:
            while self._open:
                now = time.monotonic()
                for entry in self._running.values():
                    program, began, due = entry
                    if due <= now:
                        entry[2] = now + self._every
                        self._tell(f"compiling {program}, {now - began:.0f} s so far ...")
                due = min((entry[2] for entry in self._running.values()), default=None)
                self._changed.wait(None if due is None else max(due - now, 0.0))

    def close(self) -> None:
        """Ends `run`."""
        with self._changed:
            self._open = False
            self._changed.notify()
