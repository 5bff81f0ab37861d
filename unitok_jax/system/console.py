"""How a command ends at its console: Ctrl-C, a reader that leaves, an error of one line."""

import contextlib
import io
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

from unitok_jax.system import signals
from unitok_jax.system.paths import printable

# As shells tell a process that SIGINT or SIGPIPE ended.
EXIT_INTERRUPTED, EXIT_NO_READER = 130, 141


@contextlib.contextmanager
def command(continues: bool = False) -> Iterator[None]:
    """A block that does a command's work; only in the main thread.

    The first Ctrl-C leaves the block with one line and the second ends the process at once, also
    where the main thread waits for a compiler. Names that the console cannot print are escaped.

    Args:
      continues: whether the same command goes on where this one was interrupted.

    Raises:
      SystemExit: 130 after Ctrl-C; 141, without a word, if whoever read the output has left.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    line = "interrupted; the same command continues" if continues else "interrupted"
    try:
        with _Interrupts(line):
            try:
                yield
                if sys.stdout is not None:
                    sys.stdout.flush()
            except KeyboardInterrupt:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                print(line, file=sys.stderr, flush=True)
                sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        if not _reader_has_left():
            raise
        # What is still buffered would fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_NO_READER)


def complain(error: BaseException | str) -> None:
    """Tells what is wrong, on stderr; what a message quotes cannot steer the terminal."""
    text = "\n".join(map(printable, str(error).split("\n")))
    print(f"error: {text}", file=sys.stderr, flush=True)


def refuse(error: BaseException | str, code: int = 2) -> NoReturn:
    """Ends the process with what is wrong, told as `complain` does."""
    complain(error)
    sys.exit(code)


def begin(package: str) -> None:
    """Makes Ctrl-C quiet from the first import of a command on: imports take seconds.

    Does nothing where the package is imported by another program.

    Args:
      package: its folder, which holds the commands.
    """
    script = sys.argv[0] if sys.argv else ""
    # "-m" it is until `python -m` has imported the packages around a module
    if script == "-m" or os.path.basename(script) == "unitok":
        _be_quiet()
    elif os.path.abspath(script).startswith(os.path.join(package, "")):
        from multiprocessing import parent_process

        if parent_process() is not None:  # a worker: a terminal's Ctrl-C is its parent's to handle
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _be_quiet() -> None:
    before, unraisable_before = sys.excepthook, sys.unraisablehook

    def hook(kind, error, traceback):
        if issubclass(kind, KeyboardInterrupt):
            print("interrupted", file=sys.stderr, flush=True)
        else:
            before(kind, error, traceback)

    def lost(unraisable):
        if unraisable.exc_type is KeyboardInterrupt:
            _interrupt_again()
        else:
            unraisable_before(unraisable)

    sys.excepthook, sys.unraisablehook = hook, lost


def _interrupt_again() -> None:
    """Sends SIGINT to the main thread a moment later, when it runs other code."""
    main = threading.main_thread().ident
    timer = threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGINT))
    timer.daemon = True
    timer.start()


class _Interrupts:
    """A context that does for Ctrl-C what Python's own handler cannot.

    That one waits until the main thread leaves C code; and what it raises is lost where Python runs
    code that cannot fail, as at the end of a collection.
    """

    def __init__(self, line: str):
        self._line, self._count = line, 0

    def __enter__(self):
        self._hook, sys.unraisablehook = sys.unraisablehook, self._lost
        self._listener = signals.Listener(self._told)
        return self

    def __exit__(self, *_):
        self._listener.close()
        sys.unraisablehook = self._hook

    def _told(self, number):
        self._count += number == signal.SIGINT
        if self._count == 2:
            print(self._line, file=sys.stderr, flush=True)
            os._exit(EXIT_INTERRUPTED)

    def _lost(self, unraisable):
        if unraisable.exc_type is KeyboardInterrupt:
            self._count -= 1  # it comes again
            _interrupt_again()
        else:
            self._hook(unraisable)


def _reader_has_left() -> bool:
    """Whether it is stdout whose pipe has no other end, and not one that the work has opened."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except io.UnsupportedOperation:  # no file of the system
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
