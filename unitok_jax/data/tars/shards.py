"""Shards: files that a pattern names, and byte ranges of them, on a disk or in a bucket."""

import collections
import errno
import glob
import os
import re
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import braceexpand

from unitok_jax.data.formats.recognise import other_format
from unitok_jax.data.formats.shard_names import check_file, in_folder, is_shard
from unitok_jax.data.records import first_names
from unitok_jax.data.tars import cloud
from unitok_jax.system import paths
from unitok_jax.system.passing import AwayError

SUFFIX = ".tar"
MAX_NAMES = 10**6  # limit on the names of a pattern
TRIES = 5
FIRST_WAIT = 0.1  # seconds before the second try; doubles
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?\}")
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


class Shard(NamedTuple):
    path: str  # absolute, or gs://...
    size: int  # bytes
    mtime_ns: int  # when it was last written


def expand(pattern: str, key: str = "data.path") -> list[Shard]:
    """Expands a pattern to shards: a brace list in its order, a glob or a folder sorted.

    Args:
        pattern: a .tar file, a folder of them, a brace list such as `{00000..00127}.tar` or
            `{a,b}`, a glob, or braces around globs; local or gs://. A comma outside braces is a
            part of a name.
        key: the config key for messages.

    Raises:
        ValueError: an empty or malformed pattern or one of more than `MAX_NAMES` names, a folder
            without shards, a shard that is not a file, a shard named twice, a bucket that nothing
            installed can read or for which there are no credentials.
        FileNotFoundError: nothing matches, or a part of a brace list is not there.
        OSError: a bucket cannot be listed.
    """
    if not pattern:
        raise ValueError(
            f"{key} is empty: set --config.{key}=/a/folder/of/shards or a pattern such as "
            "'/data/{00000..00127}.tar'"
        )
    where = f"{key}={pattern}"
    storage = _Bucket(pattern, where) if paths.is_remote(pattern) else _Disk(key)
    literal = not paths.is_remote(pattern) and paths.is_there(paths.expand(pattern))
    names = [pattern] if literal else _braces(pattern, where)
    shards, missing = [], []
    for name in names:
        found = storage.find(name)
        if found is None:
            missing.append(name)
        elif found:
            shards += found
        else:
            other = other_format(name, "tar")
            raise ValueError(
                f"{where}: the folder {name} holds no .tar{storage.hint(name)}"
                + (f". {other}" if other else "")
            )
    if missing:
        raise FileNotFoundError(_missing(where, pattern, names, missing))
    counts = collections.Counter(shard.path for shard in shards)
    twice = [path for path, count in counts.items() if count > 1]
    if twice:
        raise ValueError(f"{where} names {len(twice)} shards more than once: {first_names(twice)}")
    return shards


def _braces(pattern: str, where: str) -> list[str]:
    ranges = _RANGE.findall(pattern)
    if any(len(number) > 18 for numbers in ranges for number in numbers):
        raise ValueError(f"{where}: a range has numbers of more than 18 digits")
    for first, last, _ in ranges:
        if int(first) > int(last):
            raise ValueError(f"{where}: {{{first}..{last}}} counts down; write {{{last}..{first}}}")
    try:
        if _count(pattern) > MAX_NAMES:
            raise ValueError(
                f"{where} stands for more than {MAX_NAMES} shards; name those that are there"
            )
        names = list(braceexpand.braceexpand(pattern))
    except braceexpand.UnbalancedBracesError as error:
        raise ValueError(f"{where}: a brace is open or closed without its other one") from error
    except RecursionError as error:
        raise ValueError(f"{where}: braces lie too deep in each other") from error
    if any("{" in name or "}" in name for name in names):
        raise ValueError(f"{where}: braces hold a range or a list, as {{00000..00127}} or {{a,b}}")
    return names


def _count(pattern: str) -> int:
    """Bounds the number of names in a pattern: a sum over lists, a product over braces."""
    total, product, depth, begin = 0, 1, 0, 0
    for place, sign in enumerate(pattern):
        if sign == "{":
            begin = place if not depth else begin
            depth += 1
        elif sign == "}" and depth:
            depth -= 1
            if not depth:
                found = _RANGE.fullmatch(pattern[begin : place + 1])
                product *= _length(*found.groups()) if found else _count(pattern[begin + 1 : place])
        elif sign == "," and not depth:
            total, product = total + product, 1
    return total + product


def _length(first: str, last: str, step: str | None) -> int:
    return (int(last) - int(first)) // max(abs(int(step or 1)), 1) + 1


def _missing(where, pattern, names, missing) -> str:
    comma = "," in re.sub(r"\{[^{}]*\}", "", pattern)
    hint = "; a comma does not separate paths, write {a,b}" if comma else ""
    if len(names) > 1:
        count = f"{len(missing)} of {len(names)}"
        return f"{where}: {count} are not there: {first_names(missing)}. Name those that are{hint}"
    if glob.has_magic(missing[0]):
        return f"{where}: no file matches{hint}"
    return f"{where}: there is no such file or folder{hint}"


class _Disk:
    """Search for shards on the file systems of this machine."""

    def __init__(self, key: str):
        self._key = key

    def find(self, name: str) -> list[Shard] | None:
        """Returns the shards of one name, folder or glob; None if it does not exist."""
        path = os.path.abspath(paths.expand(name))
        if paths.is_there(path):
            found = in_folder(path, SUFFIX, self._key) if os.path.isdir(path) else [path]
        else:
            found = [
                p for p in sorted(glob.glob(path, recursive=True)) if not os.path.isdir(p)
            ] or None
        return found and [self._shard(file) for file in found]

    def hint(self, name: str) -> str:
        """Describes the other content of a folder without shards."""
        found = [paths.printable(entry) for entry in sorted(os.listdir(paths.expand(name)))[:3]]
        return f" but {', '.join(found)}; a pattern such as */*.tar goes deeper" if found else ""

    def _shard(self, path: str) -> Shard:
        found = check_file(path, self._key)
        return Shard(path, found.st_size, found.st_mtime_ns)


class _Bucket:
    """Search for shards in a bucket. A folder is listed once for any number of its names."""

    def __init__(self, pattern: str, where: str):
        self._where = where
        self._listed: dict[str, dict[str, dict]] = {}
        self._files = cloud.open_files(pattern, where)
        self._files.invalidate_cache()

    def find(self, name: str) -> list[Shard] | None:
        """Returns the shards of one name, folder or glob, as `_Disk.find`."""
        path = name.split("://", 1)[1].rstrip("/")
        try:
            if glob.has_magic(path):
                found = self._files.glob(path, detail=True)
                return [
                    self._shard(found[p]) for p in sorted(found) if found[p]["type"] == "file"
                ] or None
            entry = self._list(os.path.dirname(path)).get(path) if "/" in path else None
            if entry is not None and entry["type"] == "file":
                return [self._shard(entry)]
            below = self._list(path) if entry is not None or "/" not in path else {}
        except cloud.errors() as error:
            raise self._explain(error) from error
        if entry is None and not below:
            return None
        names = [p for p in sorted(below) if is_shard(os.path.basename(p), SUFFIX)]
        return [self._shard(below[p]) for p in names if below[p]["type"] == "file"]

    def hint(self, name: str) -> str:
        """Describes the other content of a folder without shards, as `_Disk.hint`."""
        return "; a pattern such as */*.tar goes deeper"

    def _list(self, folder: str) -> dict[str, dict]:
        if folder not in self._listed:
            try:
                entries = self._files.ls(folder, detail=True)
            except FileNotFoundError:
                entries = []
            self._listed[folder] = {entry["name"].rstrip("/"): entry for entry in entries}
        return self._listed[folder]

    def _shard(self, entry: dict) -> Shard:
        written = entry["mtime"].timestamp()
        return Shard(f"gs://{entry['name']}", entry["size"], int(written * 1000) * 10**6)

    def _explain(self, error: Exception) -> Exception:
        if cloud.is_denied(error):
            return ValueError(
                f"{self._where} cannot be read with the credentials of this machine ({error}): "
                "run `gcloud auth application-default login`, or let "
                "GOOGLE_APPLICATION_CREDENTIALS name a key file of an account that may read it"
            )
        return AwayError(f"{self._where} cannot be listed: {error}")


class Descriptor:
    """An open file, closed when the last thread that reads it releases it."""

    def __init__(self, path: str):
        self._closed = True
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._closed = False

    def __del__(self):
        if not self._closed:
            os.close(self.number)


class Reader:
    """Reads byte ranges of shards, in many threads at once; keeps a few local shards open.

    Args:
        max_open: number of local shards kept open.
    """

    def __init__(self, max_open: int = 64):
        self._max_open = max_open
        self._open: collections.OrderedDict[str, Descriptor] = collections.OrderedDict()
        self._bucket = None
        self._lock = threading.Lock()

    def __reduce__(self):
        return type(self), (self._max_open,)

    def read(self, path: str, offset: int, size: int) -> bytes:
        """Reads bytes [offset, offset + size) of a shard.

        A temporary error, such as a network timeout, is retried, up to `TRIES` tries.

        Raises:
            AwayError: the disk or bucket did not answer.
            OSError: the range cannot be read, or the shard ends before it does; the message names
                the shard and the bytes.
        """
        remote = paths.is_remote(path)
        read = self._read_remote if remote else self._read_local
        errors = cloud.errors() if remote else (OSError,)
        for wait in _waits():
            try:
                data = read(path, offset, size)
                break
            except errors as error:
                self._forget(path)
                passes = _may_pass(error)
                if wait is None or not passes:
                    kind = AwayError if passes else OSError
                    raise kind(
                        f"{path}, bytes {offset} to {offset + size}: cannot be read: {error}"
                    ) from error
                time.sleep(wait)
        if len(data) != size:
            raise OSError(
                f"{path} ends at byte {offset + len(data)}, within what should be bytes {offset} "
                f"to {offset + size}: it has changed since it was indexed"
            )
        return data

    def _read_local(self, path: str, offset: int, size: int) -> bytes:
        with self._lock:
            file = self._open.pop(path, None)
            file = Descriptor(path) if file is None else file
            self._open[path] = file
            if len(self._open) > self._max_open:
                self._open.popitem(last=False)
        return os.pread(file.number, size, offset)

    def _read_remote(self, path: str, offset: int, size: int) -> bytes:
        with self._lock:
            if self._bucket is None:
                self._bucket = cloud.open_files(path, path)
        return self._bucket.cat_file(path, start=offset, end=offset + size)

    def _forget(self, path: str) -> None:
        with self._lock:
            self._open.pop(path, None)


def _waits() -> Iterator[float | None]:
    """Yields the seconds to wait after each failed try; None after the last."""
    yield from (FIRST_WAIT * 2**n for n in range(TRIES - 1))
    yield None


def _may_pass(error: Exception) -> bool:
    code = str(getattr(error, "code", None) or "")
    final_code = code.startswith("4") and code not in ("408", "429")
    final = isinstance(error, _FINAL) or getattr(error, "errno", None) == errno.EINVAL
    return not (final or final_code or cloud.is_denied(error))
