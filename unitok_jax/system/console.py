"""Ends of a command at its console: Ctrl-C, a closed output pipe, an error as one line."""

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

# Exit codes of shells for a process ended by SIGINT or SIGPIPE.
EXIT_INTERRUPTED, EXIT_NO_READER = 130, 141


@contextlib.contextmanager
def command(continues: bool = False) -> Iterator[None]:
    """Runs a command's work in the block; only in the main thread.

    The first Ctrl-C leaves the block with one line and the second ends the process at once, also
    where the main thread waits for a compiler. Names that the console cannot print are escaped.

    Args:
      continues: whether rerunning the command continues after an interrupt.

    Raises:
      SystemExit: 130 after Ctrl-C; 141, silently, if the reader of the output closed the pipe.
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
        # Buffered output would fail once more when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_NO_READER)


def complain(error: BaseException | str) -> None:
    """Prints an error on stderr; text quoted in the message cannot control the terminal."""
    text = "\n".join(map(printable, str(error).split("\n")))
    print(f"error: {text}", file=sys.stderr, flush=True)


def refuse(error: BaseException | str, code: int = 2) -> NoReturn:
    """Prints an error as `complain` does, and exits the process."""
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

        if parent_process() is not None:  # a worker: its parent handles Ctrl-C
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
    """A context that handles Ctrl-C where Python's own handler cannot.

    Python's handler waits until the main thread leaves C code, and its exception is lost where
    Python ignores errors, as at the end of a garbage collection.
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
    """Returns True if stdout, and not a pipe opened by the work, is a pipe without a reader."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except io.UnsupportedOperation:  # not a system file
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
