"""Paths as users write them, and names as consoles can print them."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from unitok_jax.system.passing import may_pass


def expand(path: str | os.PathLike) -> Path:
    """Replaces a leading `~` or `~user` by that home folder.

    A shell leaves `~` alone behind `--output=`; every path that a user gives goes through here.

    Raises:
      ValueError: a NUL in the path, no such home folder, or a URL: `gs://bucket/x` would be the
        folder `gs:` here.
    """
    text = os.fspath(path)
    if is_remote(text):
        raise ValueError(f"{printable(text)}: only a path of this machine can be given here")
    if "\0" in text:
        raise ValueError(f"{printable(text)}: a path cannot hold a NUL character")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # what pathlib raises for a user that does not exist
        raise ValueError(f"{printable(text)}: {error}") from error


def is_remote(path: str | os.PathLike) -> bool:
    """Returns True for a URL, such as a path in a bucket, False for a path of this machine."""
    return "://" in os.fspath(path)


def printable(name: str | os.PathLike) -> str:
    r"""Returns the name on one line for any console: unprintable parts escaped, as `caf\xe9.png`.

    Bytes of a file name that are not UTF-8 reach Python as lone surrogates.
    """
    return "".join(c if c.isprintable() else _escape(c) for c in os.fspath(name))


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def is_there(path: str | os.PathLike) -> bool:
    """Returns True if a path exists, or is a broken link.

    Raises:
      OSError: nothing tells: the disk does not answer.
    """
    try:
        os.lstat(path)
    except OSError as error:
        if may_pass(error):
            raise
        return False
    return True


def is_regular(path: str | os.PathLike) -> bool:
    """Returns True for a regular file, following links: not a folder, pipe, device or socket."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """Opens a regular file to read its bytes, and refuses a pipe, device, socket or folder.

    Never blocks, as opening a pipe would, and checks the opened file: a name may refer to another
    file by then.

    Raises:
      OSError: the file is missing, not regular or cannot be opened; the message names it.
    """
    # O_NONBLOCK has no effect on a regular file; opening a pipe does not wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode):
            return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    raise OSError(errno.EINVAL, f"{kind(mode)}, not a file", os.fspath(path))


def read_regular(path: str | os.PathLike, limit: int) -> bytes:
    """Reads the bytes of a file, at most `limit`.

    Checks the size first and reads no more, so that an endless file cannot fill memory.

    Raises:
      OSError: as `open_regular`.
      ValueError: larger than `limit`.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise ValueError(f"{printable(path)}: {size} bytes are more than {limit}")
        return file.read(size)


def kind(mode: int) -> str:
    """Describes a non-regular path by its `st_mode`: a folder, a pipe, a socket, a device."""
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")
