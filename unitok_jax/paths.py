"""Paths as users write them, and names as consoles can print them."""

import os
import stat
from pathlib import Path


def expand(path: str | os.PathLike) -> Path:
    """The path with a leading `~` or `~user` replaced by that home folder.

    A shell leaves `~` alone behind `--output=`; every path that a user gives goes through here.

    Raises:
      ValueError: a NUL in it, or no home folder of that name.
    """
    text = os.fspath(path)
    if "\0" in text:
        raise ValueError(f"{printable(text)}: a path cannot hold a NUL character")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # what pathlib raises for a user that does not exist
        raise ValueError(f"{printable(text)}: {error}") from error


def printable(name: str | os.PathLike) -> str:
    r"""The name on one line of any console: what cannot be printed is escaped, as `caf\xe9.png`.

    Bytes of a file name that are not UTF-8 reach Python as lone surrogates.
    """
    return "".join(c if c.isprintable() else _escape(c) for c in os.fspath(name))


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def is_regular(path: str | os.PathLike) -> bool:
    """True if the path, its links followed, is a file: no folder, pipe, device or socket."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False
