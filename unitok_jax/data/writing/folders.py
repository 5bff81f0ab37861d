"""Folders of shards: claimed, sealed file by file, and continued after a kill.

A folder belongs to one set of settings. A file is written under another name, synced, renamed, and
then described by a JSON file of facts: what has one is whole, and is not written again.
"""

import contextlib
import errno
import fnmatch
import hashlib
import json
import os
import re
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from unitok_jax.data.health import SampleError
from unitok_jax.data.patience import read_for_good
from unitok_jax.data.records import Source
from unitok_jax.system.foreign_json import parse_object
from unitok_jax.system.passing import with_text

MANIFEST = "manifest.json"
SETTINGS = "settings.json"  # settings of the folder, written first
PARTIAL = ".partial"  # name suffix of a file being written
PROBES = 16  # records that identify a source

# Errors of disks without hard links, such as buckets mounted as folders.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)

# Process ids are unique on one host or container only; several may share the folder.
_MINE = f".{uuid.uuid4().hex[:12]}{PARTIAL}"
_LEFT = re.compile(rf".+\.[0-9a-f]{{12}}{re.escape(PARTIAL)}", re.DOTALL)  # by any process


def claim(output: Path, settings: dict[str, Any], command: str) -> None:
    """Makes the folder for some settings, or checks that an existing folder has the same settings.

    Args:
        output: the folder; errors call it --output.
        settings: JSON values; 'format' identifies the writer.
        command: the command that writes such folders.

    Raises:
        ValueError: the folder has other content, or other settings.
        OSError: the folder cannot be made.
    """
    if output.exists() and not output.is_dir():
        raise NotADirectoryError(f"--output={output} is not a folder")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise with_text(error, f"--output={output} cannot be made: {error.strerror}") from error
    file = output / SETTINGS
    strangers = sorted(
        entry.name
        for entry in output.iterdir()
        if not (entry.name.startswith(SETTINGS) and entry.name.endswith(PARTIAL))
    )
    if not file.is_file():  # another process may have claimed it since
        if strangers:
            raise ValueError(
                f"--output={output} is not empty ({', '.join(strangers[:5])}) and holds no "
                f"{SETTINGS}; give an empty folder"
            )
        if _write_first(file, json.dumps(settings).encode()):
            return
    try:
        before = parse_object(file.read_bytes(), str(file))
        if before["format"] != settings["format"]:
            raise KeyError("format")
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{file} was not written by this version of {command}; give an empty folder"
        ) from error
    changed = [
        _difference(key, before.get(key), settings.get(key))
        for key in sorted(set(before) | set(settings))
        if before.get(key) != settings.get(key)
    ]
    if changed:
        raise ValueError(
            f"--output={output} was begun with other settings or another source:\n  "
            + "\n  ".join(changed)
            + "\nGive the same again, or another folder"
        )


def partial(path: Path) -> Path:
    """Returns the path where this process writes the future `path`."""
    return path.with_name(path.name + _MINE)


def seal(path: Path) -> dict[str, Any]:
    """Renames `partial(path)`, written by this process, to `path`, after a sync.

    Returns:
        {'file': its name, 'bytes': int, 'sha256': hexadecimal digits}.
    """
    try:
        facts = _synced(partial(path))
    except FileNotFoundError:
        # As in `_rename`.
        if not path.exists():
            raise
        facts = _synced(path)
    _rename(partial(path), path)
    return {"file": path.name} | facts


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file whole or not at all."""
    write_bytes(path, json.dumps(content).encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    with writing(path) as begun:
        _write_synced(begun, content)
        _rename(begun, path)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yields `partial(path)` to a block that writes it, then renames it to `path`.

    Errors name the file, and a partial file is removed: on a full disk it would take the space.
    """
    try:
        yield partial(path)
    except OSError as error:
        if error.errno and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        partial(path).unlink(missing_ok=True)


def sweep(output: Path, others: Sequence[str] = ()) -> None:
    """Removes partial files of killed processes, once all shards are written.

    Removes only files with a name of `partial`: a key may make a folder with the same suffix.

    Args:
        output: the folder.
        others: patterns, as of `fnmatch`, of paths in it that stay: those of another command, which
            may be writing them.
    """
    for file in output.rglob(f"*{PARTIAL}"):
        is_left = _LEFT.fullmatch(file.name) and file.is_file() and not file.is_symlink()
        name = file.relative_to(output).as_posix()
        if is_left and not any(fnmatch.fnmatchcase(name, each) for each in others):
            file.unlink(missing_ok=True)


def written_to(path: Path, call: Callable, *arguments):
    """Returns the result of `call`; ArrayRecord raises a RuntimeError for a full disk."""
    try:
        return call(*arguments)
    except RuntimeError as error:
        raise OSError(f"{path}: {error}") from error


def probes(source: Source) -> list[str]:
    """Returns short texts that identify some records of a source."""
    return [_probe(source, i * len(source) // PROBES) for i in range(PROBES)]


def _synced(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": digest}


def _rename(before: Path, after: Path) -> None:
    try:
        os.replace(before, after)
    except FileNotFoundError:
        # Another process that finished the same folder has swept the file: its `after` is the same.
        if not after.exists():
            raise


def _write_first(path: Path, content: bytes) -> bool:
    """Writes a file whole; returns False if another process has. Two may race."""
    with writing(path) as begun:
        _write_synced(begun, content)
        try:
            os.link(begun, path)  # which, unlike a rename, never replaces
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            _rename(begun, path)
    return True


def _write_synced(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _difference(key: str, before: Any, now: Any) -> str:
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = zip(before, now, strict=True)
        before, now = next((old, new) for old, new in pairs if old != new)
    return f"{key}: {before!r:.200} before, {now!r:.200} now"


def _probe(source: Source, index: int) -> str:
    try:
        record = read_for_good(source, index)
    except SampleError as error:
        return error.reason
    return f"{record['name']} {zlib.crc32(record['image']):08x} {' | '.join(record['captions'])}"
