"""Disks that are away for moments, or longer, as those of a network are."""

import errno
import os

from unitok_jax.data import patience
from unitok_jax.data.formats import folders

NEVER = 10**9


def hide(monkeypatch, folder, code=errno.ESTALE):
    """A folder cannot be listed."""
    scan = os.scandir

    def hiding(path="."):
        if str(path) == str(folder):
            raise OSError(code, os.strerror(code), path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", hiding)


def stumble(monkeypatch, name, times, code=errno.EIO):
    """So many tries to read the images whose path ends with `name` fail; nobody waits between.

    Returns the paths of the tries that failed.
    """
    monkeypatch.setattr(patience, "PAUSES", (0.0,) * len(patience.PAUSES))
    read, failed = folders.read_regular, []

    def stumbling(path, limit):
        if str(path).endswith(name) and len(failed) < times:
            failed.append(path)
            raise OSError(code, os.strerror(code), path)
        return read(path, limit)

    regular = folders.is_regular
    monkeypatch.setattr(folders, "read_regular", stumbling)
    monkeypatch.setattr(
        folders, "is_regular", lambda path: not str(path).endswith(name) and regular(path)
    )
    return failed
