"""Shard files: the shards in a folder, and the shards that a file beside them names."""

import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from unitok_jax.system.passing import may_pass
from unitok_jax.system.paths import printable

_log = logging.getLogger(__name__)


def is_hidden(name: str) -> bool:
    """Returns True for names to skip: `.cache`, `._a.tar` of macOS, Spark's `_SUCCESS`."""
    return name.startswith((".", "_"))


def is_shard(name: str, suffix: str) -> bool:
    """Returns True if a folder entry has a shard's name; case does not matter in the suffix."""
    return name.lower().endswith(suffix) and not is_hidden(name)


def in_folder(folder: Path, suffix: str, key: str, *, below: bool = False) -> list[str]:
    """Returns the sorted paths of the shards in a folder.

    Hidden files and folders are skipped (`is_hidden`), links are followed. A folder with a
    shard's name is not a shard: Spark writes such folders.

    Args:
        folder: an existing folder.
        suffix: in lower case, such as '.tar'.
        key: of the config, which messages name.
        below: whether to search its subfolders, too.

    Raises:
        ValueError: an entry with a shard's name is neither a file nor a folder.
        OSError: the disk does not answer. A folder without permission gives a warning.
    """
    found = []
    for home, names in _walk(folder, below):
        for name in names:
            path = os.path.join(home, name)
            if is_shard(name, suffix) and not os.path.isdir(path):
                check_file(path, key)
                found.append(path)
    return sorted(found)


def _walk(folder: Path, below: bool) -> Iterator[tuple[str, list[str]]]:
    """Yields folders, each with its entries that are not subfolders, or may be links to some."""
    if not below:
        yield str(folder), os.listdir(folder)
        return
    seen = set()
    for home, folders, names in os.walk(folder, followlinks=True, onerror=_tell):
        real = os.path.realpath(home)
        if real in seen:  # a link to a parent folder would loop forever
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        yield home, names


def _tell(error: OSError) -> None:
    if may_pass(error):
        raise error
    _log.warning("%s is left out: %s", printable(error.filename), error.strerror)


def check_file(path: str | os.PathLike, key: str = "") -> os.stat_result:
    """Checks that a shard is a file: reading a pipe blocks, a device has no end; returns its stat.

    Args:
        path: the shard.
        key: of the config, which messages name; '' for none.

    Raises:
        ValueError: the path is a folder, a pipe, a device or a socket.
        FileNotFoundError: the path does not exist, or is a broken link.
    """
    where = f"{key}: {path}" if key else path
    try:
        found = os.stat(path)
    except FileNotFoundError as error:
        if os.path.islink(path):
            raise FileNotFoundError(f"{where} is a link that leads nowhere") from error
        raise
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, a device or a socket"
        raise ValueError(f"{where} is {kind}; shards are files")
    return found


def inside(folder: str | os.PathLike, name: str, file: str | os.PathLike) -> str:
    """Returns the path of a shard that a file names, which must lie in the folder.

    Args:
        folder: the folder that the name is relative to.
        name: a relative path with '/' as separator.
        file: the file that holds the name, for messages.

    Raises:
        ValueError: the name is absolute, holds '..' or a NUL, or leads elsewhere by a link.
    """
    parts = name.split("/")
    if not all(parts) or "\0" in name or any(part in (".", "..") for part in parts):
        raise ValueError(f"{file} names {name!r:.200}, which is no file inside {folder}")
    path = os.path.join(folder, *parts)
    if os.path.commonpath([home := os.path.realpath(folder), os.path.realpath(path)]) != home:
        raise ValueError(f"{file} names {name!r:.200}, a link that leads out of {folder}")
    return path
