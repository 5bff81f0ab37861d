"""Folder of a run, on a disk or in a bucket: writable, owned by one run, with free space."""

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Callable

import jax
from etils import epath

from unitok_jax.runtime import processes
from unitok_jax.system import locks, paths
from unitok_jax.system.extras import how_to_install
from unitok_jax.system.passing import TryAgainError, with_text

log = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class BusyError(TryAgainError):
    """Another run writes to the workdir."""


def open_folder(path) -> epath.Path:
    """Returns a local path made absolute, `~` expanded, or a bucket path, gs://bucket/folder.

    Raises:
      ValueError: a path in a bucket without the package that reads buckets, or a path
        of an unknown kind.
    """
    try:
        folder = epath.Path(path)
    except KeyError as error:
        raise ValueError(f"{path}: no path begins with {error}; use a folder or gs://") from error
    if not paths.is_remote(folder):
        return epath.Path(os.path.abspath(paths.expand(folder)))
    try:
        folder.exists()
    except ImportError as error:
        raise ValueError(
            f"{folder} needs a package to be read and written: {how_to_install('gcs')} ({error})"
        ) from error
    return folder


def make(path) -> epath.Path:
    """Makes a workdir, and tests that it is writable.

    Raises:
      ValueError: `path` is empty, or in a bucket that nothing installed can read.
      OSError: it cannot be written.
    """
    if not str(path):
        raise ValueError("--workdir is empty; set --workdir=DIR for checkpoints and metrics")
    folder = open_folder(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{jax.process_index()}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise with_text(error, f"--workdir={path} cannot be written: {error}") from error
    return folder


def write(path: epath.Path, text: str) -> None:
    """Writes a file whole or not at all: a kill leaves the old file."""
    if paths.is_remote(path):  # objects appear whole
        path.write_text(text)
        return
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    os.replace(new, path)


def move(folder: epath.Path, target: epath.Path) -> None:
    """Moves a folder; in a bucket, which has no folders, every object in it."""
    if not paths.is_remote(folder):
        target.parent.mkdir(exist_ok=True)
        folder.rename(target)
        return
    _copy(folder, target)
    folder.rmtree()


def _copy(folder, target):
    for path in folder.iterdir():
        if path.is_dir():
            _copy(path, target / path.name)
        else:
            path.copy(target / path.name)


class Lines:
    """A text file with appended lines, each on disk before the next begins.

    Objects in a bucket cannot be appended to: there the file is rewritten each time.
    """

    def __init__(self, path: epath.Path, keep: Callable[[str], bool] = bool):
        """Opens the file, made if missing.

        Args:
          path: the file.
          keep: returns True for an existing line to keep.
        """
        self._path, self._file = path, None
        self._lines = _read(path).splitlines() if path.exists() else []
        self._lines = [line for line in self._lines if keep(line)]
        self._rewrite()
        if not paths.is_remote(path):
            self._file = open(path, "a")

    def append(self, line: str) -> None:
        """Appends one line.

        Raises:
          OSError: it cannot be written; the message names the file.
        """
        if self._file is None:
            self._lines.append(line)
            self._rewrite()
            return
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except OSError as error:
            raise with_text(error, f"{self._path} cannot be written: {error}") from error

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    def _rewrite(self):
        write(self._path, "".join(line + "\n" for line in self._lines))


def _read(path: epath.Path) -> str:
    return path.read_bytes().decode(errors="replace")


@contextlib.contextmanager
def lock(folder: epath.Path):
    """Locks a local workdir against a second run; the system unlocks it when process 0 dies.

    Raises:
      BusyError: a run that is alive holds it.
    """
    if paths.is_remote(folder) or not processes.is_lead():
        yield
        return
    with open(folder / ".lock", "a") as file:
        try:
            if not locks.lock(file):
                log.info("%s has no locks: nothing keeps a second run out of it", folder)
        except BlockingIOError as error:
            raise BusyError(
                f"another run writes to {folder}; wait for it, end it, or use another --workdir"
            ) from error
        yield


def free_bytes(folder: epath.Path) -> float:
    """Returns the free bytes on the disk of a folder; infinite in a bucket."""
    return float("inf") if paths.is_remote(folder) else shutil.disk_usage(folder).free


def is_full(error: BaseException) -> bool:
    """Returns True if an error says that a disk or a quota is full."""
    # An error that was passed on may have kept only the text.
    return any(
        code == getattr(error, "errno", None) or os.strerror(code) in str(error) for code in _FULL
    )
